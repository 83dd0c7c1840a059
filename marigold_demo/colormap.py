"""Values [H, W] -> a colored image, through matplotlib's colormaps."""

from functools import cache

import matplotlib
import numpy as np
from numpy.typing import NDArray

# Even steps to the eye first, then the vivid ones; Spectral (near red, far blue) is how Marigold shows depth.
COLORMAPS = ("viridis", "magma", "inferno", "plasma", "cividis", "gray", "turbo", "Spectral")
DEFAULT_COLORMAP = "Spectral"
DIVERGING = "PuOr_r"  # below and above a middle, each in a color that everybody can tell from the other
MOST_CONTOURS = 40
_LEVELS = 1024
_LINE_PX = 1.3  # width of a contour on a image for the screen
_SCREEN_PX = 1280
_BAND = 64  # rows


def colorize(
    values: NDArray[np.floating],
    *,
    colormap: str = DEFAULT_COLORMAP,
    near: float = 0.0,
    far: float = 1.0,
    invert: bool = False,
    contours: int = 0,
) -> NDArray[np.uint8]:
    """Color values from `near` (first color of the map) to `far` (its last); all beyond takes the end ones.

    Args:
        values: [H, W]; depth 0 near .. 1 far, or anything else on one scale. NaN is colored as near.
        colormap: One of `COLORMAPS`, or `DIVERGING`.
        near: Value of the first color.
        far: Value of the last color; greater than `near`.
        invert: Run through the colors backwards.
        contours: Lines of equal depth, evenly spaced between `near` and `far`.

    Returns:
        uint8 [H, W, 3], sRGB.

    Raises:
        ValueError: The colormap is unknown, or `near` is not below `far`.
    """
    if not near < far:
        raise ValueError(f"near is {near} and far is {far}; near must be less")
    table = _table(colormap)  # [1024, 3]
    scaled = (values.astype(np.float32) - np.float32(near)) * np.float32((_LEVELS - 1) / (far - near))
    levels = np.clip(np.nan_to_num(scaled, copy=False, nan=0.0), 0, _LEVELS - 1)
    levels = np.rint(levels, out=levels).astype(np.int16)  # [H, W]
    table = table[::-1] if invert else table
    image: NDArray[np.uint8] = np.take(table, levels, axis=0)  # [H, W, 3]
    if contours:
        steps = (values.astype(np.float32) - np.float32(near)) * np.float32((contours + 1) / (far - near))
        _draw_contours(image, steps, table=table, count=contours)
    return image


def _draw_contours(
    image: NDArray[np.uint8], steps: NDArray[np.float32], *, table: NDArray[np.uint8], count: int
) -> None:
    """Draw a line where `steps` [H, W] is a whole number from 1 to `count`, dark on light and light on dark.

    A pixel is covered by its distance to the line, which is the difference in value over the slope; so lines
    are equally wide and smooth at their edges on any slope.
    """
    rows, columns = steps.shape
    if min(rows, columns) < 2:
        return
    ground = table[
        np.arange(count + 1) * (_LEVELS - 1) // (count + 1)
    ]  # [count + 1, 3], what lies under each
    ink = np.where(ground @ np.array([0.2126, 0.7152, 0.0722]) > 125, 20, 245).astype(np.float32)
    for top in range(0, rows, _BAND):  # bands stay in the processor's cache
        bottom = min(top + _BAND, rows)
        above = max(top - 1, 0)
        share, level = _coverage(steps[above : bottom + 1], count=count, longest=max(rows, columns))
        share, level = share[top - above :][: bottom - top], level[top - above :][: bottom - top]
        y, x = np.nonzero(share > 0)
        under = image[top + y, x].astype(np.float32)  # [N, 3]
        line = ink[level[y, x].astype(np.intp), None]
        image[top + y, x] = np.rint(under + (line - under) * (0.75 * share[y, x, None])).astype(np.uint8)


def _coverage(
    steps: NDArray[np.float32], *, count: int, longest: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return how much of each pixel a line covers, and which line: both float32 [h, W]."""
    nearest = np.clip(np.rint(np.nan_to_num(steps)), 1, count)
    down, along = np.gradient(steps)
    slope = np.sqrt(down * down + along * along)
    plateau = np.float32(0.5 / longest)  # less slope than this has no line
    reach = np.float32(_LINE_PX / 2 * max(1.0, longest / _SCREEN_PX) + 0.5)
    share = np.clip(reach - np.abs(steps - nearest) / np.maximum(slope, plateau), 0, 1)
    return np.nan_to_num(share * np.minimum(slope / plateau, 1)), nearest


@cache
def _table(colormap: str) -> NDArray[np.uint8]:
    if colormap not in (*COLORMAPS, DIVERGING):
        raise ValueError(f"colormap is {colormap!r}; it must be one of {', '.join(COLORMAPS)}")
    steps = matplotlib.colormaps[colormap].resampled(_LEVELS)(np.arange(_LEVELS), bytes=True)
    table: NDArray[np.uint8] = np.ascontiguousarray(steps[:, :3])
    table.setflags(write=False)
    return table
