"""The server and its connections, the service around one page, how it ends, and the thread of the network.

A connection that sends no complete request head in time, or stands still within a body, is closed. When there
are as many connections as the server takes, the one that has waited longest for its request gives way to a
new one; where all are in use, the new one gets a sentence and is closed. So file descriptors cannot run out,
whoever connects.
"""

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import cached_property, partial
from types import FrameType
from typing import Any, NoReturn, Protocol

import uvicorn
from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from marigold_demo.depth import DepthMap, Run
from marigold_demo.io.cache_folder import CacheFolder, FileRoot, cache_root, served_folder
from marigold_demo.io.photo import Photo
from marigold_demo.serving.config import Configuration
from marigold_demo.serving.http import AnswerCache, CacheHeaders, Files, household
from marigold_demo.serving.listening import BACKLOG, AddressError, HeadCheck, Hosts, Place
from marigold_demo.serving.middleware import (
    HEADERS,
    Compression,
    Health,
    HealthEndpoints,
    RequestFilter,
    SecurityHeaders,
    State,
)
from marigold_demo.serving.monitor import Metrics, RunMonitor, set_up_logging
from marigold_demo.serving.uploads import Uploads
from marigold_demo.settings import DepthSettings
from marigold_demo.workflow import Predictor

_log = logging.getLogger(__name__)

HEAD_S = 20.0  # for the head of a request, from the connection or the end of the response before
BODY_S = 60.0  # for the next part of a body; those who read bodies are less patient, and say so
UNREAD_S = 60.0  # for a client that takes nothing of what is sent
PATIENT_S = 1.0  # a connection that waits for less may have its request on the way, and does not give way
CLOSING_S = 2.0  # for the last words on a connection
SHARE = 10  # one address has at most the tenth part of all connections
LEAST_SHARE = 16
LINGERING_MOST = 64  # refused connections that are still open
ACCEPTED_AT_ONCE = 128  # new connections that are taken in one go
START_S = 60.0
GRACE_S = 3  # for open connections when the server ends
DESCRIPTORS_BESIDE = 512  # open files that are no connections, and connections not yet counted

_FULL = "This server has as many connections as it takes; try again in a minute."
_MANY = "There are too many connections from your address; close some and try again."
_LATE = "The request did not arrive in time; try again."


class Connections:
    """Counts the connections of one server and says which may stay."""

    def __init__(
        self,
        most: int,
        *,
        exempt: Callable[[str], bool] = lambda address: False,
        refused: Callable[[], None] = lambda: None,
        head_s: float = HEAD_S,
        body_s: float = BODY_S,
    ) -> None:
        """Take the bounds.

        Args:
            most: Connections at a time.
            exempt: Returns whether an address stands for many visitors (a proxy) and has no share of its own.
            refused: Called for each connection that is refused.
            head_s: Time for the head of a request.
            body_s: Time for the next part of a body.
        """
        self.head_s, self.body_s = head_s, body_s
        self.most, self.share = most, max(LEAST_SHARE, most // SHARE)
        self._exempt, self._refused = exempt, refused
        self._open: Counter[str] = Counter()  # by address
        self._waiting: dict[Connection, float] = {}  # for a request since when, the longest first
        self.lingering = 0

    def __len__(self) -> int:
        return self._open.total()

    def admit(self, connection: "Connection") -> str:
        """Count a new connection, or return the sentence with which it is refused."""
        address = connection.address
        is_full = self._open[address] >= self.share and not self._exempt(connection.peer)
        if is_full and not self._give_way(address):
            self._refused()
            return _MANY
        if len(self) >= self.most and not self._give_way():
            self._refused()
            return _FULL
        self._open[address] += 1
        connection.is_counted = True
        return ""

    def waits(self, connection: "Connection") -> None:
        """Note that a connection waits for a request from now on."""
        self._waiting[connection] = time.monotonic()

    def works(self, connection: "Connection") -> None:
        """Note that a request is under way on a connection."""
        self._waiting.pop(connection, None)

    def leaves(self, connection: "Connection") -> None:
        """Count an admitted connection no longer; nothing happens the second time."""
        self.works(connection)
        if connection.is_counted:
            connection.is_counted = False
            self._open[connection.address] -= 1
            if not self._open[connection.address]:
                del self._open[connection.address]

    def make_room(self) -> None:
        """Close all connections that have waited for a while; for when there are no descriptors left."""
        while self._give_way():
            pass

    def _give_way(self, address: str | None = None) -> bool:
        """Close the connection that has waited longest, of one address or of all."""
        for connection, since_s in self._waiting.items():
            if time.monotonic() - since_s < PATIENT_S:
                return False
            if address in (None, connection.address):
                self.leaves(connection)
                connection.transport.abort()
                return True
        return False


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1 connection, with bounds."""

    def __init__(self, *, bounds: Connections, **given: Any) -> None:
        super().__init__(**given)
        self.peer, self.address, self.is_counted = "", "", False
        self._bounds, self._is_refused = bounds, False
        self._is_waiting = False  # for a head
        self._clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it with a sentence."""
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        self.address = household(self.peer)
        _end_when_unread(transport)
        if sentence := self._bounds.admit(self):
            self._refuse(sentence)
        else:
            self._follow()

    def data_received(self, data: bytes) -> None:
        """Take what a client sends."""
        if not self._is_refused:
            super().data_received(data)
            self._follow()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_clock()
        self._bounds.leaves(self)
        if self._is_refused:
            self._bounds.lingering -= 1
        super().connection_lost(exc)

    def _follow(self) -> None:
        """Let the time for a request's head run while no request is under way, then that for its body."""
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self._is_waiting and not self.transport.is_closing():
            return  # what trickles gets no more time
        self._stop_clock()
        self._is_waiting = waits and not self.transport.is_closing()
        if self._is_waiting:
            self._clock = self.loop.call_later(self._bounds.head_s, self._end_late)
            self._bounds.waits(self)
        else:
            self._bounds.works(self)
            if not self.transport.is_closing() and self.cycle.more_body:
                self._clock = self.loop.call_later(self._bounds.body_s, self._end_still)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _end_late(self) -> None:
        began = bool(self.conn.trailing_data[0])  # a part of a head is there
        self._end(408, _LATE if began else "")

    def _end_still(self) -> None:
        if self.flow.read_paused:  # it is we who do not read
            self._clock = self.loop.call_later(self._bounds.body_s, self._end_still)
        else:
            self.transport.abort()

    def _refuse(self, sentence: str) -> None:
        self._is_refused = True
        self._bounds.lingering += 1
        if self._bounds.lingering > LINGERING_MOST:
            self.transport.abort()
        else:
            self._end(503, sentence)

    def _end(self, status: int, sentence: str) -> None:
        """Close the connection; a sentence goes before, with time to read it."""
        self.loop.call_later(CLOSING_S, self.transport.abort)
        if not sentence or self.transport.is_closing():
            self.transport.close()
            return
        body = json.dumps({"detail": sentence}).encode()
        phrase = {408: "Request Timeout", 503: "Service Unavailable"}[status]
        head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\n"
        head += f"content-length: {len(body)}\r\nretry-after: 10\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        with suppress(OSError, NotImplementedError):
            self.transport.write_eof()  # closed at once, unread data would take the answer with it


def _end_when_unread(transport: asyncio.Transport) -> None:
    """Let the system end a connection whose client takes nothing for `UNREAD_S`, where it can (Linux)."""
    option, connected = getattr(socket, "TCP_USER_TIMEOUT", None), transport.get_extra_info("socket")
    if option is not None and connected is not None:
        with suppress(OSError):
            connected.setsockopt(socket.IPPROTO_TCP, option, int(UNREAD_S * 1000))


def most_connections(wanted: int) -> int:
    """Raise the process's limit on open files as far as connections need it, and return how many fit.

    Args:
        wanted: Connections at a time; each may have a file open besides itself.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    needed = 2 * wanted + DESCRIPTORS_BESIDE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    fit = wanted if soft == resource.RLIM_INFINITY else max(LEAST_SHARE, (soft - DESCRIPTORS_BESIDE) // 2)
    if fit < wanted:
        _log.warning("the limit on open files allows %d connections", fit)
    return min(wanted, fit)


class Server(uvicorn.Server):
    """uvicorn in a thread, on sockets that listen already, with bounded connections."""

    def __init__(self, app: ASGIApp, place: Place, *, bounds: Connections, trusted_proxies: str) -> None:
        protocol: Any = partial(Connection, bounds=bounds)
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",  # no page of ours uses them
            log_level="warning",
            backlog=ACCEPTED_AT_ONCE,
            forwarded_allow_ips=trusted_proxies,
            server_header=False,
        )
        super().__init__(config)
        self._place, self._bounds = place, bounds
        self._thread = threading.Thread(target=self.run, args=(list(place.sockets),), daemon=True)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections."""
        asyncio.get_running_loop().set_exception_handler(self._without_descriptors)
        await super().startup(sockets)
        for bound in self._place.sockets:
            bound.listen(BACKLOG)  # asyncio takes one number for both

    def _without_descriptors(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Let idle connections go where the process has no descriptor left for a new one."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            self._bounds.make_room()
        loop.default_exception_handler(context)

    def begin(self) -> None:
        """Return when the server answers.

        Raises:
            AddressError: It does not begin.
        """
        self._thread.start()
        end_s = time.monotonic() + START_S
        while not self.started:
            if not self._thread.is_alive() or time.monotonic() > end_s:
                raise AddressError("The server did not begin to answer.")
            time.sleep(0.002)

    def close(self) -> None:
        """End the server, with a few seconds for what is under way."""
        self.should_exit = True
        self._thread.join(timeout=GRACE_S + 2)


MB = 10**6


class Service:
    """Limits, logs, metrics, health and files around one page; one for each process, or for each test."""

    def __init__(self, configuration: Configuration | None = None) -> None:
        self.configuration = configuration or Configuration()
        self.metrics, self.health = Metrics(), Health()
        self.hosts = Hosts(self.configuration)
        self.runs = RunMonitor(
            self.metrics,
            permitted=self.configuration.permitted_checkpoints,
            limit_s=self.configuration.run_minutes * 60.0 or None,
        )

    @cached_property
    def cache(self) -> CacheFolder:
        """The folder of uploads and results, as GRADIO_TEMP_DIR names it when it is first asked for."""
        keep_s, most_bytes = self.configuration.keep_minutes * 60.0, self.configuration.disk_mb * MB
        return CacheFolder(cache_root(), keep_s=keep_s, most_bytes=most_bytes)

    def app_options(self, *, on_spaces: bool) -> dict[str, Any]:
        """Return what Gradio hands to FastAPI: middleware, the outermost first, and the last resort.

        Args:
            on_spaces: The page stands in a frame of Hugging Face, with headers and health checks of its own.
        """
        shared = {"configuration": self.configuration, "metrics": self.metrics}
        root = FileRoot(served_folder())
        self.metrics.watch_bytes("files", lambda: self.cache.used_bytes)
        within = [
            (RequestFilter, (), shared | {"root": root}),
            (CacheHeaders, (), {}),
            (Uploads, (), {"cache": self.cache, "metrics": self.metrics}),
            (Files, (), {"root": root}),
            (Compression, (), {}),
        ]
        misfit = {RequestValidationError: misfit_answer}
        if on_spaces:
            return {"middleware": within, "exception_handlers": misfit}
        health = (HealthEndpoints, (), shared | {"health": self.health})
        # As starlette.middleware.Middleware unpacks: class, positional and named arguments.
        return {
            "middleware": [(SecurityHeaders, (), {}), health, *within],
            "exception_handlers": {Exception: crash_answer} | misfit,
        }

    def server(self, app: ASGIApp, place: Place) -> Server:
        """Return the server of an app, which is not Hugging Face's; it does not begin yet.

        Args:
            app: What Gradio has made.
            place: Where the server listens.
        """
        for address in place.addresses:
            self.hosts.add_bound(address)
        bounds = Connections(
            most_connections(self.configuration.connections),
            exempt=self.configuration.is_proxy,
            refused=self.metrics.refused.labels("connections").inc,
        )
        self.metrics.watch_connections(lambda: len(bounds))
        checked = HeadCheck(AnswerCache(app), hosts=self.hosts, metrics=self.metrics)
        return Server(checked, place, bounds=bounds, trusted_proxies=self.configuration.trusted_proxies)

    def set_up_logging(self) -> None:
        """Begin to log; again after launch, when uvicorn has set up its own way."""
        set_up_logging(self.configuration, count=lambda kind: self.metrics.errors.labels(kind).inc())

    def stop(self) -> None:
        """Say that the server ends, to its supervisor and to runs under way."""
        self.health.state = State.STOPPING
        self.runs.stopping.set()


def misfit_answer(_: Request, __: Exception) -> JSONResponse:
    """Answer for a request that has not the form of its address; FastAPI's own words repeat all of it."""
    detail = "This request does not have the form that its address takes; /gradio_api/info describes it."
    return JSONResponse({"detail": detail}, status_code=422)


def crash_answer(_: Request, __: Exception) -> JSONResponse:
    """Answer for what nobody foresaw; the server logs it. Middleware does not see this answer."""
    detail = "Something went wrong on our side and has been noted."
    return JSONResponse({"detail": detail}, status_code=500, headers=HEADERS)


def in_one_thread(predict: Predictor) -> Predictor:
    """Return the predictor that works in one thread, whoever asks.

    Torch keeps worker threads and scratch memory for each thread that ever called it, some 30 MB (measured).
    """
    networks = ThreadPoolExecutor(1, thread_name_prefix="networks")

    def predict_there(photo: Photo, settings: DepthSettings, run: Run, /) -> DepthMap:
        return networks.submit(copy_context().run, predict, photo, settings, run).result()

    return predict_there


class Ended(BaseException):
    """Someone asked the process to end; like KeyboardInterrupt, no error."""


class Page(Protocol):
    """What is needed of `gradio.Blocks`."""

    def close(self, verbose: bool = True) -> None:
        """Close the server."""
        ...


def end_on_signals() -> None:
    """Let SIGTERM, SIGHUP and SIGINT raise `Ended` in the main thread.

    SIGHUP stays ignored where whoever started the process wanted that, as nohup does.
    """
    numbers = [signal.SIGTERM, signal.SIGINT]
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        numbers.append(hangup)

    def end(number: int, frame: FrameType | None) -> None:
        for again in numbers:
            signal.signal(again, signal.SIG_IGN)
        raise Ended

    for number in numbers:
        signal.signal(number, end)


def wait_for_end() -> None:
    """Wait until a signal raises `Ended`."""
    while True:
        time.sleep(3600)


def close(page: Page, *, before: Callable[[], None]) -> None:
    """Tell runs to stop, and close the server with a few seconds for open connections.

    Args:
        page: The launched page.
        before: Tells what is under way to stop.
    """
    before()
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it would log each connection it cuts
    server = getattr(page, "server", None)
    if server is not None:
        server.config.timeout_graceful_shutdown = GRACE_S
    page.close(verbose=False)


def leave(status: int = 0) -> NoReturn:
    """End the process at once; threads inside the networks are not waited for."""
    with suppress(OSError, ValueError):  # the terminal they go to may be gone
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
