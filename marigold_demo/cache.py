"""What a server keeps in memory: a cache with limits on bytes and idle time, and a task each minute."""

import logging
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from typing import Generic, TypeVar
from weakref import WeakMethod

from cachetools import TTLCache

V = TypeVar("V")
EVERY_S = 60.0

_log = logging.getLogger(__name__)


class IdleCache(Generic[V]):
    """Thread-safe cache: evicts least recently used above `max_bytes`, and each `ttl_s` after its use."""

    def __init__(
        self, *, max_bytes: int, ttl_s: float = float("inf"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes = max(max_bytes, 1)
        self._entries: TTLCache[Hashable, tuple[V, int]] = TTLCache(
            self._max_bytes, ttl_s, timer=clock, getsizeof=self._size
        )
        self._lock = threading.Lock()

    def put(self, key: Hashable, value: V, *, size_bytes: int) -> None:
        """Keep a value; one larger than the whole cache is kept alone, so that it can be used at all."""
        with self._lock:
            self._drop(key)
            self._entries[key] = value, size_bytes

    def get(self, key: Hashable) -> V | None:
        """Return a value and renew its time, or None when it was never there or is gone."""
        with self._lock:
            try:
                entry = self._entries[key]
            except KeyError:
                return None
            self._entries[key] = entry
            return entry[0]

    def drop(self, key: Hashable) -> None:
        """Forget one value, if it is there."""
        with self._lock:
            self._drop(key)

    def sweep(self) -> None:
        """Forget what was idle for too long; without this it stays until somebody puts the next value."""
        with self._lock:
            self._entries.expire()

    @property
    def size_bytes(self) -> int:
        """Bytes of all values; one that is too large counts for as much as there is."""
        return int(self._entries.currsize)

    def __len__(self) -> int:
        with self._lock:
            self._entries.expire()
            return len(self._entries)

    def _size(self, entry: tuple[V, int]) -> int:
        return min(max(entry[1], 1), self._max_bytes)

    def _drop(self, key: Hashable) -> None:
        with suppress(KeyError):
            del self._entries[key]


class PeriodicTask:
    """Calls a method from time to time, in a thread that ends with the method's object and the process."""

    def __init__(self, method: Callable[[], None], *, every_s: float = EVERY_S) -> None:
        """Take a bound method; nothing happens before `start`."""
        self._method, self._every_s = WeakMethod(method), every_s
        self._started, self._lock = False, threading.Lock()

    def start(self) -> None:
        """Start, unless it was started before."""
        with self._lock:
            if not self._started:
                self._started = True
                arguments = self._method, self._every_s
                threading.Thread(target=_repeat, args=arguments, name="periodic task", daemon=True).start()


def _repeat(reference: "WeakMethod[Callable[[], None]]", every_s: float) -> None:
    while True:
        time.sleep(every_s)
        method = reference()
        if method is None:
            return
        try:
            method()
        except Exception:
            _log.exception("a periodic task failed and will be tried again")
        del method  # or its object would live as long as this thread
