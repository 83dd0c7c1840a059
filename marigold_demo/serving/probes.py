"""What a supervisor asks: /healthz and /metrics. Knows nothing of how a run is made or measured."""

import hmac
import json
from enum import Enum

from marigold_demo.serving.asgi import App, Message, Receive, Send, answer, header, refuse, route
from marigold_demo.serving.configuration import Configuration, is_loopback
from marigold_demo.serving.metrics import CONTENT_TYPE, Metrics
from marigold_demo.serving.request_head import host_name

PROXIED = (b"x-forwarded-", b"x-real-ip", b"x-client-ip", b"forwarded", b"via", b"cf-", b"true-client-ip")


class State(Enum):
    """How far the server is."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "without its checkpoint"
    STOPPING = "stopping"


class Health:
    """Holds the state of the server."""

    def __init__(self) -> None:
        self.state = State.LOADING


class Probes:
    """ASGI middleware that answers the supervisor and passes all else on."""

    def __init__(self, app: App, *, configuration: Configuration, health: Health, metrics: Metrics) -> None:
        self._app, self._health, self._metrics = app, health, metrics
        self._configuration = configuration

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        path = route(scope) if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") else ""
        if path == "/healthz" and self._configuration.health:
            state = self._health.state
            body = json.dumps({"status": state.value}).encode()
            await answer(send, 200 if state is State.READY else 503, body)
        elif path == "/metrics" and self._configuration.metrics:
            if self._may_read(scope):
                await answer(send, 200, self._metrics.text(), kind=CONTENT_TYPE)
            else:
                await refuse(send, 404, "Not Found")
        else:
            await self._app(scope, receive, send)

    def _may_read(self, scope: Message) -> bool:
        """Tell whether the metrics may be told: to who has the token; without one, to this machine.

        What a proxy on this machine passes on comes from here too, but by another name or with its headers.
        """
        token = self._configuration.metrics_token
        if token:
            given = header(scope, b"authorization") or b""
            return hmac.compare_digest(given, f"Bearer {token}".encode())
        proxied = any(name.startswith(PROXIED) for name, _ in scope["headers"])
        host = host_name(scope)
        address = (scope.get("client") or ("", 0))[0]
        return not proxied and is_loopback(address) and (not host or is_loopback(host))
