"""The service around one page: it puts configuration, health, metrics and runs together. Knows no widgets."""

from functools import cached_property
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from marigold_demo.io.cache_folder import CacheFolder
from marigold_demo.io.private_folder import FileRoot, cache_root, served_folder
from marigold_demo.serving.asgi import App
from marigold_demo.serving.compression import Compression
from marigold_demo.serving.configuration import Configuration
from marigold_demo.serving.connections import Connections, most_connections
from marigold_demo.serving.files import Files
from marigold_demo.serving.gate import Gate
from marigold_demo.serving.headers import HEADERS, SecurityHeaders
from marigold_demo.serving.journal import open_journal
from marigold_demo.serving.listening import Place, Server
from marigold_demo.serving.metrics import Metrics
from marigold_demo.serving.probes import Health, Probes, State
from marigold_demo.serving.request_head import HeadCheck, Hosts
from marigold_demo.serving.runs import Runs
from marigold_demo.serving.uploads import Uploads

MB = 10**6


class Service:
    """All that stands between the page and the world; one for each process, or for each test."""

    def __init__(self, configuration: Configuration | None = None) -> None:
        self.configuration = configuration or Configuration()
        self.metrics, self.health = Metrics(), Health()
        self.hosts = Hosts(self.configuration)
        self.runs = Runs(
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
            on_spaces: The page stands in a frame of Hugging Face, which has headers and probes of its own.
        """
        shared = {"configuration": self.configuration, "metrics": self.metrics}
        root = FileRoot(served_folder())
        self.metrics.watch_bytes("files", lambda: self.cache.used_bytes)
        within = [
            (Gate, (), shared | {"root": root}),
            (Uploads, (), {"cache": self.cache, "metrics": self.metrics}),
            (Files, (), {"root": root}),
            (Compression, (), {}),
        ]
        misfit = {RequestValidationError: _misfit}
        if on_spaces:
            return {"middleware": within, "exception_handlers": misfit}
        probes = (Probes, (), shared | {"health": self.health})
        # As starlette.middleware.Middleware unpacks: class, positional and named arguments.
        return {
            "middleware": [(SecurityHeaders, (), {}), probes, *within],
            "exception_handlers": {Exception: _crashed} | misfit,
        }

    def server(self, app: App, place: Place) -> Server:
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
        checked = HeadCheck(app, hosts=self.hosts, metrics=self.metrics)
        return Server(checked, place, bounds=bounds, trusted_proxies=self.configuration.trusted_proxies)

    def open_journal(self) -> None:
        """Begin to log; again after launch, when uvicorn has set up its own way."""
        open_journal(self.configuration, count=lambda kind: self.metrics.errors.labels(kind).inc())

    def stop(self) -> None:
        """Say that the server ends, to its supervisor and to runs under way."""
        self.health.state = State.STOPPING
        self.runs.stopping.set()


def _misfit(_: Request, __: Exception) -> JSONResponse:
    """Answer for a request that has not the form of its address; FastAPI's own words repeat all of it."""
    detail = "This request does not have the form that its address takes; /gradio_api/info describes it."
    return JSONResponse({"detail": detail}, status_code=422)


def _crashed(_: Request, __: Exception) -> JSONResponse:
    """Answer for what nobody foresaw; the server logs it. Middleware does not see this answer."""
    detail = "Something went wrong on our side and has been noted."
    return JSONResponse({"detail": detail}, status_code=500, headers=HEADERS)
