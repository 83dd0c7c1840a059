"""The light on a relief, in NumPy: raking light with dark hollows, or light through a lithophane.

Picture, 3D preview and the documentation's pictures have it in their colors, because viewers' own lamps leave
five millimeters of relief gray. Heights are steepened for the light alone, and hollows are darkened by how
far they lie under their blurred surroundings. Brightness is a place on a ramp of colors.
"""

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.geometry.heightfield import Heightfield, resample
from marigold_demo.geometry.heightmap import continued, continued_map
from marigold_demo.settings import ReliefSettings

# Heights are so many times as high for the light, and once more when blurred by a share of the long side, so
# that forms outweigh grain.
STEEPER = 1.1
FORM, FORM_STEEPER = 0.006, 1.9
AMBIENT, KEY, FILL = 0.13, 0.8, 0.12
KEY_LIGHT, FILL_LIGHT = (-0.58, 0.68, 0.45), (0.6, -0.55, 0.58)  # from the upper left, from the lower right
# Blur as a share of the long side, and how much it counts: crevices, hollows, the field behind the subject.
CAVITIES = ((0.015, 0.55), (0.05, 0.35), (0.2, 0.3))
FINEST_BLUR_PX = 4.0
DIM = 60  # level of a lithophane's walls
GAMMA = 2.2  # of screens
GROUND = (0x1C, 0x1A, 0x17)
GROUND_LEVEL = 0.11  # its brightness
# Brightness -> color: plaster, and plastic with a lamp behind it.
PLASTER = ((0.0, (9, 8, 7)), (GROUND_LEVEL, GROUND), (0.78, (0xDB, 0xD2, 0xC0)), (1.0, (0xFF, 0xFA, 0xEE)))
BACKLIT = (
    (0.0, (9, 8, 7)),
    (GROUND_LEVEL, GROUND),
    (0.35, (104, 72, 46)),
    (0.6, (198, 150, 100)),
    (0.85, (247, 218, 168)),
    (1.0, (0xFF, 0xF6, 0xE0)),
)

Numbers = NDArray[np.float32]
Levels = NDArray[np.uint8]


def shade(normals: Numbers, cavity: Numbers | float = 0.0) -> Numbers:
    """Return the brightness [...] of plaster, 0 to 1.

    Args:
        normals: float32 [..., 3], unit length; x right, y up the picture, z towards the viewer.
        cavity: How far each place stands out of its surroundings; below 0 in hollows.
    """
    light = np.asarray(cavity, dtype=np.float32) + np.float32(AMBIENT)
    for strength, direction in ((KEY, KEY_LIGHT), (FILL, FILL_LIGHT)):
        toward = np.array(direction, dtype=np.float32) / np.float32(np.linalg.norm(direction))
        light = light + np.float32(strength) * np.maximum(normals @ toward, 0)
    brightness: Numbers = np.clip(light, 0, 1).astype(np.float32)
    return brightness


def shade_heights(heights: Numbers, *, pitch: float, full: float) -> Numbers:
    """Return the brightness float32 [H, W] of heights in raking light, 0 to 1.

    Args:
        heights: float32 [H, W], larger is nearer to the viewer; the first row is the top of the picture.
        pitch: Size of a pixel in the unit of heights.
        full: From the lowest to the highest point of the picture, in the unit of heights.
    """
    form = _blurred(heights, FORM * max(heights.shape))
    steep = np.float32(STEEPER) * heights + np.float32(FORM_STEEPER) * form
    down, across = np.gradient(steep, np.float32(pitch))
    normals = np.stack([-across, down, np.ones_like(heights)], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return shade(normals, cavity(heights, full=full))


def cavity(heights: Numbers, *, full: float) -> Numbers:
    """Return how far heights [H, W] stand out of their surroundings as a share of `full`, weighted."""
    found = np.zeros_like(heights)
    for sigma, weight in CAVITIES:
        found += np.float32(weight / full) * (heights - _blurred(heights, sigma * max(heights.shape)))
    return found


def _blurred(heights: Numbers, sigma: float) -> Numbers:
    """Blur heights [H, W]; wide blurs are worked out on fewer pixels."""
    factor = max(1, int(sigma / FINEST_BLUR_PX))
    rows, columns = heights.shape
    small = resample(heights, max(1, columns // factor), max(1, rows // factor))
    blurred = scipy.ndimage.gaussian_filter(small, sigma / factor, mode="nearest", truncate=2.5)
    wide = Image.fromarray(blurred).resize((columns, rows), Image.Resampling.BILINEAR)
    return np.asarray(wide)


def shine_through(thickness: Numbers, *, lowest: float, full: float, contrast: float) -> Numbers:
    """Return the brightness [...] of a lithophane before a lamp, 0 to 1.

    Light falls off exponentially in plastic: the thickest place passes 1 / contrast of the thinnest's.
    """
    share = np.clip((thickness - np.float32(lowest)) / np.float32(full), 0, None)
    light: Numbers = np.float32(contrast) ** (-share / np.float32(GAMMA))
    return light


def light_piece(field: Heightfield, settings: ReliefSettings) -> Levels:
    """Return the brightness uint8 [H, W] of a whole piece with its frame, as it lies; a bend is not shown."""
    heights, inside = continued_map(field, with_frame=True)
    return _light(field, settings, heights, inside, pitch=field.footprint.outer_mm[0] / heights.shape[1])


def colored_piece(field: Heightfield, settings: ReliefSettings) -> Levels:
    """Return the color uint8 [H, W, 3] of a whole piece in its light, as it lies."""
    return ramp(settings)[light_piece(field, settings)]


def light_picture(field: Heightfield, settings: ReliefSettings) -> Levels:
    """Return the brightness uint8 [R, C] of the picture alone, sample for sample."""
    heights, columns = continued(field), field.heights.shape[1]
    pitch = field.footprint.width_mm / (columns - 1)
    return _light(field, settings, heights, field.footprint.picture, pitch=pitch)


def _light(
    field: Heightfield,
    settings: ReliefSettings,
    heights: Numbers,
    inside: NDArray[np.bool_] | None,
    *,
    pitch: float,
) -> Levels:
    if settings.source == "luminance":
        light = shine_through(
            heights, lowest=settings.base_mm, full=settings.relief_mm, contrast=settings.contrast
        )
    else:
        light = shade_heights(heights, pitch=pitch, full=settings.relief_mm)
    if inside is not None:
        light = np.where(inside, light, np.float32(GROUND_LEVEL))
    return np.round(light * 255).astype(np.uint8)


def ramp(settings: ReliefSettings) -> Levels:
    """Return the colors uint8 [256, 3] of all levels of brightness."""
    stops, colors = zip(*(BACKLIT if settings.source == "luminance" else PLASTER), strict=True)
    levels = np.arange(256) / 255
    channels = [np.interp(levels, stops, channel) for channel in zip(*colors, strict=True)]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8)


def scaled(levels: Levels, longest: int) -> Levels:
    """Resize brightness [H, W] so that its long side has so many pixels."""
    rows, columns = levels.shape
    scale = longest / max(rows, columns)
    return resized(levels, max(1, round(columns * scale)), max(1, round(rows * scale)))


def resized(levels: Levels, columns: int, rows: int) -> Levels:
    """Resize brightness [H, W] to so many columns and rows."""
    return np.asarray(Image.fromarray(levels).resize((columns, rows), Image.Resampling.LANCZOS))
