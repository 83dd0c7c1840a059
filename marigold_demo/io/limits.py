"""What the readers of foreign files share: limits, refusals, one file at a time, and parts of files.

A part of a file is a file of its own to its reader: a view without what the reader cannot handle (damaged
text, a thumbnail before the picture), or with what is missing (an end marker). Nothing is copied.
"""

import bisect
import io
import itertools
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

from marigold_demo.errors import DemoError, PhotoError

MIN_SIDE_PX = 16
MAX_ASPECT = 20

# What Pillow's, NumPy's and zipfile's readers raise on damaged files; benchmarks/fuzz.py shows it.
READ_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError,
    RuntimeError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
MAX_PIXELS, MAX_JPEG_PIXELS = 100_000_000, 250_000_000  # of a photo
SAVE_AS = "save it as JPEG or PNG and try again"
_BLOCK = 2**20
_one_at_a_time = threading.Lock()

Part = bytes | tuple[int, int]  # bytes that are put in, or where a range of the file begins and ends


@contextmanager
def quiet_reading() -> Iterator[None]:
    """Read one file at a time, which bounds memory, without warnings about its odd metadata.

    The lock is needed for the second as well: `catch_warnings` is not safe in two threads at once.
    """
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def opened(path: Path | str, *, max_bytes: int, error: type[DemoError]) -> Iterator[BinaryIO]:
    """Open a file that exists, may be read, and is neither empty nor too long; at its start, seekable.

    Raises:
        DemoError: Of the kind `error`; says which of these it is.
    """
    try:
        file = Path(path).open("rb")
    except FileNotFoundError as cause:
        raise error("There is no such file; check its name and folder.") from cause
    except (OSError, ValueError) as cause:  # ValueError: a NUL inside the name
        raise error(
            "The file cannot be opened; check that it is a file, not a folder, and may be read."
        ) from cause
    with file:
        check_length(os.fstat(file.fileno()).st_size, max_bytes=max_bytes, error=error)
        yield file


def check_length(size_bytes: int, *, max_bytes: int, error: type[DemoError]) -> None:
    """Refuse a file that is empty or too long.

    Raises:
        DemoError: Of the kind `error`.
    """
    if not size_bytes:
        raise error("The file is empty; get it again from where it came.")
    if size_bytes > max_bytes:
        raise error(f"The file has {size_bytes / 1e6:.0f} MB; at most {max_bytes // 10**6} MB can be used.")


def start_of(file: BinaryIO, count: int) -> bytes:
    """Return the first `count` bytes of a seekable file and go back to its start."""
    file.seek(0)
    start = file.read(count)
    file.seek(0)
    return start


def size_problem(width: int, height: int, *, max_pixels: int) -> str | None:
    """Say what is wrong with a size in pixels, and what would work; None where nothing is."""
    size = f"{width} × {height} pixels"
    if width * height > max_pixels:
        millions = f"{width * height / 1e6:.0f} million"
        return f"{size} ({millions}) is too large; at most {max_pixels // 10**6} million pixels can be used."
    if max(width, height) > MAX_ASPECT * min(width, height):
        return f"{size} is too narrow; the long side may be at most {MAX_ASPECT} times the short one."
    if min(width, height) < MIN_SIDE_PX:
        return f"{size} is too small; at least {MIN_SIDE_PX} pixels a side are needed."
    return None


class _Spliced(io.RawIOBase):
    """A read-only file made of parts of another one."""

    def __init__(self, file: IO[bytes], parts: Sequence[Part]) -> None:
        self._file = file
        self._parts = [part for part in parts if _length(part)]
        self._ends = list(itertools.accumulate(_length(part) for part in self._parts))
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self._ends[-1] if self._ends else 0
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        index = bisect.bisect_right(self._ends, self._at)
        if index == len(self._parts):
            return 0
        part, left = self._parts[index], self._ends[index] - self._at
        count = min(left, len(buffer))
        if isinstance(part, bytes):
            data = part[len(part) - left :][:count]
        else:
            self._file.seek(part[1] - left)
            data = self._file.read(count)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def spliced(file: IO[bytes], parts: Sequence[Part]) -> BinaryIO:
    """Return the parts, one after the other, as a file that is read from `file` when it is asked for."""
    return cast(BinaryIO, io.BufferedReader(_Spliced(file, parts), 2**16))


def size_of(file: IO[bytes]) -> int:
    """Return the length of a seekable file in bytes; leaves it at its end."""
    return file.seek(0, io.SEEK_END)


def positions(file: IO[bytes], pattern: bytes, *, start: int = 0, end: int | None = None) -> Iterator[int]:
    """Yield where a short pattern begins, in a file that is read block by block."""
    at, overlap = start, len(pattern) - 1
    while end is None or at < end:
        file.seek(at)
        block = file.read(_BLOCK + overlap)
        found = block.find(pattern)
        while found >= 0:
            if end is not None and at + found >= end:
                return
            yield at + found
            found = block.find(pattern, found + 1)
        if len(block) <= _BLOCK:
            return
        at += _BLOCK


def check_size(size: tuple[int, int], *, max_pixels: int = MAX_PIXELS) -> None:
    """Refuse a picture whose width and height in pixels are out of bounds.

    Raises:
        PhotoError: They are.
    """
    problem = size_problem(*size, max_pixels=max_pixels)
    if problem:
        pixels = size[0] * size[1]
        other = f" A JPEG may have {MAX_JPEG_PIXELS // 10**6} million." if max_pixels < pixels else ""
        other = other if pixels <= MAX_JPEG_PIXELS else ""
        raise PhotoError(f"The picture cannot be used: {problem}{other}")


def unsupported(kind: str) -> PhotoError:
    """Return the refusal of a sound file of a kind that cannot be read."""
    return PhotoError(f"The file is {kind}, which is not supported as a photo; {SAVE_AS}.")


def damaged(how: str = "") -> PhotoError:
    """Return the refusal of a damaged file; `how` begins with what introduces it, such as ': '."""
    return PhotoError(f"The picture is damaged or incomplete{how}; get the file again, or {SAVE_AS}.")


def too_much_memory() -> PhotoError:
    """Return the refusal of a file that does not fit into memory."""
    return PhotoError(f"The picture takes too much memory; make it smaller, or {SAVE_AS}.")


def _length(part: Part) -> int:
    return len(part) if isinstance(part, bytes) else part[1] - part[0]
