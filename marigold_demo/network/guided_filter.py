"""Depth as coarse as the network's grid -> depth as fine as the photo, its edges where the photo has them.

A small network draws edges of depth some pixels wide. The guided filter makes depth a linear function of the
photo's colors in every small window, so an edge of depth moves onto the edge of color beside it; where the
photo has none, depth stays smooth. He, Sun and Tang, "Guided Image Filtering", TPAMI 2013, eq. (14) to (16);
what is found on the coarse grid is applied on the fine one, as in He and Sun, "Fast Guided Filter", 2015.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter, uniform_filter

RADIUS = 4  # of the windows, in pixels of the coarse grid
LEAST_VARIANCE = 1e-3  # of colors in 0..1: windows that vary less are taken as plain
ROWS = 256  # of the photo at a time, so that memory stays bounded

Plane = NDArray[np.float32]


def guided_upsample(depth: Plane, small: NDArray[np.uint8], photo: NDArray[np.uint8]) -> Plane:
    """Enlarge depth to the size of a photo with edges that follow the photo's.

    Args:
        depth: float32 [h, w].
        small: The photo at the size of depth: uint8 [h, w, 3].
        photo: uint8 [H, W, 3].

    Returns:
        float32 [H, W]; nowhere outside the depths that the coarse map has nearby.
    """
    guide = small * np.float32(1 / 255)  # [h, w, 3]
    slope, offset = _coefficients(depth, guide)  # [h, w, 3], [h, w]
    window = 4 * RADIUS + 1  # a coefficient has seen depth this far around
    height, width = photo.shape[:2]
    planes = np.stack(
        [*np.moveaxis(slope, -1, 0), offset, minimum_filter(depth, window), maximum_filter(depth, window)]
    )
    wide = _enlarge(planes, width, axis=2)  # [6, h, W]
    enlarged = np.empty((height, width), np.float32)  # [H, W]
    for top in range(0, height, ROWS):
        rows = slice(top, min(top + ROWS, height))
        *slopes, shift, low, high = _enlarge(wide, height, axis=1, part=rows)  # [R, W] each
        fine = shift
        for channel, steep in enumerate(slopes):
            fine += steep * (photo[rows, :, channel] * np.float32(1 / 255))
        np.clip(fine, low, high, out=enlarged[rows])
    return enlarged


def _coefficients(depth: Plane, guide: Plane) -> tuple[Plane, Plane]:
    """Fit depth [h, w] = slope . color + offset in every window; return slope [h, w, 3] and offset [h, w]."""
    mean_color = np.stack([_mean(guide[..., c]) for c in range(3)], axis=-1)  # [h, w, 3]
    mean_depth = _mean(depth)  # [h, w]
    together = np.stack([_mean(guide[..., c] * depth) for c in range(3)], axis=-1)  # [h, w, 3]
    covariance = together - mean_color * mean_depth[..., None]
    spread = np.empty((*depth.shape, 3, 3), np.float32)
    for i in range(3):
        for j in range(i, 3):
            product = _mean(guide[..., i] * guide[..., j]) - mean_color[..., i] * mean_color[..., j]
            spread[..., i, j] = spread[..., j, i] = product
    spread += LEAST_VARIANCE * np.eye(3, dtype=np.float32)
    slope = np.linalg.solve(spread, covariance[..., None])[..., 0].astype(np.float32, copy=False)
    offset = mean_depth - np.einsum("hwc,hwc->hw", slope, mean_color)
    return np.stack([_mean(slope[..., c]) for c in range(3)], axis=-1), _mean(offset)


def _mean(plane: Plane) -> Plane:
    averaged: Plane = uniform_filter(plane, 2 * RADIUS + 1, mode="nearest")
    return averaged


def _enlarge(planes: Plane, length: int, *, axis: int, part: slice = slice(None)) -> Plane:
    """Resize planes [N, h, w] bilinearly along an axis to a length, and return a part of that."""
    coarse = planes.shape[axis]
    place = np.clip((np.arange(length)[part] + 0.5) * coarse / length - 0.5, 0, coarse - 1)
    before = place.astype(np.intp)
    after = np.minimum(before + 1, coarse - 1)
    share = (place - before).astype(np.float32).reshape(-1, *[1] * (planes.ndim - 1 - axis))
    first, second = planes.take(before, axis), planes.take(after, axis)
    second -= first
    second *= share
    second += first
    return second  # type: ignore[no-any-return]
