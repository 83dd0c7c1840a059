"""The decorator for compiled loops: no interpreter lock, cached on disk.

Numba renews a cached function when its own file changes, not when a function that it calls changes in another
file. So the name under which a loop is cached carries a digest of all files with compiled loops.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from numba import njit

FAST = {"contract", "arcp", "nsz", "reassoc"}  # not nnan, ninf: rays along an axis divide by zero

Function = TypeVar("Function", bound=Callable[..., object])


@lru_cache(maxsize=1)
def source_digest() -> str:
    """Return a digest of the package's files that hold compiled loops."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        source = path.read_bytes()
        if b"@compiled" in source or b"@inlined" in source:
            digest.update(source)
    return digest.hexdigest()[:12]


def compiled(function: Function) -> Function:
    """Compile the function on its first call, and cache it where a folder can be written."""
    return _compile(function, inline=False)


def inlined(function: Function) -> Function:
    """Compile the function into its callers: for short ones that are called per pixel."""
    return _compile(function, inline=True)


def _compile(function: Function, *, inline: bool) -> Function:
    function.__qualname__ = f"{function.__qualname__}_{source_digest()}"
    options = {"nogil": True, "error_model": "numpy", "fastmath": FAST, "forceinline": inline}
    try:
        return njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # numba: no locator available for this file
        return njit(**options)(function)  # type: ignore[no-any-return]
