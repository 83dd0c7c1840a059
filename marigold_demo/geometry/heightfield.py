"""Depth or brightness into heights on a grid: from 0 to 1 first, then in millimeters with a disc's rim."""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.errors import DepthFileError
from marigold_demo.geometry.bas_relief import compress, fit_tilt, unit_range
from marigold_demo.geometry.footprint import Footprint, ReliefPhoto
from marigold_demo.geometry.frame import Profile

OPAQUE = 254  # of 255
EIGHT_BITS = (24, 300)  # so many different values mean 8 bits; fewer are intended, as in a logo
DEBAND_PX = (4.0, 2.0, 1.0)  # wider ones would shift curved forms past what rounding can have done
LARGEST_DEBANDED = 4e6  # in pixels; larger depth is averaged on its way down to the grid
SPOT_PX = 4  # the widest spot
SPOT_HEIGHT, SPOT_GROUND = 0.2, 0.05  # how far they stand out, and how even it is around them, of the range
MOST_SPOT_PIXELS = 10_000  # more are a texture, not spots
TOOTH_PX = 5  # teeth are narrower, in depth of up to 800 pixels
FEWEST_TEETH = 24
CONE = 0.96  # eight directions make a cone that is up to 8 % too steep between them
SIGMA_PER_PX = 0.7  # smooth_px is the reach of the smoothing; the gaussian's sigma is a little less

Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Leveling:
    """How the tilt of the whole picture was treated.

    Attributes:
        level: Share of the tilt that was taken out.
        share: Share of the depth's variance that the tilt explained.
    """

    level: float
    share: float


@dataclass(frozen=True, eq=False)
class Heightfield:
    """The heights that a relief's triangles follow.

    Attributes:
        heights: float32 [R, C] in millimeters above the back; those outside an outline mean nothing.
        footprint: Where they lie in x and y, and which of them are kept.
        profile: The frame around them.
    """

    heights: Grid
    footprint: Footprint
    profile: Profile

    @property
    def highest_mm(self) -> float:
        """The highest point of heights and frame."""
        return max([float(self._counted.max()), *self.profile.heights_mm])

    @property
    def lowest_mm(self) -> float:
        """The lowest point of frame and kept heights: the thinnest place above a flat back."""
        return min([float(self._counted.min()), *self.profile.heights_mm])

    @property
    def _counted(self) -> Grid:
        inside = self.footprint.picture
        return self.heights if inside is None else self.heights[inside]


def heights_from_depth(
    grid: Grid,
    *,
    near: float,
    far: float,
    detail: float,
    feature_scale: float,
    level: float | None = 0.0,
    kept: Mask | None = None,
) -> tuple[Grid, Leveling]:
    """Return heights float32 [R, C] in [0, 1], near high, and how the tilt was treated.

    Args:
        grid: Depth float32 [R, C], 0 near .. 1 far, finite; constant depth gives 0.5 everywhere.
        near: Depth that gives the highest point; nearer depth is cut off.
        far: Depth that gives the lowest point.
        detail: 0 gives linear heights, 1 the strongest detail of `bas_relief.compress`.
        feature_scale: See `bas_relief.compress`.
        level: Share of the tilt that is taken out; None takes out a part where tilt is nearly all.
        kept: bool [R, C], the samples that count; the heights of these span [0, 1].
    """
    values = np.clip(grid, near, far)
    if kept is not None:
        values = np.clip(values, values[kept].min(), values[kept].max())
    nearness = unit_range(-values)
    tilt = fit_tilt(nearness, kept=kept)
    if level is None:
        level = tilt.automatic_level() if detail > 0 else 0.0
    heights = compress(
        nearness, detail=detail, feature_scale=feature_scale, level=level, tilt=tilt, kept=kept
    )
    return heights if kept is None else spread(heights, kept), Leveling(level, tilt.share)


def heights_from_brightness(grid: Grid, *, contrast: float, kept: Mask | None = None) -> Grid:
    """Return heights float32 [R, C] in [0, 1] from luminance [R, C]: a lithophane is thick where dark.

    Light falls off exponentially in plastic (Lambert and Beer), so thickness goes with the logarithm. The
    darkest gray passes 1 / contrast of the light; all others lie evenly above it, so none is cut off.
    """
    counted = grid if kept is None else grid[kept]
    share = np.clip(grid / max(float(counted.max()), 1e-6), 0, 1)
    heights = unit_range(-np.log(share + (1 - share) / np.float32(contrast)))
    return heights if kept is None else spread(heights, kept)


def opaque_rgb(photo: ReliefPhoto) -> NDArray[np.uint8]:
    """Return the photo's pixels [H, W, 3]; those that are not quite opaque take the nearest opaque ones.

    A soft edge is mixed with white, which would make the rim of a lithophane thin.
    """
    if photo.alpha is None:
        return photo.rgb
    opaque = photo.alpha >= OPAQUE
    if opaque.all() or not opaque.any():
        return photo.rgb
    rows, columns = scipy.ndimage.distance_transform_edt(~opaque, return_distances=False, return_indices=True)
    filled: NDArray[np.uint8] = photo.rgb[rows, columns]
    return filled


def spread(heights: Grid, kept: Mask) -> Grid:
    """Let the heights of what is kept span [0, 1], and put the rest at 0."""
    low, high = heights[kept].min(), heights[kept].max()
    if not high > low:
        return np.full_like(heights, 0.5)
    return np.where(kept, np.clip((heights - low) / (high - low), 0, 1), np.float32(0))


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
    pole, stays, and so do fewer than `FEWEST_TEETH`.

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
        if (
            not FEWEST_TEETH <= np.count_nonzero(is_tooth) <= area.size
            or not area[is_tooth].sum() < values.size / 20
        ):
            continue
        tooth = is_tooth[parts]
        leveled = np.where(tooth, flat, leveled)
        row, column = np.nonzero(scipy.ndimage.binary_dilation(tooth, iterations=2))
        padded = np.pad(leveled, width, mode="edge")
        around = np.lib.stride_tricks.sliding_window_view(padded, (2 * width - 1, 2 * width - 1))
        leveled[row, column] = np.median(around[row + 1, column + 1], axis=(1, 2))  # the roots of the teeth
        count += int(np.count_nonzero(is_tooth))
    return leveled, count


def filled_up(heights: Grid, steepest: float, *, pitch: tuple[float, float]) -> Grid:
    """Raise the low side of steep places until no slope is steeper: float32 [R, C].

    Every sample becomes the base of a cone that starts at it and falls in eight directions. Steps of doubling
    length carry the cones all the way.

    Args:
        heights: float32 [R, C].
        steepest: Largest slope, in the unit of heights for each millimeter.
        pitch: Size of a cell in millimeters, down and across.
    """
    rows, columns = heights.shape
    most = float(np.ptp(heights)) / (steepest * min(pitch))
    made, step = heights.copy(), 1
    while step < 2 * most and step < max(rows, columns):
        for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
            fall = np.float32(CONE * steepest * step * np.hypot(down * pitch[0], across * pitch[1]))
            first = made[: rows - down * step, max(0, -across) * step : columns - max(0, across) * step]
            second = made[down * step :, max(0, across) * step : columns - max(0, -across) * step]
            raised = np.maximum(first, second - fall)
            np.maximum(second, first - fall, out=second)
            np.maximum(first, raised, out=first)
        step *= 2
    return made


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


def luminance(rgb: NDArray[np.uint8]) -> Grid:
    """Return the linear luminance of sRGB, float32 [H, W] in [0, 1] (Rec. 709 weights)."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    table = (linear[:, None] * np.array([0.2126, 0.7152, 0.0722])).astype(np.float32)  # [256, 3]
    total: Grid = table[rgb[..., 0], 0] + table[rgb[..., 1], 1] + table[rgb[..., 2], 2]
    return total


def to_millimeters(
    unit_heights: Grid, footprint: Footprint, profile: Profile, *, relief_mm: float, base_mm: float
) -> Heightfield:
    """Scale heights [R, C] from 0..1 to millimeters above the back."""
    heights = np.ascontiguousarray(unit_heights * np.float32(relief_mm) + np.float32(base_mm))
    return Heightfield(heights, footprint, profile)


def resample(values: Grid, columns: int, rows: int) -> Grid:
    """Resize [H, W] to [R, C]: antialiased on the way down, smooth on the way up, never past the range."""
    height, width = values.shape
    if (width, height) == (columns, rows):
        return values
    grows = columns > width or rows > height
    filter_ = Image.Resampling.BICUBIC if grows else Image.Resampling.BILINEAR
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    resized = np.asarray(picture.resize((columns, rows), filter_, reducing_gap=3.0))
    within: Grid = np.clip(resized, values.min(), values.max())
    return within


def smoothed(values: Grid, smooth_px: float, *, size: tuple[int, int]) -> Grid:
    """Return values [H, W] on a grid of so many columns and rows, smoothed: float32 [R, C]."""
    grid = resample(values, *size)
    if smooth_px > 0:
        sigma = smooth_px * SIGMA_PER_PX
        grid = scipy.ndimage.gaussian_filter(grid, sigma, mode="nearest", truncate=3.0)
    return grid
