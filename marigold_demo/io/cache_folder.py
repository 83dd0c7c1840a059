"""The folder of uploads and results, limited in age, in bytes, and by the free space of its disk; safe paths.

Old files are deleted, and the oldest ones when space runs out. Uploads count while they are being received;
what does not fit is refused with a sentence.

Folders belong to this process alone, and files are opened without following links. A path of a request is
taken only as it is written: absolute, below that folder, without "..", "." or empty parts, and without a link
at any step. So a name that the system resolves to something else, such as /proc/self/fd/7, never leads to
another visitor's file.
"""

import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from filelock import FileLock, Timeout

from marigold_demo.errors import DemoError

LOCK = ".lock"
_SHARED = "marigold"  # below a folder that other programs use too
NAME_BYTES, EXTENSION_BYTES = 160, 20
_NOT_IN_NAMES = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f`$!{}]')
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe must not block, and is refused afterwards
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_locks: list[FileLock] = []  # held as long as the process lives, and released however it ends
_own: set[Path] = set()


class FolderError(DemoError):
    """A folder for uploads and results cannot be used."""


def served_folder() -> Path:
    """Return the folder of uploads and results as Gradio finds it: GRADIO_TEMP_DIR, or its default."""
    return Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir(), "gradio").resolve())


def cache_root() -> Path:
    """Return the folder whose files may be deleted: all of Gradio's, unless other programs use that too."""
    root = served_folder()
    return root if is_own(root) else root / _SHARED


def default_root() -> Path:
    """Return where `own_folder` goes by default: one place for each user of the machine."""
    return Path(tempfile.gettempdir(), f"marigold-demo-{getattr(os, 'getuid', lambda: 0)()}")


def own_folder(root: Path) -> Path:
    """Create a folder for this process alone, mode 0700, and remove those of processes that have ended.

    Args:
        root: Where it is created, under a random name; made where it is missing.

    Raises:
        FolderError: `root` is a link, belongs to another user, may be written by others, or cannot be used.
    """
    root = Path(root.parent.resolve(), root.name) if root.name else root.resolve()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(root)
        _remove_abandoned(root)
        folder = root / secrets.token_hex(16)
        lock = _lock(folder.with_name(folder.name + LOCK))  # first: a folder without one looks abandoned
        folder.mkdir(mode=0o700)
    except OSError as error:
        reason = (error.strerror or "it cannot be used").lower()
        raise FolderError(
            f"The folder {root} for uploads and results cannot be used: {reason}. "
            "Name another one with GRADIO_TEMP_DIR."
        ) from error
    if lock is not None:
        _locks.append(lock)
    _own.add(folder)
    return folder


def remove_own(folder: Path) -> None:
    """Remove a folder that came from `own_folder`, with all that is in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.with_name(folder.name + LOCK).unlink(missing_ok=True)


def is_own(folder: Path) -> bool:
    """Return whether a folder came from `own_folder` in this process."""
    return folder in _own


def _check_private(root: Path) -> None:
    """Raise FolderError unless only this user can change what is in a folder."""
    facts = root.lstat()
    user = getattr(os, "geteuid", lambda: facts.st_uid)()
    if stat.S_ISLNK(facts.st_mode):
        wrong = "is a link"
    elif facts.st_uid != user:
        wrong = "belongs to another user"
    elif facts.st_mode & _WRITABLE_BY_OTHERS:
        wrong = "may be written by other users"
    else:
        return
    raise FolderError(
        f"The folder {root} for uploads and results {wrong}, so they would not be private there. "
        "Name another one with GRADIO_TEMP_DIR."
    )


def _remove_abandoned(root: Path) -> None:
    """Remove the folders below `root` whose processes have ended, which is when their lock can be had."""
    for found in sorted(root.iterdir()):
        is_lock = found.name.endswith(LOCK)
        if not is_lock and not stat.S_ISDIR(_mode(found)):
            continue
        file = found if is_lock else found / LOCK  # inside the folder: that of an earlier version
        if not stat.S_ISREG(_mode(file)) or (lock := _lock(file)) is None:
            continue
        shutil.rmtree(root / found.name.removesuffix(LOCK), ignore_errors=True)  # follows no links
        with suppress(OSError):
            file.unlink()
        lock.release()


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _lock(path: Path) -> FileLock | None:
    """Return the lock on a file; None where another process has it, or locks do not work here."""
    lock = FileLock(path, timeout=0, thread_local=False, is_singleton=False)
    try:
        lock.acquire()
    except (Timeout, OSError, NotImplementedError):
        return None
    return lock


class FileRoot:
    """A folder, and the files below it by their paths as they are written."""

    def __init__(self, folder: Path) -> None:
        """Take a folder; paths may name it as given, or with the links on the way to it resolved."""
        self.folder = Path(os.path.realpath(folder))
        self._prefixes = tuple({f"{self.folder}/", f"{os.path.abspath(folder)}/"})

    def open(self, path: str) -> int:
        """Open a regular file for reading and return its descriptor, which the caller closes.

        Raises:
            OSError: The path is not plainly written, there is a link in it, or there is no such file.
        """
        *folders, name = self._parts(path)
        with opened_folder(self.folder, folders) as above:
            file = os.open(name, _FILE, dir_fd=above)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise FileNotFoundError
        return file

    def has(self, path: str) -> bool:
        """Return whether a path, as it is written, is that of a regular file with no link on the way."""
        try:
            *folders, name = self._parts(path)
            with opened_folder(self.folder, folders) as above:
                return stat.S_ISREG(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode)
        except OSError:
            return False

    def _parts(self, path: str) -> list[str]:
        prefix = next((prefix for prefix in self._prefixes if path.startswith(prefix)), None)
        parts = path.removeprefix(prefix or "").split("/")
        if prefix is None or not {"", ".", ".."}.isdisjoint(parts) or "\0" in path:
            raise FileNotFoundError
        try:
            os.fsencode(path)
        except UnicodeEncodeError as error:  # half of a surrogate pair
            raise FileNotFoundError from error
        return parts


@contextmanager
def opened_folder(root: Path, parts: Sequence[str]) -> Iterator[int]:
    """Open the folder at `parts` below `root`, one after the other, and give its descriptor.

    Raises:
        OSError: One of them is no folder, or is a link.
    """
    handle = os.open(root, _FOLDER)
    try:
        for part in parts:
            inner = os.open(part, _FOLDER, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


@dataclass(frozen=True)
class FoundFile:
    """A file or link: its path below a folder, the bytes it takes, and when it was last changed."""

    parts: tuple[str, ...]
    size_bytes: int
    changed_s: float  # of the name too, not of the content alone: a copy carries the date of its original


def find_files(root: Path, *, but: frozenset[str] = frozenset()) -> list[FoundFile]:
    """Return all files below a folder, except those in the folders `but` that lie directly in it."""
    with opened_folder(root, ()) as handle:
        return list(_files_in(handle, (), but))


def delete_file(root: Path, parts: Sequence[str]) -> None:
    """Delete the file or link at `parts` below a folder, if it is there."""
    *folders, name = parts
    with suppress(OSError), opened_folder(root, folders) as above:
        os.unlink(name, dir_fd=above)


def drop_empty_folders(root: Path, *, before_s: float) -> None:
    """Remove the empty folders below `root` that were last changed before a time."""
    with opened_folder(root, ()) as handle:
        _drop_empty_in(handle, before_s)


def _files_in(handle: int, parts: tuple[str, ...], but: frozenset[str]) -> Iterator[FoundFile]:
    with os.scandir(handle) as entries:
        for entry in entries:
            with suppress(OSError):  # somebody else was faster
                if not entry.is_dir(follow_symlinks=False):
                    facts = entry.stat(follow_symlinks=False)
                    yield FoundFile((*parts, entry.name), facts.st_blocks * 512, facts.st_ctime)
                elif parts or entry.name not in but:
                    with _opened(entry.name, handle) as inner:
                        yield from _files_in(inner, (*parts, entry.name), but)


def _drop_empty_in(handle: int, before_s: float) -> None:
    with os.scandir(handle) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in names:
        with suppress(OSError):  # not empty, or gone
            with _opened(name, handle) as inner:
                changed_s = os.fstat(inner).st_ctime
                _drop_empty_in(inner, before_s)
            if changed_s < before_s:
                os.rmdir(name, dir_fd=handle)


@contextmanager
def _opened(name: str, above: int) -> Iterator[int]:
    handle = os.open(name, _FOLDER, dir_fd=above)
    try:
        yield handle
    finally:
        os.close(handle)


def safe_name(name: str) -> str:
    """Return the file name to store an upload under: its last part, without what means something in paths."""
    last = _NOT_IN_NAMES.sub("", re.split(r"[/\\]", name)[-1]).rstrip(" .")
    stem, extension = os.path.splitext(last)
    return (_cut(stem, NAME_BYTES) or "file") + _cut(extension, EXTENSION_BYTES)


def _cut(text: str, most_bytes: int) -> str:
    return text.encode()[:most_bytes].decode(errors="ignore")


def paths_in(value: object) -> Iterator[str]:
    """Yield the paths that a message of a client names, at any depth: `{"path": …}`, as Gradio has them."""
    todo = [value]
    while todo:
        found = todo.pop()
        if isinstance(found, dict):
            if isinstance(found.get("path"), str):
                yield found["path"]
            todo += found.values()
        elif isinstance(found, list | tuple):
            todo += found


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
