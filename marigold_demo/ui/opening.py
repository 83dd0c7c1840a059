"""What the page shows before the visitor did anything: the first example with its depth and its relief."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.examples import Example
from marigold_demo.geometry import rendering
from marigold_demo.geometry.relief import print_facts
from marigold_demo.io import export
from marigold_demo.io.photo import Photo, load_photo
from marigold_demo.settings import DepthSettings, ReliefSettings
from marigold_demo.ui import layers, preview
from marigold_demo.ui.layers import DEPTH, PHOTO, DepthStyle
from marigold_demo.ui.preview import about_relief
from marigold_demo.ui.session_store import DepthResult, OtherDepth, SessionStore, write_file
from marigold_demo.workflow import Workflow

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
