"""The service around one page, and its life: what is put together, how it ends, the thread of the network."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import cached_property
from types import FrameType
from typing import Any, NoReturn, Protocol

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from marigold_demo.depth import DepthMap, Run
from marigold_demo.io.cache_folder import CacheFolder, FileRoot, cache_root, served_folder
from marigold_demo.io.photo import Photo
from marigold_demo.serving.config import Configuration
from marigold_demo.serving.connections import GRACE_S, Connections, Server, most_connections
from marigold_demo.serving.http import AnswerCache, CacheHeaders, Files
from marigold_demo.serving.listening import HeadCheck, Hosts, Place
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
