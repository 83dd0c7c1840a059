"""Styles of a relief as pictures of the visitor's own photo, and the picture while a slider is dragged."""

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from marigold_demo.geometry import lighting
from marigold_demo.settings import RELIEF_PRESETS, ReliefSettings
from marigold_demo.ui.session_store import DepthResult
from marigold_demo.workflow import Workflow

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
    return lighting.colored_piece(relief.field, light)


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
    return f'<img alt="" src="{html.escape(_address(Image.fromarray(rgb)))}">'


def _chip(result: DepthResult, name: str) -> str:
    picture = Image.fromarray(lit_picture(result, preset(name), longest_px=CHIP_PX))
    return _address(ImageOps.fit(picture, CHIP_SIZE))


def _address(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
