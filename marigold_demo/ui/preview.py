"""Previews of the object: in 3D with its views, a picture in each style, and one while a slider is dragged.

The camera is set by preview.js, which knows how large the canvas is: a new object begins with its first view,
a changed one keeps the camera. Gradio hands the camera to a handler only through a parameter that is
annotated as `gr.Model3D`; preview.js takes it from there and sends the shape of the canvas instead.
"""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from zlib import crc32

import gradio as gr
import numpy as np
from gradio.events import Dependency
from numpy.typing import NDArray
from PIL import Image, ImageOps

from marigold_demo.geometry.relief import Relief, print_facts
from marigold_demo.geometry.rendering import GROUND, colored_piece
from marigold_demo.io import export
from marigold_demo.settings import RELIEF_PRESETS, MeshSettings, ReliefSettings
from marigold_demo.ui.session_store import DepthResult, SessionStore, write_file
from marigold_demo.ui.widgets import QUIET
from marigold_demo.workflow import Workflow

HEIGHT_PX = 560
FIRST = (72, 66, None)  # degrees and distance, until preview.js has measured the canvas
ASPECT = 1.4  # of the canvas, width over height, where the page does not say
NARROWEST, WIDEST = 0.1, 10.0
VIEWS = {"front": "Front", "tilted": "Tilted", "reset": "Reset", "fullscreen": "Full screen"}
SHOWN = "() => objectPreview.shown()"
# The words of a chip by the name of its preset, in the order of the page.
STYLES: Mapping[str, str] = MappingProxyType(
    {
        "standard": "Picture",
        "portrait": "Portrait",
        "coin": "Coin",
        "lithophane": "Lithophane",
        "CNC": "CNC",
        "landscape": "Landscape",
        "plain": "Plain",
    }
)
CHIP_PX, CHIP_SIZE = 160, (144, 96)
DRAG_PX = 256
COARSE_MM = 0.2  # triangles are not seen in a picture


class Preview:
    """The 3D preview with buttons for its views.

    Attributes:
        model: Shows the object.
        about: Tells preview.js which object is shown and how large it is, as JSON.
    """

    def __init__(self, opening: tuple[str, str] | None = None) -> None:
        """Take what is shown at first: the path of a GLB, and what `about` says of it."""
        path, about = opening or (None, "")
        with gr.Column(elem_id="preview-box", min_width=0):
            # Not in a tab: there it stays empty when it is filled before the tab was opened.
            self.model = gr.Model3D(
                path,
                label="3D preview",
                show_label=False,
                height=HEIGHT_PX,
                interactive=False,
                camera_position=FIRST,
                clear_color=(*(level / 255 for level in GROUND), 1.0),
                elem_id="preview",
            )
            with gr.Row(elem_id="angles"):
                self.buttons = {
                    name: gr.Button(label, size="sm", min_width=0, elem_id=f"view-{name}")
                    for name, label in VIEWS.items()
                }
            self.about = gr.HTML(about, elem_id="preview-about")

    @property
    def outputs(self) -> list[gr.components.Component]:
        """What `show` fills."""
        return [self.model, self.about]

    def connect(self) -> None:
        """Connect the buttons; they work without the server."""
        for name in ("front", "tilted", "reset"):
            self.buttons[name].click(
                None,
                [self.model],
                [self.model],
                js=f'(value) => objectPreview.view("{name}", value)',
                **QUIET,
            )
        self.buttons["fullscreen"].click(None, js="() => objectPreview.fullscreen()", **QUIET)

    def follow(self, shown: Dependency) -> Dependency:
        """Set the camera after an event that showed an object."""
        return shown.success(None, None, [self.model], js=SHOWN, **QUIET)


def show(
    store: SessionStore,
    key: str | None,
    settings: ReliefSettings | MeshSettings,
    *,
    aspect: float,
) -> tuple[str, str, str]:
    """Build an object light enough for the screen; return the path of its GLB, `Preview.about`, and facts.

    Raises:
        DemoError: The depth is gone, or the settings contradict each other.
    """
    result, light = store.result(key), settings.preview()
    if isinstance(light, ReliefSettings):
        relief = store.workflow.relief(result.depth, light, photo=result.photo)
        kind, data = "relief", export.preview_glb(relief, longest=1.0)
        about, facts = about_relief(relief, key), print_facts(relief)
    else:
        surface = store.workflow.surface(result.depth, result.photo, light)
        kind, data = "mesh", export.eye_glb(surface, aspect=aspect)
        about, facts = _about("mesh", key, eye=1.0), ""
    return write_file(store.folder(), f"{result.photo.stem}_{kind}_preview.glb", data), about, facts


def about_relief(relief: Relief, key: str | None) -> str:
    """Return what preview.js reads of a relief whose longest side is 1."""
    return _about("relief", key, size=[round(side / max(relief.size_mm), 4) for side in relief.size_mm])


def _about(kind: str, key: str | None, *, size: Sequence[float] = (1, 1, 1), eye: float | None = None) -> str:
    """Return an id of the object, its extents, and how far its photo's camera was, as preview.js reads it."""
    about = {"object": f"{kind}-{crc32(str(key).encode()):08x}", "size": size, "eye": eye}
    return f'<span hidden data-about="{html.escape(json.dumps(about))}"></span>'


def aspect_of(view: object) -> float:
    """Return the width over the height of the canvas as preview.js sent it."""
    found = getattr(view, "aspect", None)
    if not isinstance(found, int | float) or not found > 0:
        return ASPECT
    return min(max(float(found), NARROWEST), WIDEST)


def preset(name: object) -> ReliefSettings:
    """Return the settings of a preset; those of the standard where there is none of this name."""
    return RELIEF_PRESETS.get(str(name), ReliefSettings())


def lit_picture(result: DepthResult, settings: ReliefSettings, *, longest_px: int) -> NDArray[np.uint8]:
    """Return a relief in raking light as uint8 [H, W, 3], with so many samples along its long side.

    Raises:
        SettingsError: The settings contradict each other or the picture.
    """
    samples = max(128, longest_px)
    light = replace(
        settings,
        resolution=samples,
        smooth_px=settings.smooth_px * samples / settings.resolution,
        tolerance_mm=COARSE_MM,
    )
    relief = Workflow.relief(result.screen_depth, light, photo=result.photo)
    return colored_piece(relief.field, light)


def chips(result: DepthResult) -> str:
    """Return a style sheet with a picture of this photo for each style."""
    rules = (
        f'#preset label:has(input[value="{name}"]) {{ --picture: url({_chip(result, name)}); }}'
        for name in STYLES
    )
    return f"<style>{''.join(rules)}</style>"


def drag_picture(result: DepthResult, settings: ReliefSettings) -> str:
    """Return the relief as an image in HTML, small enough to follow a slider."""
    return image(lit_picture(result, settings, longest_px=DRAG_PX))


def image(rgb: NDArray[np.uint8]) -> str:
    """Return a picture [H, W, 3] as an image in HTML."""
    return f'<img alt="" src="{html.escape(picture_address(Image.fromarray(rgb)))}">'


def _chip(result: DepthResult, name: str) -> str:
    picture = Image.fromarray(lit_picture(result, preset(name), longest_px=CHIP_PX))
    return picture_address(ImageOps.fit(picture, CHIP_SIZE))


def picture_address(picture: Image.Image) -> str:
    """Return a picture as an address that holds it as JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
