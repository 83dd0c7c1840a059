"""The folder of uploads and results, limited in age, in bytes, and by the free space of its disk.

Old files are deleted, and the oldest ones when space runs out. Uploads count while they are being received;
what does not fit is refused with a sentence. No link is followed.
"""

import errno
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from marigold_demo.errors import DemoError
from marigold_demo.io.private_folder import (
    FoundFile,
    delete_file,
    drop_empty_folders,
    find_files,
)

MOST_BYTES = 4 * 2**30
MOST_FILES = 50_000  # each counts for at least its share of the bytes
LEAST_FREE_BYTES = 2**29
LEAST_AGE_S = 60.0  # what was just written is about to be fetched
WAIT_S = 3.0  # for uploads that began later, which are refused where they do not all fit
SCAN_EVERY_S, SCAN_SHARE = 1.0, 0.05  # files are counted at most so often, and in this share of the time
SPARE_SHARE = 1 / 16  # of all bytes: what is made free beyond what is needed, or every file would be counted

_FULL = "The server's disk is full, so nothing can be saved now; try again in a few minutes."
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFullError(DemoError):
    """There is no room for another file."""


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
            most_bytes: All files together take no more, those included that are being received.
            least_free_bytes: Its disk always has so much room.
            clock: Returns the time as file systems have it.
        """
        self.root, self._keep_s, self._clock = root, keep_s, clock
        self._most_bytes, self._least_free_bytes = most_bytes, least_free_bytes
        self._lasting: frozenset[tuple[str, ...]] = frozenset()
        self._making_room, self._sweeping, self._counting = (threading.Lock() for _ in range(3))
        self._used_bytes = 0  # when files were last counted, and of uploads that ended since
        self._ended_bytes = 0  # of uploads that ended while files are counted
        self._receiving: dict[str, int] = {}  # bytes by the folder of an upload that is under way
        self._scanned_s, self._scan_took_s, self._full_s = -float("inf"), 0.0, -float("inf")

    def keep_what_is_there(self) -> None:
        """Never delete the files of this moment: the page itself shows them."""
        self._lasting = frozenset(file.parts for file in self._files())

    @property
    def used_bytes(self) -> int:
        """Bytes of all files when they were last counted, of uploads since, and of those under way."""
        with self._counting:
            return self._used_bytes + sum(map(self._charge, self._receiving.values()))

    def new_folder(self) -> Path:
        """Return a new empty folder with a name nobody can guess.

        Raises:
            DiskFullError: There is no room, even without all that may be deleted.
        """
        self.sweep(now=False)
        self.make_room(0)
        folder = self.root / secrets.token_urlsafe(16)
        with disk_full_errors():
            folder.mkdir(mode=0o700, parents=True)
        return folder

    def make_room(self, size_bytes: int) -> None:
        """Delete the oldest files until so many more bytes fit.

        Raises:
            DiskFullError: They do not, because all that is left is younger than a minute.
        """
        if self._fits(size_bytes):
            return
        with self._making_room:  # one at a time: what the one before has deleted may be enough
            if self._fits(size_bytes):
                return
            if abs(self._clock() - self._full_s) > self._pause_s:  # else it would be in vain again
                self.sweep(room_bytes=size_bytes + round(self._most_bytes * SPARE_SHARE))
                if self._fits(size_bytes):
                    return
                self._full_s = self._clock()
        raise DiskFullError(_FULL)

    def receive(self, size_bytes: int) -> "Upload":
        """Begin to receive files of so many bytes together; what has come counts from its first byte.

        Raises:
            DiskFullError: They do not fit.
        """
        self.make_room(size_bytes)
        return Upload(self)

    def sweep(self, *, now: bool = True, room_bytes: int = 0) -> None:
        """Delete what is too old, then the oldest while there is too little room.

        Args:
            now: Otherwise only where the last time is a while ago.
            room_bytes: So many more bytes are to fit.
        """
        with self._sweeping:
            if not now and abs(self._clock() - self._scanned_s) <= self._pause_s:
                return
            began_s, self._scanned_s = time.monotonic(), self._clock()
            for file in self._counted():
                age_s = self._scanned_s - file.changed_s
                spare = age_s > LEAST_AGE_S and not self._fits(room_bytes)
                if age_s <= self._keep_s and not spare:
                    break  # all that follow are younger
                if file.parts not in self._lasting:
                    delete_file(self.root, file.parts)
                    with self._counting:
                        self._used_bytes -= self._charge(file.size_bytes)
            drop_empty_folders(self.root, before_s=self._scanned_s - LEAST_AGE_S)
            self._scan_took_s = time.monotonic() - began_s

    @property
    def _pause_s(self) -> float:
        return max(SCAN_EVERY_S, self._scan_took_s / SCAN_SHARE)

    def _counted(self) -> list[FoundFile]:
        """Count all files anew; return them, the oldest first."""
        with self._counting:
            self._ended_bytes, receiving = 0, frozenset(self._receiving)
        files = self._files(but=receiving)
        counted_bytes = sum(self._charge(file.size_bytes) for file in files)
        with self._counting:
            self._used_bytes = counted_bytes + self._ended_bytes
        return sorted(files, key=lambda file: file.changed_s)

    def _files(self, *, but: frozenset[str] = frozenset()) -> list[FoundFile]:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return find_files(self.root, but=but)

    def _charge(self, size_bytes: int) -> int:
        return max(size_bytes, self._most_bytes // MOST_FILES)

    def _fits(self, size_bytes: int) -> bool:
        return self.used_bytes + size_bytes <= self._most_bytes and self._has_free(size_bytes)

    def _has_free(self, size_bytes: int) -> bool:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return shutil.disk_usage(self.root).free >= self._least_free_bytes + size_bytes

    # What is under way, for `Upload`.

    def begin(self, folder: Path) -> None:
        """Count a folder as one that is being received into."""
        with self._counting:
            self._receiving[folder.name] = 0

    def grow(self, folder: Path, size_bytes: int) -> None:
        """Count bytes that are about to be written into such a folder.

        Where many uploads come at once that do not fit together, the one that began first goes on.

        Raises:
            DiskFullError: They do not fit.
        """
        with self._counting:  # first, so that many at once do not exceed the bound together
            self._receiving[folder.name] += size_bytes
            is_first = next(iter(self._receiving)) == folder.name
        until_s = time.monotonic() + (WAIT_S if is_first else 0)
        while True:
            try:
                return self.make_room(0)
            except DiskFullError:
                if time.monotonic() >= until_s:
                    raise
            time.sleep(WAIT_S / 100)

    def end(self, folder: Path, *, kept: bool) -> None:
        """Count a folder like all others from now on, or not at all."""
        with self._counting:
            size_bytes = self._receiving.pop(folder.name, 0)
            if kept:
                self._used_bytes += self._charge(size_bytes)
                self._ended_bytes += self._charge(size_bytes)


class Upload:
    """Files that are being received: all of them are kept at the end, or none is left."""

    def __init__(self, cache: CacheFolder) -> None:
        self._cache, self._paths = cache, list[Path]()
        self._file: BinaryIO | None = None
        self._is_over, self._one_at_a_time = False, threading.Lock()

    def __enter__(self) -> "Upload":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(kept=False)

    def begin(self, name: str) -> None:
        """Begin another file, in a folder of its own whose name nobody can guess.

        Raises:
            DiskFullError: There is no room for it.
        """
        with self._one_at_a_time, disk_full_errors():
            self._close()
            folder = self._cache.root / secrets.token_urlsafe(16)
            self._paths.append(folder / name)
            self._cache.begin(folder)
            folder.mkdir(mode=0o700)
            self._file = (folder / name).open("xb")

    def write(self, data: bytes) -> None:
        """Append to the file that was begun last.

        Raises:
            DiskFullError: There is no room for it.
        """
        with self._one_at_a_time, disk_full_errors():
            if self._file is not None:
                self._cache.grow(self._paths[-1].parent, len(data))
                self._file.write(data)

    def keep(self) -> list[Path]:
        """Keep all files and return their paths.

        Raises:
            DiskFullError: There was no room for the last bytes.
        """
        with self._one_at_a_time, disk_full_errors():
            self._close()
        self._end(kept=True)
        return self._paths

    def _end(self, *, kept: bool) -> None:
        with self._one_at_a_time:
            if self._is_over:
                return
            self._is_over = True
            with suppress(OSError):
                self._close()
            for path in self._paths:
                if not kept:
                    shutil.rmtree(path.parent, ignore_errors=True)
                self._cache.end(path.parent, kept=kept)

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


@contextmanager
def disk_full_errors() -> Iterator[None]:
    """Turn a write error in the block into a sentence where the disk is full.

    Raises:
        DiskFullError: It is.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise DiskFullError(_FULL) from error
