"""Files that a command reads and writes.

Photos, depth files and recipes come by path, through a pipe or on standard input; errors and notes get the
name of the file. Results go into one folder, under names that do not collide.
"""

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marigold_demo.cli.terminal import print_err, print_out
from marigold_demo.errors import DemoError, DepthFileError, PhotoError, SettingsError
from marigold_demo.io import depth_file, export, photo
from marigold_demo.io.isolated import DepthInput, Limits, load_recipe, photo_from, photo_or_depth_from, use
from marigold_demo.io.photo import Photo
from marigold_demo.recipe import MOST_BYTES, Recipe

DECODING = Limits(processes=1, seconds=60)  # nobody else waits
STDIN = Path("-")
_DESCRIPTORS = ("/dev/fd", "/dev/stdin", "/proc")  # what lies there is another file to another process
_CHUNK = 2**20


def read_photo(path: Path, *, if_depth: str | None = None) -> Photo:
    """Read a photo and print its notes; `if_depth` says what to do where it may be depth.

    Raises:
        PhotoError: It cannot be used; begins with its name.
    """
    with named(path), _as_file(path, max_bytes=photo.MAX_BYTES, error=PhotoError) as file:
        read = photo_from(file, if_depth=if_depth)
        _print_notes(path, read.notes)
        return read


def read_photo_or_depth(path: Path, *, is_depth: bool, options: dict[str, Any]) -> Photo | DepthInput:
    """Read a file as what its content says it is, and print its notes.

    Args:
        path: The file.
        is_depth: It is depth, even where its content might be that of a photo.
        options: Of `read_depth_file`.

    Raises:
        DemoError: It cannot be used; begins with its name.
    """
    with named(path), _as_file(path, max_bytes=depth_file.MAX_BYTES, error=PhotoError) as file:
        read = photo_or_depth_from(file, is_depth=is_depth, options=options)
        _print_notes(path, read.notes)
        return read


def read_recipe(path: Path | None) -> Recipe:
    """Return the recipe in a file; without one, what is here.

    Raises:
        SettingsError: There is none, or not one for this version; begins with the name.
    """
    if path is None:
        return Recipe()
    with named(path), _as_file(path, max_bytes=MOST_BYTES, error=SettingsError) as file:
        return load_recipe(file)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Put the name of a file before an error about it."""
    try:
        yield
    except (PhotoError, DepthFileError, SettingsError) as error:
        raise type(error)(f"{_name(path)}: {error}") from error


@contextmanager
def _as_file(path: Path, *, max_bytes: int, error: Callable[[str], DemoError]) -> Iterator[Path]:
    """Yield a file that can be read from its start, twice, and by another process.

    That is the path itself, or a copy of what a pipe, a device or standard input gives.

    Raises:
        DemoError: Of the kind `error`; it cannot be read, is a terminal, or gives too much.
    """
    use(DECODING)
    if is_plain(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="marigold-demo-") as folder:
        nameless = path == STDIN or _is_descriptor(path)
        copy = Path(folder) / ("photo" if nameless else path.name)
        try:
            _copy(path, copy, max_bytes=max_bytes, error=error)
        except OSError as cause:
            raise error(f"It cannot be copied to a temporary file ({cause.strerror}).") from cause
        yield copy


def _copy(path: Path, copy: Path, *, max_bytes: int, error: Callable[[str], DemoError]) -> None:
    opened = open(0, "rb", closefd=False) if path == STDIN else path.open("rb")
    with opened as pipe, copy.open("wb") as file:
        if pipe.isatty():
            raise error("This is a terminal; name a file, or send one through a pipe.")
        while part := pipe.read(_CHUNK):
            file.write(part)
            if file.tell() > max_bytes:
                raise error(f"It gives more than {max_bytes // 10**6} MB, which is too much.")


def is_plain(path: Path) -> bool:
    """Return whether readers take the path as it is, if only to report what is wrong with it."""
    if path == STDIN:
        return False
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return True
    return stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and not _is_descriptor(path))


def _is_descriptor(path: Path) -> bool:
    return any(Path(os.path.abspath(path)).is_relative_to(place) for place in _DESCRIPTORS)


def _print_notes(path: Path, notes: tuple[str, ...]) -> None:
    for note in notes:
        print_err(f"{_name(path)}: {note}")


def _name(path: Path) -> str:
    return "standard input" if path == STDIN else str(path)


@dataclass
class OutputFolder:
    """A folder that gets files under names that do not collide, and prints their paths to stdout."""

    folder: Path
    _taken: set[str] = field(default_factory=set)
    _reported: bool = False

    def __post_init__(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = f"{self.folder} cannot be made or used ({error.strerror})"
            raise SettingsError(f"{problem}; name another folder.") from error

    def free_stem(self, stem: str) -> str:
        """Return the stem, with a number where this run has used it already; upper case does not count."""
        count, free = 1, stem
        while free.casefold() in self._taken:
            count += 1
            free = f"{stem}_{count}"
        self._taken.add(free.casefold())
        return free

    def put(self, name: str, data: bytes) -> None:
        """Write one file whole and print its path; the first one that replaces another file is named.

        Raises:
            SettingsError: The folder cannot be written to, or the disk is full.
        """
        replaces = self._holds_another(name, data)
        try:
            path = export.save(self.folder, name, data)
        except OSError as error:
            problem = f"{self.folder / name} cannot be written ({error.strerror})"
            raise SettingsError(f"{problem}; make room or name another folder.") from error
        print_out(path)
        if replaces and not self._reported:
            self._reported = True
            print_err(
                f"{path} was there with other content and is replaced, as are others of the same names."
            )

    def _holds_another(self, name: str, data: bytes) -> bool:
        """Return whether the folder has a file of this name with other bytes."""
        path = self.folder / name
        try:
            return path.is_file() and (path.stat().st_size != len(data) or path.read_bytes() != data)
        except OSError:  # it may not be read
            return True
