"""All stages on one machine: in threads of one process, or in processes of one thread.

A `Line` takes files through reading, networks and writing in one process, each in threads of its own. A
`Pool` has one process for each core, each with a `Line`: a small network on two threads takes more processor
time than on one, because the threads wait for each other at every layer (docs/scaling.md has the figures).
"""

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from marigold_demo.batch.manifest import Item, Row
from marigold_demo.batch.stages import Job, Loaded, OutputError, Predicted, failed, predict, read, write
from marigold_demo.depth import CancelledError, DepthMap, Progress, Run
from marigold_demo.errors import DemoError, DepthFileError, PhotoError, SettingsError
from marigold_demo.io.isolated import Limits, use
from marigold_demo.io.photo import Photo
from marigold_demo.settings import DepthSettings
from marigold_demo.workflow import Predictor

BATCH = 4  # photos that go through a network together; more gain nothing (docs/scaling.md)
HELD_PIXELS = 48_000_000  # of photos between reading and writing, in one process
LEAST_PIXELS = 3_000_000  # that a photo counts for
DECODING_S = 60.0
_BAD_FILE = (PhotoError, DepthFileError, SettingsError)  # other errors are not of one file
_log = logging.getLogger(__name__)

Emit = Callable[[Row | Progress], None]


class Networks(Protocol):
    """What predicts."""

    def key(self, photo: Photo, /) -> Hashable | None:
        """Return what photos share that can go together; None: this one goes alone."""
        ...

    def __call__(self, photos: Sequence[Photo], /) -> list[DepthMap]:
        """Return the depth of photos with one key."""
        ...


class Checkpoint:
    """The networks that settings name; torch is imported with the first photo."""

    def __init__(self, settings: DepthSettings, run: Run) -> None:
        self._settings, self._run = settings, run

    def key(self, photo: Photo) -> Hashable | None:
        """Return the sizes at which the network sees a photo, where several go together."""
        from marigold_demo.network.checkpoint import batch_key

        return batch_key(photo.size, self._settings, self._run)

    def __call__(self, photos: Sequence[Photo]) -> list[DepthMap]:
        """Return the depth of photos with one key."""
        from marigold_demo.network.checkpoint import predict_batch

        return predict_batch(photos, self._settings, self._run)


class OneByOne:
    """A predictor of single photos."""

    def __init__(self, predictor: Predictor, settings: DepthSettings, run: Run) -> None:
        self._predictor, self._settings, self._run = predictor, settings, run

    def key(self, photo: Photo) -> None:
        """Let each photo go alone."""

    def __call__(self, photos: Sequence[Photo]) -> list[DepthMap]:
        """Return the depth of each photo."""
        return [self._predictor(photo, self._settings, self._run) for photo in photos]


class _Budget:
    """Limits the pixels between reading and writing; one photo always passes."""

    def __init__(self, most: int) -> None:
        self._most, self._used, self._stopped = most, 0, False
        self._changed = threading.Condition()

    def take(self, pixels: int) -> bool:
        """Wait for room; False when the work has been stopped meanwhile."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or not self._used or self._used + pixels <= self._most
            )
            self._used += pixels
            return not self._stopped

    def give_back(self, pixels: int) -> None:
        """Make room again."""
        with self._changed:
            self._used -= pixels
            self._changed.notify_all()

    def stop(self) -> None:
        """Let everybody go who waits."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class Line:
    """Takes files through all stages in this process; reading and writing have threads of their own."""

    def __init__(
        self,
        job: Job,
        out: Path,
        *,
        networks: Callable[[Run], Networks],
        emit: Emit,
        threads: int = 1,
    ) -> None:
        """Take what is to be done.

        Args:
            job: What is made of each file.
            out: The output folder.
            networks: What predicts, made with a run that reports and may be canceled.
            emit: Is given the row of each file when its results are there, and progress before the first
                photo; calls come one at a time, from different threads.
            threads: How many read and how many write.
        """
        self._job, self._out, self._threads = job, out, threads
        self._emit, self._emitting = emit, threading.Lock()
        self._run = Run(lambda progress: self._report(progress) if progress.stage == "download" else None)
        self._networks = networks(self._run)
        self._budget = _Budget(HELD_PIXELS)
        self._loaded: SimpleQueue[Loaded | None] = SimpleQueue()
        self._taking = threading.Lock()
        self._fatal: list[Exception] = []

    def work(self, items: Iterable[Item]) -> None:
        """Work on all items.

        Raises:
            DemoError: No file can be done: the checkpoint or the output folder cannot be used.
        """
        use(Limits(processes=self._threads, seconds=DECODING_S))
        iterator = iter(items)
        readers = [
            threading.Thread(target=self._read_all, args=(iterator,), name="reader", daemon=True)
            for _ in range(self._threads)
        ]
        for reader in readers:
            reader.start()
        try:
            with ThreadPoolExecutor(self._threads, thread_name_prefix="writer") as writers:
                pending: deque[Future[None]] = deque()
                for group in self._groups(len(readers)):
                    for predicted in self._predicted(group):
                        pending.append(writers.submit(self._write, predicted))
                    while pending and pending[0].done():
                        pending.popleft().result()
                    if self._fatal or self._run.cancelled:
                        break
                for future in pending:
                    future.result()
        finally:
            self.stop()
        if self._fatal:
            raise self._fatal[0]

    def stop(self) -> None:
        """Begin nothing new."""
        self._run.cancelled = True
        self._budget.stop()

    def _report(self, thing: Row | Progress) -> None:
        try:
            with self._emitting:
                self._emit(thing)
        except DemoError as error:  # it cannot be recorded
            self._fatal.append(error)
            self.stop()

    def _read_all(self, items: Iterator[Item]) -> None:
        try:
            while not self._run.cancelled:
                with self._taking:
                    item = next(items, None)
                if item is None:
                    break
                with self._excused(item):
                    loaded = read(item, self._job)
                    if self._budget.take(_cost(loaded)):
                        self._loaded.put(loaded)
                    del loaded
        finally:
            self._loaded.put(None)

    def _groups(self, readers: int) -> Iterator[list[Loaded]]:
        """Yield files that go together, without waiting for more while there are some."""
        held: dict[Hashable, list[Loaded]] = {}
        while readers or held:
            with suppress(Empty):
                loaded = self._loaded.get(block=not held) if readers else None
                if loaded is None:
                    readers = max(readers - 1, 0)
                    if readers or not held:
                        continue
                else:
                    yield from self._grouped(loaded, held)
                    continue
            yield held.pop(max(held, key=lambda key: len(held[key])))

    def _grouped(self, loaded: Loaded, held: dict[Hashable, list[Loaded]]) -> Iterator[list[Loaded]]:
        key = None
        if isinstance(loaded.thing, Photo) and loaded.needs_network(self._job):
            key = self._networks.key(loaded.thing)
        if key is None:
            yield [loaded]
            return
        group = held.setdefault(key, [])
        group.append(loaded)
        if len(group) == BATCH:
            yield held.pop(key)

    def _predicted(self, group: list[Loaded]) -> list[Predicted]:
        """Return a group with its depth; where one spoils it, each goes alone."""
        if len(group) == 1:
            with self._excused(group[0].item, give_back=_cost(group[0])):
                return predict(group, self._job, self._networks)
            return []
        try:
            return predict(group, self._job, self._networks)
        except Exception as error:
            if isinstance(error, DemoError) and not isinstance(error, _BAD_FILE):
                raise
        return [predicted for loaded in group for predicted in self._predicted([loaded])]

    def _write(self, predicted: Predicted) -> None:
        loaded = predicted.loaded
        with self._excused(loaded.item):
            self._report(write(predicted, self._job, self._out))
        self._budget.give_back(_cost(loaded))

    @contextmanager
    def _excused(self, item: Item, *, give_back: int = 0) -> Iterator[None]:
        """Turn an error into the row of a file that failed, or keep it where no file can be done."""
        try:
            yield
            return
        except CancelledError:
            pass
        except OutputError as error:
            self._fatal.append(error)
        except _BAD_FILE as error:
            self._report(failed(item, self._job, error))
        except DemoError as error:
            self._fatal.append(error)
        except Exception as error:  # a bug; the other files are done all the same
            _log.exception("a file could not be done")
            sentence = f"This program failed on it ({type(error).__name__}: {error}); please report that."
            self._report(failed(item, self._job, PhotoError(sentence)))
        if self._fatal:
            self.stop()
        if give_back:
            self._budget.give_back(give_back)


def _cost(loaded: Loaded) -> int:
    return max(loaded.pixels, LEAST_PIXELS)


MOST_OUTSTANDING = 12  # files that a process has been given and not finished
MOST_DEATHS = 4  # of processes, without a file done in between
ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
_PDEATHSIG = 1  # linux/prctl.h


class Pool:
    """Processes of one thread, each with a `Line` of its own; one that ends early is replaced."""

    def __init__(self, job: Job, out: Path, *, processes: int, emit: Emit) -> None:
        """Take what is to be done.

        Args:
            job: What is made of each file.
            out: The output folder.
            processes: How many.
            emit: As for `Line`; calls come from one thread.
        """
        self._job, self._out, self._emit = job, out, emit
        self._processes, self._deaths = processes, 0
        self._workers: list[_Worker] = []
        self._stopped = False

    def work(self, items: Iterable[Item]) -> None:
        """Work on all items.

        Raises:
            DemoError: As `Line.work`, or processes end again and again.
        """
        todo = deque(items)
        again: set[str] = set()
        try:
            self._workers = [
                self._start(first=number == 0) for number in range(min(self._processes, len(todo)))
            ]
            while not self._stopped and (todo or any(worker.outstanding for worker in self._workers)):
                for worker in self._workers:
                    self._feed(worker, todo)
                self._listen(todo, again)
        finally:
            for worker in self._workers:
                worker.end()

    def stop(self) -> None:
        """Begin nothing new, and give up what was begun."""
        self._stopped = True

    def _start(self, *, first: bool) -> "_Worker":
        return _Worker(self._job, self._out, first=first)

    def _feed(self, worker: "_Worker", todo: deque[Item]) -> None:
        """Give a process files, fewer towards the end, so that all end at about the same time."""
        share = min(MOST_OUTSTANDING, max(1, len(todo) // len(self._workers)))
        while todo and not self._stopped and len(worker.outstanding) < share:
            item = todo.popleft()
            worker.outstanding[item.key] = item
            worker.send(item)

    def _listen(self, todo: deque[Item], again: set[str]) -> None:
        """Take what the processes say; what one that died was given is done by others, once."""
        ready = wait([worker.connection for worker in self._workers], timeout=60)
        for worker in [worker for worker in self._workers if worker.connection in ready]:
            try:
                said = worker.connection.recv()
            except (EOFError, OSError):
                self._workers.remove(worker)
                self._bury(worker, todo, again)
                continue
            if isinstance(said, Exception):
                raise said
            if isinstance(said, Row):
                worker.outstanding.pop(said.source, None)
                self._deaths = 0
            self._emit(said)

    def _bury(self, worker: "_Worker", todo: deque[Item], again: set[str]) -> None:
        worker.end()
        lost = list(worker.outstanding.values())
        if worker.is_surplus:
            todo.extendleft(reversed(lost))
            return
        self._deaths += 1
        if self._deaths == MOST_DEATHS:
            raise DemoError(f"Processes end again and again ({worker.reason}); what is done is complete.")
        for item in lost:
            if item.key in again:
                error = PhotoError(f"The process that worked on it ended twice ({worker.reason}).")
                self._emit(failed(item, self._job, error))
            else:
                again.add(item.key)
                todo.append(item)
        self._workers.append(self._start(first=True))


class _Worker:
    """A process and the files it has been given."""

    def __init__(self, job: Job, out: Path, *, first: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.outstanding: dict[str, Item] = {}
        self._process = context.Process(target=_serve, args=(other, job, out, first), daemon=True)
        with _environment(ONE_THREAD):
            self._process.start()
        other.close()

    @property
    def is_surplus(self) -> bool:
        """Whether it ended because one process is enough."""
        return self._process.exitcode == 0

    @property
    def reason(self) -> str:
        """How it ended."""
        code = self._process.exitcode or 0
        return f"signal {-code}; is there too little memory?" if code < 0 else f"exit status {code}"

    def send(self, thing: Item) -> None:
        """Give it a file; that it has ended is noticed elsewhere."""
        with suppress(OSError):
            self.connection.send(thing)

    def end(self) -> None:
        """End it."""
        self.connection.close()
        self._process.terminate()
        self._process.join()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _serve(connection: Connection, job: Job, out: Path, first: bool) -> None:
    """Work on what comes through the connection until it is closed: the life of a process of the pool."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if not first and not _may_help(job):
        return
    items: SimpleQueue[Item] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, items), daemon=True).start()
    try:
        Line(job, out, networks=partial(Checkpoint, job.depth), emit=connection.send).work(
            iter(items.get, None)
        )
    except DemoError as error:
        connection.send(error)
        threading.Event().wait()  # until this process is ended


def _may_help(job: Job) -> bool:
    """Return whether a second process is of use: not where all would share one GPU."""
    if job.from_phone or job.is_depth:
        return True
    from marigold_demo.network.checkpoint import best_device

    return best_device() == "cpu"


def _receive(connection: Connection, items: SimpleQueue[Item]) -> None:
    while True:
        try:
            items.put(connection.recv())
        except (EOFError, OSError):
            os._exit(1)  # whoever wanted the results is gone
