"""From a photo to depth, relief and surface, stage by stage; the queue before the network, and the cache.

    path -> Photo -> [predict: Photo, DepthSettings -> DepthMap] -> Relief  -> STL
                                                                 -> Surface -> GLB

`predict` is a callable, so tests use a ramp and the app the real pipeline. The network runs here and nowhere
else: all that follows from a depth map works without it.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from itertools import chain, zip_longest
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar
from weakref import WeakMethod

from cachetools import TTLCache

from marigold_demo.depth import DepthMap, Progress, Run
from marigold_demo.errors import DemoError, PhotoError, SettingsError
from marigold_demo.geometry.relief import Relief, build_relief
from marigold_demo.geometry.textured_mesh import Surface, build_surface
from marigold_demo.io.photo import Photo
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings

Steps = Generator[Progress | DepthMap, None, None]
SAME_SHAPE = 0.02  # how much the aspect of a photo may differ from that of its depth
V = TypeVar("V")
EVERY_S = 60.0
_log = logging.getLogger(__name__)


class Predictor(Protocol):
    """Something that turns a photo into depth."""

    def __call__(self, photo: Photo, settings: DepthSettings, run: Run, /) -> DepthMap:
        """Return the depth; report to the run before each network call, which may cancel there."""
        ...


class Workflow:
    """Runs one prediction at a time and never the same one twice."""

    def __init__(
        self,
        predict: Predictor,
        *,
        keep_bytes: int = 512 * 2**20,
        keep_s: float = 2 * 3600.0,
        poll_s: float = 0.25,
        waiting_per_visitor: int | None = None,
        admit: Callable[[DepthSettings], None] | None = None,
    ) -> None:
        """Take the predictor.

        Args:
            predict: Photo and settings -> depth; see `Predictor`.
            keep_bytes: Finished depth maps are found again until they fill this many bytes.
            keep_s: Or until nobody asked for them for so long.
            poll_s: How often a waiting prediction says that it waits, which is when it can be canceled.
            waiting_per_visitor: How many predictions of one visitor may wait; None: any number.
            admit: Raises a DemoError for a prediction that should not even wait.
        """
        self._predict, self._admit = predict, admit
        self.waiting_per_visitor = waiting_per_visitor
        self._queue = FifoLock(poll_s=poll_s, waiting_per_visitor=waiting_per_visitor)
        self._finished: IdleCache[DepthMap] = IdleCache(max_bytes=keep_bytes, ttl_s=keep_s)

    @property
    def kept_bytes(self) -> int:
        """Bytes of all finished depth maps in memory."""
        return self._finished.size_bytes

    def tidy(self) -> None:
        """Forget depth maps that nobody asked for lately."""
        self._finished.sweep()

    def remember(self, photo: Photo, settings: DepthSettings, depth: DepthMap) -> None:
        """Keep a depth map that is known already, so that the network is not asked for it."""
        self._finished.put((photo.digest, settings), depth, size_bytes=size_bytes(depth))

    def estimate(
        self,
        photo: Photo,
        settings: DepthSettings,
        *,
        run: Run | None = None,
        visitor: str | None = None,
    ) -> DepthMap:
        """Return the depth of a photo; one prediction runs at a time, and none twice.

        Args:
            photo: What to predict the depth of.
            settings: How.
            run: Gets progress; Progress("wait", 0, how many) while others are before this one.
            visitor: Who asks, where visitors take turns; None: somebody of their own.

        Raises:
            DemoError: Too many predictions of this visitor wait, or whatever the predictor cannot do with
                this photo and these settings.
            CancelledError: The run was canceled.
        """
        run, key = run or Run(), (photo.digest, settings)
        depth = self._finished.get(key)
        if depth is not None:
            return depth
        if self._admit is not None:
            self._admit(settings)
        with self._queue.turn(visitor, waiting=lambda ahead: run.report(Progress("wait", 0, ahead))):
            depth = self._finished.get(key)  # the one before us may have asked for the same
            if depth is None:
                depth = self._predict(photo, settings, run)
                self.remember(photo, settings, depth)
        return depth

    def stream(self, photo: Photo, settings: DepthSettings, *, visitor: str | None = None) -> Steps:
        """Yield what `estimate` reports, and the DepthMap last; see `streamed`."""
        return streamed(lambda run: self.estimate(photo, settings, run=run, visitor=visitor))

    @staticmethod
    def relief(depth: DepthMap, settings: ReliefSettings, *, photo: Photo | None = None) -> Relief:
        """Return the solid of a depth map; the network is not asked."""
        return build_relief(depth, settings, photo=photo)

    @staticmethod
    def surface(depth: DepthMap, photo: Photo, settings: MeshSettings) -> Surface:
        """Return the textured surface of a depth map; the network is not asked.

        Raises:
            SettingsError: The photo has another shape than the depth.
        """
        check_same_shape(photo, depth)
        return build_surface(depth, photo, settings)


def same_shape(photo: Photo, depth: DepthMap) -> bool:
    """Return whether a photo and a depth map are equally wide for their heights; their sizes may differ."""
    (width, height), (depth_width, depth_height) = photo.size, depth.size
    return abs(width * depth_height / (height * depth_width) - 1) <= SAME_SHAPE


def check_same_shape(photo: Photo, depth: DepthMap) -> None:
    """Hold the shape of a photo against that of its depth.

    Raises:
        SettingsError: One is wider for its height than the other.
    """
    if not same_shape(photo, depth):
        (width, height), (depth_width, depth_height) = photo.size, depth.size
        raise SettingsError(
            f"The photo is {width} × {height} and the depth {depth_width} × {depth_height} pixels, which is"
            " not the same shape; give the photo that the depth was made from."
        )


def phone_depth(photo: Photo) -> DepthMap:
    """Return the depth that a phone put into its portrait photo, at its own resolution.

    Raises:
        PhotoError: There is none.
    """
    if photo.phone_depth is None:
        raise PhotoError(
            "There is no depth inside this photo; take a portrait photo as the phone saved it, or let the"
            " model predict the depth."
        )
    return DepthMap(photo.phone_depth)


def size_bytes(depth: DepthMap) -> int:
    """Return how much memory a depth map takes."""
    return depth.values.nbytes + (0 if depth.uncertainty is None else depth.uncertainty.nbytes)


def streamed(predict: Callable[[Run], DepthMap]) -> Steps:
    """Run a prediction in a thread of its own and yield its progress, the DepthMap last.

    The prediction waits while the caller works on what was yielded. Closing the generator cancels it before
    its next network call and returns when it has ended.
    """
    steps: SimpleQueue[Progress | DepthMap | BaseException] = SimpleQueue()
    go_on = threading.Semaphore(0)

    def report(progress: Progress) -> None:
        steps.put(progress)
        go_on.acquire()

    def work() -> None:
        try:
            steps.put(predict(run))
        except BaseException as error:  # raised again by the generator
            steps.put(error)

    run = Run(report)
    thread = threading.Thread(target=copy_context().run, args=(work,), name="prediction", daemon=True)
    thread.start()
    try:
        while True:
            step = steps.get()
            if isinstance(step, BaseException):
                raise step
            yield step
            if isinstance(step, DepthMap):
                return
            go_on.release()
    finally:
        run.cancelled = True
        go_on.release()
        thread.join()


class FifoLock:
    """Lets one run through at a time, first come, first served, with visitors taking turns.

    Whoever leaves, served or not, lets the next one forward.
    """

    def __init__(self, *, poll_s: float, waiting_per_visitor: int | None = None) -> None:
        """Make a lock that nobody waits for.

        Args:
            poll_s: How often a waiting run reports how many are before it, which is when it can leave.
            waiting_per_visitor: How many tickets of one visitor may wait, 1 or more; None: any number.
        """
        self._poll_s, self._most = poll_s, waiting_per_visitor
        self._served: object | None = None
        # Waiting tickets by visitor; the first visitor is served next and then goes to the end.
        self._waiting: OrderedDict[Hashable, deque[object]] = OrderedDict()
        self._moved = threading.Condition()

    @contextmanager
    def turn(self, visitor: str | None = None, *, waiting: Callable[[int], None]) -> Iterator[None]:
        """Wait for one's turn, and keep it meanwhile.

        Args:
            visitor: Whose turn it uses; None: nobody else's.
            waiting: Called with how many are before this run, again and again; raises to leave the queue.

        Raises:
            DemoError: As many tickets of this visitor wait as may.
        """
        ticket = object()
        owner: Hashable = visitor or ticket
        self._join(ticket, owner)
        try:
            while ahead := self._ahead(ticket):
                waiting(ahead)
            yield
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
