"""Compresses the page itself, which Gradio sends as it is. Knows nothing of what is on it."""

from starlette.middleware.gzip import GZipMiddleware

from marigold_demo.serving.asgi import App, Message, Receive, Send, route

PAGES = ("/", "/config")  # large texts; Gradio compresses its assets itself, and files stay as they are
LEAST_BYTES, LEVEL = 2000, 6


class Compression:
    """ASGI middleware that compresses the answers of some addresses for browsers that can read it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._compressed = GZipMiddleware(app, minimum_size=LEAST_BYTES, compresslevel=LEVEL)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, by way of the compressor where it is one for the page."""
        is_page = scope["type"] == "http" and route(scope) in PAGES
        await (self._compressed if is_page else self._app)(scope, receive, send)
