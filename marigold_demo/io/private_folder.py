"""Folders that only this process uses, and files below a folder that are opened without following links.

Uploads and results of all visitors lie below one folder. A path of a request is taken only as it is written:
absolute, below that folder, without "..", "." or empty parts, and with no link at any step of it. So a name
that the system resolves to something else, such as /proc/self/fd/7, never leads to another visitor's file.
"""

import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

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
