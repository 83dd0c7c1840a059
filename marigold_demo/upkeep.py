"""Work that a server does again and again though nobody waits for it. Knows nothing of what is done."""

import logging
import threading
import time
from collections.abc import Callable
from weakref import WeakMethod

EVERY_S = 60.0

_log = logging.getLogger(__name__)


class Upkeep:
    """Calls a method from time to time, in a thread that ends with the method's object and the process."""

    def __init__(self, work: Callable[[], None], *, every_s: float = EVERY_S) -> None:
        """Take a bound method; nothing happens before `begin`."""
        self._work, self._every_s = WeakMethod(work), every_s
        self._begun, self._lock = False, threading.Lock()

    def begin(self) -> None:
        """Start, unless it was started before."""
        with self._lock:
            if not self._begun:
                self._begun = True
                threading.Thread(
                    target=_repeat, args=(self._work, self._every_s), name="upkeep", daemon=True
                ).start()


def _repeat(work: "WeakMethod[Callable[[], None]]", every_s: float) -> None:
    while True:
        time.sleep(every_s)
        method = work()
        if method is None:
            return
        try:
            method()
        except Exception:
            _log.exception("the upkeep failed and will be tried again")
        del method  # or its object would live as long as this thread
