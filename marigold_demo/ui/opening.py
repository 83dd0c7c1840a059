"""What the page shows of itself: its head, the finished example it begins with, and its end, About Marigold.

The head is what browsers, search engines and previews of links read before any script runs. Gradio puts what
`Blocks.launch(head=...)` names there by a script, which only browsers run, and fills the head that it sends
with a card of its own. Here that card is replaced in the answer. The example is the first one, with its depth
and its relief. The end tells what Marigold is, how it works, what was published of it, and limits.
"""

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from gradio.route_utils import get_root_url
from numpy.typing import NDArray
from PIL import Image
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marigold_demo.catalog import DATA_SETS, PAPER, table
from marigold_demo.examples import Example, load_examples
from marigold_demo.geometry import rendering
from marigold_demo.geometry.relief import print_facts
from marigold_demo.io import export
from marigold_demo.io.photo import Photo, load_photo
from marigold_demo.serving.http import route
from marigold_demo.settings import DepthSettings, ReliefSettings
from marigold_demo.ui import layers, preview
from marigold_demo.ui.layers import DEPTH, PHOTO, DepthStyle
from marigold_demo.ui.preview import about_relief
from marigold_demo.ui.session_store import DepthResult, OtherDepth, SessionStore, write_file
from marigold_demo.workflow import Workflow

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


SLIDER_PX = 960


@dataclass(frozen=True)
class Opening:
    """The example that the page begins with; its files are kept as long as the page is.

    Attributes:
        result: Its photo and depth.
        pictures: Files of both sides of the slider.
        legend: Titles and scales of both sides, as HTML.
        preview: File of its relief for the 3D preview.
        facts: Its size and weight in one line.
        chips: Style sheet with its picture in each style.
        about: What `Preview.about` says of it.
        poster: Its lit relief as HTML, seen until the 3D preview has drawn it.
    """

    result: DepthResult
    pictures: tuple[str, str]
    legend: str
    preview: str
    facts: str
    chips: str
    about: str
    poster: str

    @property
    def photo(self) -> Photo:
        """Its photo."""
        return self.result.photo


def prepare(store: SessionStore, examples: Sequence[Example]) -> Opening | None:
    """Write the files of the first example whose depth is known; None where there is none."""
    example = next((one for one in examples if one.depth is not None), None)
    if example is None:
        return None
    result = _result(example)
    left, right, preview, about, facts, chips, poster = _files(example)
    stem, folder = result.photo.stem, store.folder()
    return Opening(
        result=result,
        pictures=(
            write_file(folder, f"{stem}_left.jpg", left),
            write_file(folder, f"{stem}_right.jpg", right),
        ),
        legend=layers.legend(result, (PHOTO, DEPTH), DepthStyle()),
        preview=write_file(folder, f"{stem}_relief_preview.glb", preview),
        facts=facts,
        chips=chips,
        about=about,
        poster=poster,
    )


@lru_cache(maxsize=1)  # it is the same on every page of a process
def _result(example: Example) -> DepthResult:
    photo, depth = load_photo(example.path), example.known_depth()
    result = DepthResult(photo, depth, DepthSettings())  # type: ignore[arg-type]  # it has a depth
    for other in reversed(example.others):
        second = DepthResult(photo, other.read(), other.settings)
        result = result.beside(OtherDepth(second.name, second.depth))
    return result


@lru_cache(maxsize=1)
def _files(example: Example) -> tuple[bytes, bytes, bytes, str, str, str, str]:
    result = _result(example)
    sides = [_small_jpeg(layers.render(result, name, DepthStyle())) for name in (PHOTO, DEPTH)]
    # Light enough to come with the page.
    light = replace(ReliefSettings().preview(), resolution=384, tolerance_mm=0.06, max_faces=15_000)
    relief = Workflow.relief(result.depth, light, photo=result.photo)
    chips = preview.chips(result)
    seen = export.preview_glb(relief, longest=1.0), about_relief(relief, None)
    poster = preview.image(rendering.colored_piece(relief.field, light))
    return sides[0], sides[1], *seen, print_facts(relief), chips, poster


def _small_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """Return a picture [H, W, 3] as JPEG, as wide as the slider is on most screens."""
    image, buffer = Image.fromarray(rgb), io.BytesIO()
    image.thumbnail((SLIDER_PX, SLIDER_PX))
    image.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


MARIGOLD = (
    "Marigold turns Stable Diffusion, a diffusion model that draws pictures, into one that estimates "
    "depth from a single photo. Only its denoising U-Net is fine-tuned, with rendered scenes alone and "
    "within a few days on one GPU, so that it denoises depth beside the photo. What the model knows of "
    "pictures stays, which is why it does well on photos of kinds that it was never tuned on."
)
INFERENCE = (
    "A run: depth begins as noise and is denoised beside the photo; several runs make an ensemble. The "
    "box at work is lit while a Marigold runs here."
)
TUNING = (
    "Fine-tuning: the autoencoder stays as it is; the U-Net learns to tell the noise in a latent of "
    "exact depth."
)
LIMITS = (
    "Depth from one photo is relative: nearer and farther, up to an unknown scale and an unknown shift.",
    "The checkpoint of this app is a small draft with soft edges; streets are its weakest subject.",
    "Mirrors and glass are read as what they show. Wrong depth makes a wrong relief.",
)
FIGURES = (
    "Published figures, not measured here: AbsRel in % (less is better) / delta1 in % (more is better),"
    " zero-shot. Bold is the best and underlined the second of the paper's table; its ranks are means "
    "over ten columns. “50 x 10”: 50 steps, ensemble of 10. ‡ What was aligned is not said."
)
OTHER_ROWS = "From later tables, not ranked. † Aligned in disparity, so not comparable with the rows above."
BIBTEX = """@inproceedings{ke2024repurposing,
  title     = {Repurposing Diffusion-Based Image Generators for Monocular Depth Estimation},
  author    = {Bingxin Ke and Anton Obukhov and Shengyu Huang and Nando Metzger and Rodrigo Caye Daudt and Konrad Schindler},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2024}
}"""  # noqa: E501  # as in the README
LINKS = {
    "Paper": "https://arxiv.org/abs/2312.02145",
    "Marigold's page": "https://marigoldmonodepth.github.io",
}


@cache
def about() -> str:
    """Return it as HTML."""
    links = " · ".join(
        f'<a href="{url}" target="_blank" rel="noreferrer">{html.escape(name)}</a>'
        for name, url in LINKS.items()
    )
    limits = "".join(f"<li>{html.escape(one)}</li>" for one in LIMITS)
    return f"""
<style>{_file("about.css")}</style>
<div id="about-box"><details id="about"><summary><h2>About Marigold</h2></summary>
<p>{html.escape(MARIGOLD)} {links}</p>
<div class="schemes">{_figure("inference", INFERENCE)}{_figure("fine_tuning", TUNING)}</div>
<h3>Published figures</h3>
<div class="wide" tabindex="0" role="region" aria-label="Published figures">{_table()}</div>
<h3>Limits</h3><ul>{limits}</ul>
<h3>Citation <button type="button" data-copy="#bibtex">Copy</button></h3>
<pre id="bibtex" tabindex="0">{html.escape(BIBTEX)}</pre>
</details></div>"""


def _file(name: str) -> str:
    return files("marigold_demo.ui").joinpath(name).read_text(encoding="utf-8")


def _figure(name: str, words: str) -> str:
    return f"<figure>{_file(f'{name}.svg')}<figcaption>{html.escape(words)}</figcaption></figure>"


def _table() -> str:
    """Return the published rows as an HTML table."""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("method", *DATA_SETS, "mean rank"))
    rows = [
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, *cells in table(lambda text: f"<b>{text}</b>", lambda text: f"<u>{text}</u>")
    ]
    note = f'<tr class="note"><td colspan="{len(DATA_SETS) + 2}">{html.escape(OTHER_ROWS)}</td></tr>'
    count = len(PAPER)
    return (
        f"<table><caption>{html.escape(FIGURES)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows[:count])}</tbody><tbody>{note}{''.join(rows[count:])}</tbody></table>"
    )
