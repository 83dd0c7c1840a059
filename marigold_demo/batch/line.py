"""All stages in one process: reading, networks and writing overlap, in threads of their own."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from marigold_demo.batch.manifest import Row
from marigold_demo.batch.sources import Item
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
