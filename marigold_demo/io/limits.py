"""What the readers of visitors' files share: limits, first bytes, one file at a time. Knows no format."""

import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from marigold_demo.errors import DemoError

MIN_SIDE_PX = 16
MAX_ASPECT = 20

# What Pillow's, NumPy's and zipfile's readers raise on damaged files; benchmarks/fuzz.py shows it.
DAMAGED = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError,
    RuntimeError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
_one_at_a_time = threading.Lock()


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
