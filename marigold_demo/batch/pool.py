"""Processes of one machine, each with all stages: on a CPU, one for each core.

A small network on two threads takes more processor time than on one, because the threads wait for each other
at every layer. So each core gets a process of one thread (docs/scaling.md has the figures). Where one network
fills the machine, a large one or one on a GPU, a single `Line` in this process does the same.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue

from marigold_demo.batch.line import Checkpoint, Emit, Line
from marigold_demo.batch.manifest import Row
from marigold_demo.batch.sources import Item
from marigold_demo.batch.stages import Job, failed
from marigold_demo.errors import DemoError, PhotoError

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
