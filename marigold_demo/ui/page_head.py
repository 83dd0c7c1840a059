"""The head of the page as browsers, search engines and previews of links read it, before any script runs.

Gradio puts what `Blocks.launch(head=...)` names there by a script, which only browsers run, and fills the
head that it sends with a card of its own. Here that card is replaced in the answer.
"""

import html
import re
from collections.abc import Callable
from pathlib import Path

from gradio.route_utils import get_root_url
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marigold_demo.examples import load_examples
from marigold_demo.serving.http import route

TITLE = "Marigold: photo to depth to print"
DESCRIPTION = (
    "Turn a photo into something you can hold: its depth becomes a relief for a 3D printer, in millimeters,"
    " or a textured mesh. Free, in the browser, without an account."
)
FAVICON = Path(__file__).with_name("favicon.svg")
CARD = Path(__file__).with_name("share_card.jpg")  # by scripts/make_examples.py
CARD_PATH, CARD_PX = "/share_card.jpg", (1200, 630)
TILES_PATH = "/example_tiles/"  # and the name of a file
CARD_ALT = "A photo of dandelions, and beside it the same as a relief in raking light"
# What Gradio's template says of the page, and the manifest of an app that is not offered. Its configuration
# stands in the page as well, but with each "<" as an escape.
_FOREIGN = re.compile(r'<meta\s+(?:property="og:|name="twitter:)[^<>]*>|<link rel="manifest"[^<>]*>')
_FIRST = '<meta charset="utf-8" />'


def head_tags(root: str, *, light: str, dark: str) -> str:
    """Return title, description, icon, colors and share card as HTML.

    Args:
        root: Address of the page as a visitor's browser has it, without a slash at its end.
        light: Color of the page in the light theme, such as "#fafaf9".
        dark: Color of the page in the dark theme.
    """
    card = {
        "og:type": "website",
        "og:url": f"{root}/",
        "og:site_name": "Marigold",
        "og:title": TITLE,
        "og:description": DESCRIPTION,
        "og:image": f"{root}{CARD_PATH}",
        "og:image:type": "image/jpeg",
        "og:image:width": CARD_PX[0],
        "og:image:height": CARD_PX[1],
        "og:image:alt": CARD_ALT,
        "twitter:card": "summary_large_image",
        "twitter:title": TITLE,
        "twitter:description": DESCRIPTION,
        "twitter:image": f"{root}{CARD_PATH}",
        "twitter:image:alt": CARD_ALT,
    }
    tags = [
        f"<title>{TITLE}</title>",
        f'<meta name="description" content="{DESCRIPTION}">',
        '<link rel="icon" type="image/svg+xml" href="./favicon.ico">',
        f'<meta name="theme-color" media="(prefers-color-scheme: light)" content="{light}">',
        f'<meta name="theme-color" media="(prefers-color-scheme: dark)" content="{dark}">',
    ]
    for name, content in card.items():
        kind = "property" if name.startswith("og:") else "name"
        tags.append(f'<meta {kind}="{name}" content="{html.escape(str(content))}">')
    return "\n".join(tags) + "\n"


def with_head(page: str, tags: str) -> str:
    """Return Gradio's page with these tags in its head in place of Gradio's card."""
    return _FOREIGN.sub("", page).replace(_FIRST, _FIRST + "\n" + tags, 1)


class PageHead:
    """ASGI middleware that completes the head of the page, and sends its share card and the example tiles."""

    def __init__(self, app: ASGIApp, *, tags: Callable[[str], str]) -> None:
        """Wrap an app.

        Args:
            app: Gradio's.
            tags: Returns what belongs in the head of the page by its address (`head_tags`).
        """
        self._app, self._tags = app, tags
        tiles = [example.tile for example in load_examples() if example.tile]
        self._pictures = {CARD_PATH: CARD} | {f"{TILES_PATH}{tile.name}": tile for tile in tiles}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for a picture, complete the page, or pass the request on."""
        path = route(scope) if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") else ""
        if path in self._pictures:
            await FileResponse(self._pictures[path])(scope, receive, send)
        elif path == "/":
            await self._app(scope, receive, self._completed(scope, send))
        else:
            await self._app(scope, receive, send)

    def _completed(self, scope: Scope, send: Send) -> Send:
        """Return a `send` that waits for the whole page and sends it with our head."""
        start: Message = {}
        parts: list[bytes] = []

        async def complete(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            parts.append(message.get("body", b""))
            if message.get("more_body", False):
                return
            body, headers = b"".join(parts), MutableHeaders(scope=start)
            if body and start["status"] == 200 and headers.get("content-type", "").startswith("text/html"):
                root = get_root_url(Request(scope), "/", scope.get("root_path"))
                body = with_head(body.decode(), self._tags(root)).encode()
                headers["content-length"] = str(len(body))
            await send(start)
            await send({"type": "http.response.body", "body": body})

        return complete
