"""Mend faults of a depth map before it becomes heights: no value, spots, teeth, stairs, stepped outlines."""

import numpy as np
import scipy.ndimage
import scipy.spatial
from numpy.typing import NDArray

from marigold_demo.errors import DepthFileError

EIGHT_BITS = (24, 300)  # so many different values mean 8 bits; fewer are intended, as in a logo
DEBAND_PX = (4.0, 2.0, 1.0)  # wider ones would shift curved forms past what rounding can have done
LARGEST_DEBANDED = 4e6  # in pixels; larger depth is averaged on its way down to the grid
SPOT_PX = 4  # the widest spot
SPOT_HEIGHT, SPOT_GROUND = 0.2, 0.05  # how far they stand out, and how even it is around them, of the range
MOST_SPOT_PIXELS = 10_000  # more are a texture, not spots
TOOTH_PX = 5  # teeth are narrower, in depth of up to 800 pixels
FEWEST_TEETH = 24
FEWEST_IN_ROWS = 0.3  # share of them; 0.4 to 1 of teeth that an upsampling made, at most 0.07 of real tips
OUTLINE_SIGMA = 3.0  # pixels over which the direction of an outline is smoothed
OUTLINE_SLOPE = 0.02  # change of depth per pixel there from which it is an outline, as a share of its range
OUTLINE_REACH = 12  # pixels along an outline to each side

Grid = NDArray[np.float32]


def fill_invalid(values: Grid) -> Grid:
    """Give every NaN or infinity the value of its nearest finite neighbor.

    Raises:
        DepthFileError: There is no finite value.
    """
    valid = np.isfinite(values)
    if valid.all():
        return values
    if not valid.any():
        raise DepthFileError("The depth holds no finite value; give a depth map with numbers in it.")
    rows, columns = scipy.ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    filled: Grid = values[rows, columns]
    return filled


def without_spots(values: Grid) -> tuple[Grid, int]:
    """Level hot pixels, which would become needles: small spots that stand far out of even ground.

    They are left where nothing else would be, and in large depth, which is averaged on its way to the grid.

    Returns:
        float32 [H, W], itself where there are none, and how many pixels were leveled.
    """
    span, height, width = float(np.ptp(values)), *values.shape
    if min(height, width) <= 2 * SPOT_PX or not span > 0 or values.size > LARGEST_DEBANDED:
        return values, 0
    inner = values[SPOT_PX:-SPOT_PX, SPOT_PX:-SPOT_PX]
    far = (0, 2 * SPOT_PX)
    corners = [(SPOT_PX, at) for at in far] + [(at, SPOT_PX) for at in far]  # left, right, above, below
    aside = [values[y : y + inner.shape[0], x : x + inner.shape[1]] for y, x in corners]
    low, high = np.minimum.reduce(aside), np.maximum.reduce(aside)
    limit = np.float32(SPOT_HEIGHT * span)
    found = np.argwhere((inner < low - limit) | (inner > high + limit))
    if not 0 < len(found) <= MOST_SPOT_PIXELS:
        return values, 0
    leveled, count = values.copy(), 0
    ring = np.pad(np.zeros((2 * SPOT_PX - 1, 2 * SPOT_PX - 1), dtype=bool), 1, constant_values=True)
    for y, x in found:
        around = values[y : y + 2 * SPOT_PX + 1, x : x + 2 * SPOT_PX + 1][ring]
        if np.ptp(around) <= SPOT_GROUND * span:
            leveled[y + SPOT_PX, x + SPOT_PX] = np.median(around)
            count += 1
    return (leveled, count) if count and np.ptp(leveled) > SPOT_GROUND * span else (values, 0)


def without_teeth(values: Grid) -> tuple[Grid, int]:
    """Level rows of teeth along contours: short, narrow strips of one side of a jump on the other side.

    Near ones are found by a morphological closing of depth, far ones by an opening. What is longer, such as a
    pole, stays, and so do fewer than `FEWEST_TEETH` and the tips of leaves and fur, which stand in no rows.

    Returns:
        float32 [H, W], itself where there are none, and how many were leveled.
    """
    span, longest = float(np.ptp(values)), max(values.shape)
    if min(values.shape) < 64 or not span > 0 or values.size > LARGEST_DEBANDED:
        return values, 0
    width = TOOTH_PX if longest <= 800 else 2 * round(longest / 320) + 1
    leveled, count = values, 0
    for level in (scipy.ndimage.grey_closing, scipy.ndimage.grey_opening):
        flat = level(leveled, size=(width, width), mode="nearest")
        parts, found = scipy.ndimage.label(np.abs(flat - leveled) > SPOT_HEIGHT * span, np.ones((3, 3)))
        if found < FEWEST_TEETH:
            continue
        area = np.bincount(parts.ravel(), minlength=found + 1)
        length = np.array(
            [max(side.stop - side.start for side in box) for box in scipy.ndimage.find_objects(parts)]
        )
        is_tooth = np.append(False, (length > width // 2) & (length <= 3 * width)) & (area >= width)
        middles = np.array(scipy.ndimage.center_of_mass(parts > 0, parts, np.flatnonzero(is_tooth)))  # [N, 2]
        if len(middles) < FEWEST_TEETH or _share_in_rows(middles, area[is_tooth], width) < FEWEST_IN_ROWS:
            continue
        if not area[is_tooth].sum() < values.size / 20:
            continue
        tooth = is_tooth[parts]
        leveled = np.where(tooth, flat, leveled)
        row, column = np.nonzero(scipy.ndimage.binary_dilation(tooth, iterations=2))
        padded = np.pad(leveled, width, mode="edge")
        around = np.lib.stride_tricks.sliding_window_view(padded, (2 * width - 1, 2 * width - 1))
        leveled[row, column] = np.median(around[row + 1, column + 1], axis=(1, 2))  # the roots of the teeth
        count += int(np.count_nonzero(is_tooth))
    return leveled, count


def _share_in_rows(middles: NDArray[np.float64], area: NDArray[np.intp], width: int) -> float:
    """Return the share of parts that lie between their two nearest, as far from both and about as large."""
    distance, nearest = scipy.spatial.cKDTree(middles).query(middles, k=3)  # the first is the part itself
    first, second = (middles[nearest[:, k]] - middles for k in (1, 2))
    opposite = (first * second).sum(axis=1) < -0.7 * distance[:, 1] * distance[:, 2]
    evenly = (distance[:, 2] < 1.5 * distance[:, 1]) & (distance[:, 2] < 4 * width)
    ratios = area[nearest[:, 1:]] / area[:, None]
    alike = ((ratios > 0.4) & (ratios < 2.5)).all(axis=1)
    return float((opposite & evenly & alike).mean())


def with_even_outlines(values: Grid) -> Grid:
    """Take the staircase of pixels out of outlines, which a cutter would follow.

    At depth jumps every pixel takes the mean of depth along its outline. It stays within what its neighbors
    have, so no outline moves by more than a pixel.

    Returns:
        float32 [H, W], itself where depth is flat or large.
    """
    span = float(np.ptp(values))
    if not span > 0 or min(values.shape) < 2 or values.size > LARGEST_DEBANDED:
        return values
    broad = scipy.ndimage.gaussian_filter(values, OUTLINE_SIGMA, mode="nearest", truncate=3.0)
    down, across = np.gradient(broad)
    slope = np.hypot(down, across)
    at = np.nonzero(scipy.ndimage.maximum_filter(slope, 3) > OUTLINE_SLOPE * span)
    slope = np.maximum(slope, np.float32(1e-9 * span))
    along = np.stack([across / slope, -down / slope])  # [2, H, W], unit vectors along outlines
    low, high = scipy.ndimage.minimum_filter(values, 3)[at], scipy.ndimage.maximum_filter(values, 3)[at]
    made = values.copy()
    made[at] = np.clip(_mean_along(values, np.array(at), along), low, high)
    return made


def _mean_along(values: Grid, at: NDArray[np.intp], along: Grid) -> NDArray[np.float64]:
    """Return weighted means float64 [N] of values [H, W] on lines from pixels `at` [2, N] to both sides."""
    last = np.array(values.shape)[:, None] - 1
    total, weights = values[at[0], at[1]].astype(np.float64), 1.0
    for side in (1.0, -1.0):
        place, direction = at.astype(np.float64), side * along[:, at[0], at[1]]  # [2, N]
        for step in range(1, OUTLINE_REACH + 1):
            place = np.clip(place + direction, 0, last)
            row, column = np.rint(place).astype(np.intp)
            turned = along[:, row, column]
            direction = np.where((turned * direction).sum(axis=0) < 0, -turned, turned)
            weight = 0.5 + 0.5 * np.cos(np.pi * step / (OUTLINE_REACH + 1))
            total += weight * scipy.ndimage.map_coordinates(values, place, order=1, mode="nearest")
            weights += weight
    mean: NDArray[np.float64] = total / weights
    return mean


def debanded(values: Grid) -> Grid:
    """Take the stairs out of depth that has been through 8 bits; other depth is returned as it is.

    Each value may move half way to the next level, which is all that rounding can have changed, and goes as
    far towards its blurred surroundings as that: slopes become smooth, cliffs stay.

    Args:
        values: float32 [H, W], finite.
    """
    fewest, most = EIGHT_BITS
    stride = max(1, int((values.size / 1e5) ** 0.5))
    if len(_levels(values[::stride, ::stride])) > most or values.size > LARGEST_DEBANDED:
        return values
    levels = _levels(values)
    if not fewest <= len(levels) <= most:
        return values
    steps = np.diff(levels)
    usual = scipy.ndimage.median_filter(steps, size=9, mode="mirror")
    half = np.where(steps < 2 * usual, steps, 0) / 2  # over a gap in the levels lies a cliff
    index = np.searchsorted(levels, values)
    low = values - np.concatenate([half[:1], half])[index]
    high = values + np.concatenate([half, half[-1:]])[index]
    smooth = values
    for sigma in DEBAND_PX:
        smooth = np.clip(
            scipy.ndimage.gaussian_filter(smooth, sigma, mode="nearest", truncate=2.0), low, high
        )
    return smooth


def _levels(values: Grid) -> Grid:
    """Return the different values in ascending order; a tenth of np.unique's time."""
    ordered = np.sort(values, axis=None)
    levels: Grid = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]
    return levels
