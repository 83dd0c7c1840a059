"""Line: who comes next where only one can be served at a time. Knows nothing of what is done there."""

import threading
from collections.abc import Generator


class Line:
    """First come, first served; whoever leaves, served or not, lets the next one forward."""

    def __init__(self, *, poll_s: float) -> None:
        """Take how often one who waits is told so, which is when it can leave."""
        self._poll_s = poll_s
        self._tickets: list[object] = []
        self._moved = threading.Condition(threading.Lock())  # not RLock: resumed on any thread

    def stand(self) -> Generator[int, None, None]:
        """Join the line; yield how many are before this one until that is 0. Closing it leaves the line."""
        ticket = object()
        with self._moved:
            self._tickets.append(ticket)
        try:
            while ahead := self._ahead(ticket):
                yield ahead
            yield 0
        finally:
            with self._moved:
                self._tickets.remove(ticket)
                self._moved.notify_all()

    def _ahead(self, ticket: object) -> int:
        with self._moved:
            if self._tickets[0] is not ticket:
                self._moved.wait_for(lambda: self._tickets[0] is ticket, timeout=self._poll_s)
            return self._tickets.index(ticket)
