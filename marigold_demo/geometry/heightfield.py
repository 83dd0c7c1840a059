"""The height field of a relief: the frame's cross-section, and heights from depth, brightness or shading.

The frame is nested rings. Heights are from 0 to 1 first, then in millimeters with a disc's rim.

The photo's fine shading as heights is light that falls on form, told from paint as in Retinex (Land and
McCann, 1971; Horn, 1974), which thresholds gradients of log brightness: steep ones are paint, the others are
integrated again. Here changes of hue and steps that are as sharp as the picture allows count as paint too,
and under paint the shading goes on evenly.
"""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.errors import SettingsError
from marigold_demo.geometry.bas_relief import compress, fit_tilt, gradient, integrate, unit_range
from marigold_demo.geometry.footprint import Footprint, ReliefPhoto
from marigold_demo.settings import ReliefSettings

SMALLEST_MM = 0.1  # a narrower frame cannot be printed
SMALLEST_PICTURE_MM = 5.0
ROUND_RINGS = 12
OPAQUE = 254  # of 255
CONE = 0.89  # eight directions make a cone that is up to 8 % too steep between them, and creases of it more
CREASE_SIGMA = 1.0  # samples over which its creases are smoothed, which makes nothing else steeper
SIGMA_PER_PX = 0.7  # smooth_px is the reach of the smoothing; the gaussian's sigma is a little less
# Fine shading of the photo.
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
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Ring:
    """One ring: its distance outside the picture and its height above the back, in millimeters."""

    outward_mm: float
    height_mm: float


@dataclass(frozen=True)
class Profile:
    """Cross-section of the frame.

    Attributes:
        rings: Strictly outwards, beginning beside the picture; empty without a frame.
        width_mm: Width of the frame; 0 without one.
    """

    rings: tuple[Ring, ...] = ()
    width_mm: float = 0.0

    @property
    def heights_mm(self) -> tuple[float, ...]:
        """Heights of all rings."""
        return tuple(ring.height_mm for ring in self.rings)


def make_profile(settings: ReliefSettings) -> Profile:
    """Return the cross-section that the settings ask for.

    Raises:
        SettingsError: The frame is too thin, or leaves no picture.
    """
    width = _width_mm(settings)
    if width == 0:
        return Profile()
    base, top = settings.base_mm, settings.base_mm + frame_top_mm(settings)
    slope = min(settings.bevel_mm, width / 2)  # the inner slope, never 0 and never more than half the frame
    if settings.frame == "flat":
        return Profile((Ring(slope, top), Ring(width, top)), width)
    if settings.frame == "bevel":
        chamfer = min((width - slope) / 2, max(top - base, slope))
        return Profile((Ring(slope, top), Ring(width - chamfer, top), Ring(width, base)), width)
    turn = np.linspace(0, np.pi, ROUND_RINGS + 1)
    outward = slope + (width - slope) * (1 - np.cos(turn)) / 2
    height = base + (top - base) * np.sin(turn)
    return Profile(tuple(Ring(float(d), float(z)) for d, z in zip(outward, height, strict=True)), width)


def frame_top_mm(settings: ReliefSettings) -> float:
    """Return the top of the frame above the base; the rim of a mold is never lower than its relief."""
    if settings.frame_top_mm is None:
        return float(settings.relief_mm)
    if settings.mode == "mold":
        return float(max(settings.frame_top_mm, settings.relief_mm))
    return float(settings.frame_top_mm)


def _width_mm(settings: ReliefSettings) -> float:
    if settings.frame == "none" or settings.frame_mm == 0:
        return 0.0
    if settings.frame_mm < SMALLEST_MM:
        raise SettingsError(
            f"frame_mm is {settings.frame_mm:g}; it must be 0 or at least {SMALLEST_MM:g} mm."
        )
    left = settings.width_mm - 2 * settings.frame_mm
    if left < SMALLEST_PICTURE_MM:
        most = (settings.width_mm - SMALLEST_PICTURE_MM) / 2
        raise SettingsError(
            f"frame_mm is {settings.frame_mm:g}, which leaves no picture on {settings.width_mm:g} mm;"
            f" it must be at most {most:g} mm."
        )
    return float(settings.frame_mm)


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


def filled_up(heights: Grid, steepest: float, *, pitch: tuple[float, float]) -> Grid:
    """Raise the low side of steep places until no slope is steeper: float32 [R, C].

    Every sample becomes the base of a cone that starts at it and falls in eight directions. Steps of doubling
    length carry the cones all the way. Then creases are smoothed, so peaks lose a little height.

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
    smooth: Grid = scipy.ndimage.gaussian_filter(made, CREASE_SIGMA, mode="nearest", truncate=3.0)
    return smooth


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
