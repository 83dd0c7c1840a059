"""The photo's fine shading as heights: light that falls on form, told from paint as in Retinex.

Retinex (Land and McCann, 1971; Horn, 1974) thresholds gradients of log brightness: steep ones are paint, the
others are integrated again. Here changes of hue and steps that are as sharp as the picture allows count as
paint too, and under paint the shading goes on evenly.
"""

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.geometry.bas_relief import gradient, integrate, unit_range
from marigold_demo.geometry.heightfield import resample

GRAIN = 2e-3  # brightness finer than this share of the long side is grain
FINEST_GRID = 512  # samples along the long side that hold all that is coarser than grain
FORM = 0.06  # brightness coarser than this is left to depth
DARK = 0.06  # added to brightness before its logarithm: noise of dark areas stays small
HUE_STEP = 0.012  # change of log color per sample, on 1024 samples, from which paint changes, not light
PAINT_STEP = 0.1  # the same of log brightness
EDGE_STEP = 0.05  # the same of a change of brightness that is a step
EDGE_GRAINS = 3.0  # a step is steep in the picture and, at so many times the grain, still there
BESIDE = 2e-3  # paint reaches so far beyond its edges, as a share of the long side
GAIN = 1.1
DARKER = np.float32(0.75)  # dark areas sink by this share of what bright ones rise
STRONGEST = np.float32(0.2)  # most that brightness raises or lowers, as a share of the relief
BACKGROUND = np.float32(0.4)  # how much of it low places get
FLOOR = 0.05  # height below which it fades out: clouds are no shape

_LOGS = np.log(np.arange(256, dtype=np.float32) / 255 + np.float32(DARK))
Grid = NDArray[np.float32]


def with_photo_detail(heights: Grid, rgb: NDArray[np.uint8], *, amount: float) -> Grid:
    """Add fine shading of the photo to heights, more of it to high places: float32 [R, C] in [0, 1].

    Depth has the shape of a face but seldom its wrinkles; shading has them, and light from above makes them
    look like shape.

    Args:
        heights: float32 [R, C] in [0, 1]; constant ones stay so.
        rgb: Photo uint8 [H, W, 3] of the same picture.
        amount: 1 raises by at most a fifth of the relief, and lowers by three quarters of that, before all is
            brought back to [0, 1].
    """
    if amount == 0 or not np.ptp(heights) > 0:
        return heights
    weight = np.minimum(heights / np.float32(FLOOR), 1) * (BACKGROUND + (1 - BACKGROUND) * heights)
    return unit_range(heights + np.float32(amount) * weight * shading_detail(rgb, heights.shape))


def shading_detail(rgb: NDArray[np.uint8], shape: tuple[int, ...]) -> Grid:
    """Return the fine shading of a photo, float32 [R, C] from -`DARKER` `STRONGEST` to `STRONGEST`."""
    longest = min(max(shape), FINEST_GRID)
    rows, columns = (max(1, round(side * longest / max(shape))) for side in shape)
    small = Image.fromarray(rgb).resize((columns, rows), Image.Resampling.BILINEAR, reducing_gap=3.0)
    logs = _LOGS[np.asarray(small)]  # [R, C, 3]
    red, green, blue = (_blurred(logs[..., channel], longest * GRAIN) for channel in range(3))
    light = 0.3 * red + 0.59 * green + 0.11 * blue
    across, down = gradient(light)
    paint = _paint(light, (red - green, blue - green))
    is_form: Grid = np.reciprocal(1 + paint * paint)
    across *= is_form
    down *= is_form
    on_across, on_down = gradient(integrate(across, down, sizes=(FORM,)))  # under paint it goes on
    shading = integrate(across + (1 - is_form) * on_across, down + (1 - is_form) * on_down, sizes=(FORM,))
    shading *= np.float32(GAIN)
    np.maximum(shading, shading * DARKER, out=shading)
    return resample(STRONGEST * np.tanh(shading / STRONGEST), *shape[::-1])


def _paint(light: Grid, hues: tuple[Grid, Grid]) -> Grid:
    """Return how sure a change is paint: float32 [R, C], 1 where it is as likely as form.

    Args:
        light: Log brightness [R, C] without grain.
        hues: Differences [R, C] of log colors.
    """
    longest = max(light.shape)
    per_px = (longest / 1024) ** 2  # squared gradients as they are on a grid of 1024 samples
    across, down = gradient(light)
    coarse_across, coarse_down = gradient(_blurred(light, longest * GRAIN * (EDGE_GRAINS**2 - 1) ** 0.5))
    coarse = coarse_across * coarse_across + coarse_down * coarse_down
    finer = (across - coarse_across) ** 2 + (down - coarse_down) ** 2
    paint = np.minimum(finer, 4 * coarse) * np.float32(per_px / EDGE_STEP**2)  # creases vanish in the coarse
    paint += (across * across + down * down) * np.float32(per_px / PAINT_STEP**2)
    for hue in hues:
        across, down = gradient(hue)
        paint += (across * across + down * down) * np.float32(per_px / HUE_STEP**2)
    widest: Grid = scipy.ndimage.maximum_filter(paint, 2 * round(longest * BESIDE) + 1, mode="nearest")
    return widest


def _blurred(values: Grid, sigma: float) -> Grid:
    blurred: Grid = scipy.ndimage.gaussian_filter(values, sigma, mode="nearest", truncate=3.0)
    return blurred
