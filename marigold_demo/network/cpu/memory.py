"""The C library's allocator: memory that a prediction frees and takes again stays with the process.

glibc hands large blocks back to the system as soon as they are free, and what is taken anew comes page by
page, filled with zeros (mallopt(3)). The activations of a VAE are such blocks: in 16 bits a tenth of a
prediction's time went into it (measured). Other C libraries are left alone. No torch is imported here.
"""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# From malloc.h, and what glibc's own thresholds, which grow with the blocks that are freed, come to at last.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8
DEFAULTS = {MMAP_MAX: 65536, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26}
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: -1}
RETURNED_BYTES = DEFAULTS[TRIM_THRESHOLD]  # from here on free memory goes back to the system

_lock = threading.Lock()
_keeping = 0


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory meanwhile, and hand it back at the end of the last one that does so."""
    global _keeping
    with _lock:
        _keeping += 1
        _set(KEPT)
    try:
        yield
    finally:
        with _lock:
            _keeping -= 1
            if _keeping == 0:
                _set(DEFAULTS)
                if (library := _glibc()) is not None:
                    library.malloc_trim(0)


def share_one_arena() -> None:
    """Let all threads allocate from the main thread's arena; to be called before there are any.

    Arenas of other threads cannot keep blocks of more than 64 MB, and each holds free memory of its own. A
    thread that begins may get an arena that another one has left, whatever has been set by then.
    """
    _set({ARENA_MAX: 1})


def _set(options: dict[int, int]) -> None:
    library = _glibc()
    if library is not None:
        for option, value in options.items():
            library.mallopt(option, value)


def _glibc() -> Any:
    """Return the C library of this process, None where it is another than glibc."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such thing
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None
