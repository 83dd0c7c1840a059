"""Shelf: keeps things under a key, bounded in bytes and in time. Knows nothing of what it keeps."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _Kept(Generic[T]):
    thing: T
    size_bytes: int
    used_s: float


class Shelf(Generic[T]):
    """The least recently used goes first when the bytes run out; each goes when it was idle too long."""

    def __init__(
        self, *, max_bytes: int, max_idle_s: float = float("inf"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes, self._max_idle_s, self._clock = max_bytes, max_idle_s, clock
        self._kept: OrderedDict[Hashable, _Kept[T]] = OrderedDict()
        self._size_bytes = 0
        self._lock = threading.Lock()

    def put(self, key: Hashable, thing: T, *, size_bytes: int) -> None:
        """Keep a thing; one larger than the whole shelf is kept alone, so that it can be used at all."""
        with self._lock:
            self._take_away(key)
            self._kept[key] = _Kept(thing, size_bytes, self._clock())
            self._size_bytes += size_bytes
            self._sweep()

    def get(self, key: Hashable) -> T | None:
        """Return the thing and note the use, or None when it was never there or is gone."""
        with self._lock:
            self._sweep()
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            kept = self._kept[key]
            kept.used_s = self._clock()
            return kept.thing

    def drop(self, key: Hashable) -> None:
        """Forget one thing, if it is there."""
        with self._lock:
            self._take_away(key)

    def sweep(self) -> None:
        """Forget what was idle too long; until somebody puts or gets, nobody else does."""
        with self._lock:
            self._sweep()

    @property
    def size_bytes(self) -> int:
        """Bytes of all that is kept."""
        return self._size_bytes

    def __len__(self) -> int:
        return len(self._kept)

    def _sweep(self) -> None:
        oldest_s = self._clock() - self._max_idle_s
        while self._kept:
            key, first = next(iter(self._kept.items()))  # the least recently used
            too_many = self._size_bytes > self._max_bytes and len(self._kept) > 1
            if first.used_s >= oldest_s and not too_many:
                return
            self._take_away(key)

    def _take_away(self, key: Hashable) -> None:
        kept = self._kept.pop(key, None)
        self._size_bytes -= kept.size_bytes if kept else 0
