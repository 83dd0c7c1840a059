"""The folder whose files visitors fetch: what is old goes, and what is oldest goes when room runs out.

Knows nothing of who writes into it. It is held to an age, to a number of bytes, and to bytes that stay free
on its disk. A server takes a folder of its own with `own_folder`, which also removes what servers that were
killed have left behind.
"""

import errno
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from marigold_demo.errors import DemoError

LOCK = ".lock"
MOST_BYTES = 4 * 2**30
LEAST_FREE_BYTES = 2**29
LEAST_AGE_S = 60.0  # what was just written is about to be fetched
SWEEP_EVERY_S = 30.0

_FULL = "The server's disk is full, so nothing can be saved now; try again in a few minutes."
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_held: list[FileLock] = []  # they last as long as the process, and end with it however it ends


class DiskFullError(DemoError):
    """There is no room for another file."""


@dataclass(frozen=True)
class _File:
    path: Path
    size_bytes: int
    written_s: float


class CacheFolder:
    """A folder of files that may be deleted: by age, and the oldest first when room runs out."""

    def __init__(
        self,
        root: Path,
        *,
        keep_s: float,
        most_bytes: int = MOST_BYTES,
        least_free_bytes: int = LEAST_FREE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take a folder, which is made where it is missing.

        Args:
            root: The folder.
            keep_s: Age at which a file goes.
            most_bytes: All files together take no more.
            least_free_bytes: Its disk always has so much room.
            clock: Tells the time as file systems do.
        """
        self.root, self._keep_s, self._clock = root, keep_s, clock
        self._most_bytes, self._least_free_bytes = most_bytes, least_free_bytes
        self._lasting: frozenset[Path] = frozenset()
        self._swept_s = -float("inf")
        self._one_at_a_time = threading.Lock()

    def keep_what_is_there(self) -> None:
        """Never delete the files of this moment: the page itself shows them."""
        self._lasting = frozenset(file.path for file in self._files())

    def new_folder(self) -> Path:
        """Return a new empty folder with a name nobody can guess.

        Raises:
            DiskFullError: The disk has no room, even without all that may be deleted.
        """
        self.sweep(now=self.is_tight)
        if self.is_tight:
            raise DiskFullError(_FULL)
        folder = self.root / secrets.token_urlsafe(16)
        with told_when_full():
            folder.mkdir(mode=0o700, parents=True)
        return folder

    @property
    def is_tight(self) -> bool:
        """Tell whether the disk has less room than it should."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free < self._least_free_bytes

    def sweep(self, *, now: bool = True) -> None:
        """Delete what is too old, then the oldest while there is too little room.

        Args:
            now: Otherwise only when the last time was a while ago.
        """
        if not now and self._clock() - self._swept_s < SWEEP_EVERY_S:
            return
        with self._one_at_a_time:
            self._swept_s = self._clock()
            files = sorted(self._files(), key=lambda file: file.written_s)
            used = sum(file.size_bytes for file in files)
            for file in files:
                age_s = self._swept_s - file.written_s
                crowded = used > self._most_bytes or self.is_tight
                if age_s <= self._keep_s and not (crowded and age_s > LEAST_AGE_S):
                    break  # all that follow are younger
                if file.path not in self._lasting:
                    file.path.unlink(missing_ok=True)
                    used -= file.size_bytes
            self._drop_empty_folders()

    def _files(self) -> Iterator[_File]:
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                if name == LOCK:
                    continue
                with suppress(OSError):  # somebody else was faster
                    facts = path.lstat()
                    # Of the change, not of the content: a copy carries the date of its original.
                    yield _File(path, facts.st_blocks * 512, facts.st_ctime)

    def _drop_empty_folders(self) -> None:
        for folder, _, _ in os.walk(self.root, topdown=False):
            path = Path(folder)
            with suppress(OSError):  # not empty, or gone
                if path != self.root and self._swept_s - path.lstat().st_ctime > LEAST_AGE_S:
                    path.rmdir()


@contextmanager
def told_when_full() -> Iterator[None]:
    """Say in a sentence that the disk is full, where a write in the block fails for that reason.

    Raises:
        DiskFullError: It is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise DiskFullError(_FULL) from error


def own_folder(root: Path) -> Path:
    """Return a new folder below `root` for this process alone; those of processes that ended are removed."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for other in root.iterdir():
        if (other / LOCK).is_file() and (lock := _lock(other / LOCK)) is not None:
            shutil.rmtree(other, ignore_errors=True)
            lock.release()
    folder = root / secrets.token_hex(8)
    folder.mkdir(mode=0o700)
    lock = _lock(folder / LOCK)
    if lock is not None:
        _held.append(lock)
    return folder


def is_own(folder: Path) -> bool:
    """Tell whether a folder came from `own_folder` in this process."""
    return any(Path(lock.lock_file).parent == folder for lock in _held)


def _lock(path: Path) -> FileLock | None:
    """Return the lock on a file; None where another process has it, or locks do not work here."""
    lock = FileLock(path, timeout=0, thread_local=False, is_singleton=False)
    try:
        lock.acquire()
    except (Timeout, OSError, NotImplementedError):
        return None
    return lock
