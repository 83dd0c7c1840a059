"""A relief as a picture of heights with square pixels, for programs that carve or engrave from one."""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from marigold_demo.geometry.heightfield import Heightfield
from marigold_demo.geometry.outline import extended
from marigold_demo.geometry.solid import ellipse_mm

SQUARE = 1e-3  # the most that the sides of a pixel may differ
MORE_PIXELS = 256  # along the long side, to find square ones

Grid = NDArray[np.float32]
Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class MapSize:
    """What a height map covers, in millimeters.

    Attributes:
        left: Left edge in the coordinates of the relief.
        front: Front edge.
        width: Extent in x.
        depth: Extent in y.
        low: What the lowest level stands for, above the back.
        high: What the highest level stands for.
    """

    left: float
    front: float
    width: float
    depth: float
    low: float
    high: float

    @property
    def span(self) -> float:
        """From the lowest to the highest level."""
        return self.high - self.low


def map_size(field: Heightfield, *, with_frame: bool) -> MapSize:
    """Return what the height map of a relief covers: the picture, or the whole piece with its frame."""
    footprint, inside = field.footprint, field.footprint.picture
    counted = field.heights if inside is None else field.heights[inside]
    if with_frame:
        return MapSize(0.0, 0.0, *footprint.outer_mm, field.lowest_mm, field.highest_mm)
    left, front, width, depth = footprint.left_mm, footprint.front_mm, footprint.width_mm, footprint.depth_mm
    if footprint.outline is not None:
        frame = field.profile.width_mm
        left, front, (width, depth) = frame, frame, footprint.outer_mm
        width, depth = width - 2 * frame, depth - 2 * frame
    return MapSize(left, front, width, depth, float(counted.min()), float(counted.max()))


def height_map(field: Heightfield, *, with_frame: bool) -> Grid:
    """Return heights float32 [H, W] in millimeters above the back; what is cut away is lowest."""
    size = map_size(field, with_frame=with_frame)
    heights, inside = continued_map(field, with_frame=with_frame)
    return heights if inside is None else np.where(inside, heights, np.float32(size.low))


def continued_map(field: Heightfield, *, with_frame: bool) -> tuple[Grid, Mask | None]:
    """Return the height map with heights that go on past the border, and which are inside it.

    Returns:
        float32 [H, W] in millimeters above the back, and bool [H, W]; None where all are inside.
    """
    size = map_size(field, with_frame=with_frame)
    columns, rows = _square_pixels(size, longest=max(field.heights.shape))
    x = size.left + size.width * (np.arange(columns) + 0.5) / columns
    y = size.front + size.depth * (1 - (np.arange(rows) + 0.5) / rows)
    inside: Mask | None = None
    if field.footprint.outline is None:
        made = _around_rectangle(field, x, y)
    elif field.footprint.outline.ellipse is not None:
        made, inside = _around_ellipse(field, x, y)
    else:
        inside = _sampled(field.footprint.outline.level, field, *np.meshgrid(x, y)) > 0
        made = _sampled(continued(field), field, *np.meshgrid(x, y))
    return np.clip(made, size.low, size.high).astype(np.float32), inside


def _square_pixels(size: MapSize, *, longest: int) -> tuple[int, int]:
    """Return the fewest columns and rows from so many on whose pixels are square."""
    sides = np.array([size.width, size.depth])
    for pixels in range(longest, longest + MORE_PIXELS):
        counts = np.maximum(1, np.round(sides * (pixels / sides.max())))
        pitch = sides / counts
        if abs(pitch[0] / pitch[1] - 1) <= SQUARE:
            break
    return int(counts[0]), int(counts[1])


def _around_rectangle(field: Heightfield, x: Numbers, y: Numbers) -> Numbers:
    footprint = field.footprint
    right, back = footprint.left_mm + footprint.width_mm, footprint.front_mm + footprint.depth_mm
    across = np.maximum(np.maximum(footprint.left_mm - x, x - right), 0)
    down = np.maximum(np.maximum(footprint.front_mm - y, y - back), 0)
    heights = _sampled(field.heights, field, *np.meshgrid(x, y))  # outside, that of the nearest border
    return _with_frame(heights, np.maximum(across, down[:, None]), field)


def _around_ellipse(field: Heightfield, x: Numbers, y: Numbers) -> tuple[Numbers, Mask]:
    outer, (a, b) = field.footprint.outer_mm, ellipse_mm(field.footprint)
    x, y = x - outer[0] / 2, y[:, None] - outer[1] / 2
    low, high = np.zeros((y.size, x.size)), np.full((y.size, x.size), max(outer))
    for _ in range(40):  # how far outside the picture's ellipse, along one whose half axes are longer by that
        middle = (low + high) / 2
        is_beyond = (x / (a + middle)) ** 2 + (y / (b + middle)) ** 2 > 1
        low, high = np.where(is_beyond, middle, low), np.where(is_beyond, high, middle)
    inner_x, inner_y = x * (a / (a + low)), y * (b / (b + low))
    heights = _sampled(continued(field), field, inner_x + outer[0] / 2, inner_y + outer[1] / 2)
    made = _with_frame(heights, np.where(low < 1e-6, 0, low), field)
    return made, low <= field.profile.width_mm + 1e-6


def _with_frame(heights: Numbers, outward: Numbers, field: Heightfield) -> Numbers:
    """Put the frame where it is: outside the picture by `outward` millimeters [H, W]."""
    rings = field.profile.rings
    if not rings:
        return heights
    first = rings[0]
    share = np.clip(outward / first.outward_mm, 0, 1)
    slope = heights * (1 - share) + first.height_mm * share
    rim = np.interp(outward, [ring.outward_mm for ring in rings], field.profile.heights_mm)
    made: Numbers = np.where(outward < first.outward_mm, slope, rim)
    return made


def continued(field: Heightfield) -> Grid:
    """Return the heights [R, C] in millimeters, those outside an outline as high as beside it."""
    inside = field.footprint.picture
    return field.heights if inside is None else extended(field.heights, inside)


def _sampled(values: Grid, field: Heightfield, x: Numbers, y: Numbers) -> Numbers:
    """Interpolate samples [R, C] at places in millimeters, float64 [H, W]; outside, the nearest is taken."""
    footprint, (rows, columns) = field.footprint, values.shape
    column = (x - footprint.left_mm) / footprint.width_mm * (columns - 1)
    row = (1 - (y - footprint.front_mm) / footprint.depth_mm) * (rows - 1)
    found: Numbers = scipy.ndimage.map_coordinates(values, [row, column], float, order=1, mode="nearest")
    return found
