"""Pixels into PNG and JPEG bytes. Knows nothing of depth or photos."""

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

JPEG_QUALITY = 92
PNG_LEVEL = 3  # higher levels take longer and save little

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def to_png(
    pixels: Pixels, *, per_inch: tuple[float, float] | None = None, text: Mapping[str, str] | None = None
) -> bytes:
    """Return a PNG.

    Args:
        pixels: uint8 [H, W, 3], uint8 [H, W] or uint16 [H, W].
        per_inch: Pixels per inch across and down.
        text: Latin-1 text by keyword.
    """
    about = PngInfo()
    for name, value in (text or {}).items():
        about.add_text(name, value)
    buffer = io.BytesIO()
    density = {} if per_inch is None else {"dpi": per_inch}
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=PNG_LEVEL, pnginfo=about, **density)
    return buffer.getvalue()


def to_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """Return a picture uint8 [H, W, 3] as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
