"""How often one visitor may ask: a sliding window in memory. Knows nothing of requests.

Visitors are told apart by a hash of their address with a salt that this process made up and never tells;
an IPv6 visitor is the network of 64 bits, which is what one household gets.
"""

import hashlib
import ipaddress
import math
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable

WINDOW_S = 60.0
MOST_VISITORS = 10_000  # the one who was silent longest is forgotten first


class Rate:
    """Counts requests for work."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._salt = secrets.token_bytes(16)
        self._asked: OrderedDict[bytes, deque[float]] = OrderedDict()

    def wait_s(self, address: str) -> int:
        """Count a request and return 0, or return after how many seconds the visitor may ask again."""
        now_s, visitor = self._clock(), self._visitor(household(address))
        asked = self._asked.setdefault(visitor, deque())
        self._asked.move_to_end(visitor)
        while len(self._asked) > MOST_VISITORS:
            self._asked.popitem(last=False)
        while asked and asked[0] <= now_s - WINDOW_S:
            asked.popleft()
        if len(asked) >= self._per_minute:
            return max(1, math.ceil(asked[0] + WINDOW_S - now_s))
        asked.append(now_s)
        return 0

    def _visitor(self, address: str) -> bytes:
        return hashlib.blake2b(address.encode(), key=self._salt, digest_size=16).digest()


def household(address: str) -> str:
    """Return what stands for the visitors of one line: an address, in IPv6 its network of 64 bits."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
