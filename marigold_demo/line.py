"""The line before the network: one run at a time, first come, first served, with visitors taking turns."""

import threading
from collections import OrderedDict, deque
from collections.abc import Generator, Hashable
from itertools import chain, zip_longest

from marigold_demo.errors import DemoError


class Line:
    """Lets one ticket through at a time; whoever leaves, served or not, lets the next one forward."""

    def __init__(self, *, poll_s: float, waiting_per_visitor: int | None = None) -> None:
        """Make an empty line.

        Args:
            poll_s: How often a waiting ticket yields, which is when it can leave.
            waiting_per_visitor: How many tickets of one visitor may wait, 1 or more; None: any number.
        """
        self._poll_s, self._most = poll_s, waiting_per_visitor
        self._served: object | None = None
        # Waiting tickets by visitor; the first visitor is served next and then goes to the end.
        self._waiting: OrderedDict[Hashable, deque[object]] = OrderedDict()
        self._moved = threading.Condition(threading.Lock())  # not RLock: resumed on any thread

    def stand(self, visitor: str | None = None) -> Generator[int, None, None]:
        """Join the line; yield how many are before this ticket until that is 0. Closing it leaves the line.

        Args:
            visitor: Whose turn it uses; None: nobody else's.

        Raises:
            DemoError: As many tickets of this visitor wait as may.
        """
        ticket = object()
        owner: Hashable = visitor or ticket
        self._join(ticket, owner)
        try:
            while ahead := self._ahead(ticket):
                yield ahead
            yield 0
        finally:
            self._leave(ticket, owner)

    def _join(self, ticket: object, owner: Hashable) -> None:
        with self._moved:
            count = len(self._waiting.get(owner, ()))
            if self._served is not None and self._most is not None and count >= self._most:
                raise DemoError(_too_many(count))
            self._waiting.setdefault(owner, deque()).append(ticket)
            self._advance()

    def _leave(self, ticket: object, owner: Hashable) -> None:
        with self._moved:
            if self._served is ticket:
                self._served = None
            else:
                self._waiting[owner].remove(ticket)
                self._drop_if_empty(owner)
            self._advance()

    def _advance(self) -> None:
        """Serve the next ticket unless one is being served; the lock is held."""
        if self._served is None and self._waiting:
            owner = next(iter(self._waiting))
            self._served = self._waiting[owner].popleft()
            self._waiting.move_to_end(owner)
            self._drop_if_empty(owner)
            self._moved.notify_all()

    def _drop_if_empty(self, owner: Hashable) -> None:
        if not self._waiting[owner]:
            del self._waiting[owner]

    def _ahead(self, ticket: object) -> int:
        with self._moved:
            if self._moved.wait_for(lambda: self._served is ticket, timeout=self._poll_s):
                return 0
            rounds = chain.from_iterable(zip_longest(*self._waiting.values()))
            return 1 + [waiting for waiting in rounds if waiting is not None].index(ticket)


def _too_many(count: int) -> str:
    photos = "1 photo" if count == 1 else f"{count} photos"
    return f"You have {photos} waiting already; try again when one of them is done."
