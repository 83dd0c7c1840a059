"""Which part of the picture becomes the relief, and where it lies in x and y.

The whole picture, its subject (by depth or by the photo's transparency), or a disc. Which parts are kept is
decided for whole grid cells; where exactly they end is said by an outline.
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.errors import SettingsError
from marigold_demo.geometry.depth_repair import with_even_outlines
from marigold_demo.geometry.outline import (
    NEAREST_MM,
    Ellipse,
    Outline,
    border_distance,
    contour,
    extent,
    from_blurred,
)

FINEST_PART_MM = 0.8  # two walls of a common nozzle: narrower parts of a cut-out are left out
DISCS = ("round", "oval")
SMALLEST_DISC = 4.0  # of the picture's sides over a disc's that is moved where its settings ask
LARGEST_BORDERED = 2048  # pixels of the long side in which the border of a transparent photo is found
HARD = 0.1  # of the pixels along a border: fewer half opaque ones do not say where it is
CLEAR_SUBJECT = 0.85  # share of the variance of depth that near and far explain; an even ramp has 0.75

Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]
Indices = NDArray[np.int32]


class ReliefPhoto(Protocol):
    """What a relief needs of a photo."""

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """Photo uint8 [H, W, 3]."""
        ...

    @property
    def alpha(self) -> NDArray[np.uint8] | None:
        """Opacity uint8 [H, W], where there is any transparency."""
        ...


@dataclass(frozen=True, eq=False)
class Footprint:
    """A rectangle in x and y that the whole picture covers without its frame, and what is kept of it.

    Attributes:
        left_mm: Left edge; the relief begins at 0, so a cut-out's is 0 or less.
        front_mm: Front edge, which is the bottom of the picture.
        width_mm: Extent in x.
        depth_mm: Extent in y.
        kept: bool [R-1, C-1], the grid cells that are kept; None keeps all.
        outline: Where the picture ends, a disc's rim left out; None keeps all.
        extent_mm: Width and depth of all that is kept; None: the picture with its frame.
        left_out: How many parts of a subject are not connected with the largest, and so not kept.
    """

    left_mm: float
    front_mm: float
    width_mm: float
    depth_mm: float
    kept: Mask | None = None
    outline: Outline | None = None
    extent_mm: tuple[float, float] | None = None
    left_out: int = 0

    @property
    def picture(self) -> Mask | None:
        """The samples bool [R, C] whose heights count, without a disc's rim; None counts all."""
        return None if self.outline is None else self.outline.inside

    @property
    def outer_mm(self) -> tuple[float, float]:
        """Width and depth of all that is kept, with its frame or rim."""
        return self.extent_mm or (self.width_mm + 2 * self.left_mm, self.depth_mm + 2 * self.front_mm)

    def mirrored(self) -> "Footprint":
        """Return it with left and right exchanged."""
        return replace(
            self,
            left_mm=self.outer_mm[0] - self.left_mm - self.width_mm,
            kept=None if self.kept is None else np.ascontiguousarray(self.kept[:, ::-1]),
            outline=None if self.outline is None else self.outline.mirrored(),
        )

    def pitch_mm(self, cells: Mask | Grid) -> tuple[float, float]:
        """Return the size of one of the grid's cells [R-1, C-1]: down and across."""
        return self.depth_mm / cells.shape[0], self.width_mm / cells.shape[1]


def need_photo(photo: ReliefPhoto | None) -> ReliefPhoto:
    """Return the photo.

    Raises:
        SettingsError: There is none.
    """
    if photo is None:
        raise SettingsError(
            "source 'luminance' and cutout 'alpha' need a photo;"
            " give one, or choose source 'depth' and cutout 'none'."
        )
    return photo


def framed_footprint(size: tuple[int, int], *, width_mm: float, frame_mm: float) -> Footprint:
    """Return the footprint of a whole picture inside its frame.

    Args:
        size: Width and height of the picture in pixels.
        width_mm: Longest side of picture and frame together.
        frame_mm: Width of the frame.
    """
    across, down = (side * (width_mm - 2 * frame_mm) / max(size) for side in size)
    return Footprint(left_mm=frame_mm, front_mm=frame_mm, width_mm=across, depth_mm=down)


def disc_footprint(
    shape: tuple[int, ...],
    size: tuple[int, int],
    *,
    is_round: bool,
    width_mm: float,
    frame_mm: float,
    center: tuple[float, float] = (0.5, 0.5),
    is_exact: bool = False,
) -> Footprint:
    """Return the footprint of a disc or oval, whose frame is a rim inside it.

    Args:
        shape: Rows and columns of the relief's grid.
        size: Width and height of the picture in pixels.
        is_round: Round, or oval.
        width_mm: Longest side of what is kept.
        frame_mm: Width of the rim.
        center: Where in the picture its middle should be, from 0 to 1 right and down.
        is_exact: Make it as small as the center asks for, though never less than a quarter of the picture;
            or else keep it as large as the picture allows and move it as far as that goes.

    Raises:
        SettingsError: The picture is too narrow, or the rim leaves nothing of it.
    """
    sides = np.array(size, dtype=np.float64)
    middle = np.array(center) * sides
    half = np.minimum(middle, sides - middle) if is_exact else sides / 2
    half = np.maximum(half, sides / SMALLEST_DISC / 2)
    if is_round:
        half[:] = half.min()
    middle = np.clip(middle, half, sides - half)
    scale = width_mm / (2 * half.max())
    inner = half * scale - frame_mm
    if inner.min() <= 0:
        raise SettingsError(f"frame_mm is {frame_mm:g}, which leaves no picture; a narrower frame does.")
    samples = np.array([shape[1] - 1, shape[0] - 1])
    at, reach = middle / sides * samples, inner / (sides * scale) * samples
    ellipse = Ellipse(*map(float, (*at, *reach)))
    nearest = _nearest(width_mm, sides * scale / samples)
    outline = Outline(ellipse.level(shape, margin=2 * nearest), nearest, ellipse)
    if not outline.inside.any():
        raise SettingsError("The picture is too narrow for a disc; choose cutout 'oval' or 'none'.")
    across, down = ((np.arange(n) + 0.5) / n for n in samples)
    x, y = ((across * sides[0] - middle[0]) / half[0]), ((down * sides[1] - middle[1]) / half[1])
    return Footprint(
        left_mm=-float((middle - half)[0] * scale),
        front_mm=-float((sides - middle - half)[1] * scale),
        width_mm=float(sides[0] * scale),
        depth_mm=float(sides[1] * scale),
        kept=x**2 + y[:, None] ** 2 <= 1,
        outline=outline,
        extent_mm=(float(2 * half[0] * scale), float(2 * half[1] * scale)),
    )


def subject_footprint(
    subject: Mask, size: tuple[int, int], *, width_mm: float, distance: Grid | None = None
) -> Footprint:
    """Return the footprint of a cut-out subject.

    Args:
        subject: bool [R-1, C-1], the cells of the subject.
        size: Width and height of the picture in pixels.
        width_mm: Longest side of what is kept.
        distance: float32 [R, C], where the subject ends between samples; see `outline.contour`.

    Raises:
        SettingsError: No part of it is wide enough.
    """
    whole = framed_footprint(size, width_mm=width_mm, frame_mm=0.0)
    rows, columns = np.flatnonzero(subject.any(axis=1)), np.flatnonzero(subject.any(axis=0))
    share = max(np.ptp(rows) / subject.shape[0], np.ptp(columns) / subject.shape[1], 1 / max(subject.shape))
    pitch = width_mm / share / max(subject.shape)
    finest = max(1, round(FINEST_PART_MM / pitch))
    kept = clean(subject, finest=finest)
    level = contour(kept, distance)
    if not kept.any() or not (level > 0).any():
        raise SettingsError(
            f"The cut-out has no part {FINEST_PART_MM:g} mm wide; a larger width_mm or cutout_depth helps."
        )
    down, across = whole.pitch_mm(kept)
    outline = Outline(level, _nearest(width_mm, np.array([down, across]) / share))
    left, right, top, bottom = extent(outline)
    scale = width_mm / max((right - left) * across, (bottom - top) * down)
    return Footprint(
        left_mm=-left * across * scale,
        front_mm=-(subject.shape[0] - bottom) * down * scale,
        width_mm=whole.width_mm * scale,
        depth_mm=whole.depth_mm * scale,
        kept=kept,
        outline=outline,
        left_out=_parts(subject & ~kept, finest),
        extent_mm=((right - left) * across * scale, (bottom - top) * down * scale),
    )


def _parts(cells: Mask, finest: int) -> int:
    """Return how many parts of cells are wide enough to be noticed: 4 times as wide as the finest."""
    core = scipy.ndimage.distance_transform_edt(np.pad(cells, 1))[1:-1, 1:-1] >= max(2 * finest, 2)
    parts, _ = scipy.ndimage.label(cells)
    return len(np.unique(parts[core]))


def _nearest(width_mm: float, pitch: NDArray[np.float64]) -> float:
    """Return the smallest share of an edge that files of a relief of this width keep apart."""
    return min(0.1, max(NEAREST_MM, 4 * float(np.spacing(np.float32(width_mm)))) / float(pitch.min()))


def subject_center(grid: Grid) -> tuple[float, float]:
    """Return where the subject is, from 0 to 1 right and down; the middle unless one is clear.

    It does where a threshold (Otsu, 1979) parts depth [R, C] into near and far, both of them even, and one
    part that does not touch both sides makes up most of what is near.
    """
    small = grid[:: max(1, grid.shape[0] // 96), :: max(1, grid.shape[1] // 96)]
    levels, total = np.sort(small, axis=None).astype(np.float64), small.size
    count = np.arange(1, total)
    sums = np.cumsum(levels)[:-1]
    between = (
        (sums / count - (levels.sum() - sums) / (total - count)) ** 2 * count * (total - count) / total**2
    )
    best = int(between.argmax())
    if not levels.var() > 0 or between[best] < CLEAR_SUBJECT * levels.var():
        return 0.5, 0.5
    near = small <= levels[best]
    parts, _ = scipy.ndimage.label(near)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    subject = parts == sizes.argmax()
    rows, columns = np.nonzero(subject)
    clear = 0.02 < subject.mean() < 0.6 and sizes.max() > 0.7 * near.sum()
    if not clear or (columns.min() == 0 and columns.max() == small.shape[1] - 1):
        return 0.5, 0.5
    return float((columns.mean() + 0.5) / small.shape[1]), float((rows.mean() + 0.5) / small.shape[0])


def near_cells(grid: Grid, farthest: float) -> Mask:
    """Mark the cells bool [R-1, C-1] of depth [R, C] that lie before `farthest`.

    Raises:
        SettingsError: There are none.
    """
    wanted = inner_cells(farthest - grid)
    return _not_empty(wanted, f"nothing lies before cutout_depth {farthest:g}; a larger value keeps more.")


def opaque_distance(alpha: NDArray[np.uint8] | None, shape: tuple[int, ...]) -> Grid:
    """Return the distance from where the photo becomes transparent: float32 [R, C], positive inside.

    It has any unit. Half opaque pixels say where that is between the samples. Where there are hardly any, it
    is the smoothest border that the pixels permit.

    Raises:
        SettingsError: The photo has no transparency, or no opaque part.
    """
    if alpha is None:
        raise SettingsError(
            "cutout is 'alpha', but the photo has no transparent part; choose cutout 'depth'."
        )
    opaque = alpha >= 128
    _not_empty(opaque, "all of the photo is transparent; choose cutout 'depth'.")
    border = scipy.ndimage.binary_dilation(opaque) ^ scipy.ndimage.binary_erosion(opaque)
    soft = border & (alpha > 25) & (alpha < 230)
    samples = max(np.array(shape) / alpha.shape)
    if np.count_nonzero(soft) < HARD * np.count_nonzero(border):
        stride = math.ceil(max(alpha.shape) / LARGEST_BORDERED)
        mask = np.asarray(Image.fromarray(np.uint8(255) * opaque).reduce(stride)) >= 128
        distance = border_distance(mask, reach=3 + 3 / (samples * stride))
        if distance is not None:
            return _resized(distance, shape)
    resized = _resized(with_even_outlines(alpha.astype(np.float32) / np.float32(255)), shape)
    return from_blurred(scipy.ndimage.gaussian_filter(resized, max(1.0, samples), mode="nearest"))


def _resized(values: Grid, shape: tuple[int, ...]) -> Grid:
    """Return values of a photo's pixels [H, W] as samples [R, C]."""
    return np.asarray(Image.fromarray(values).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def inner_cells(distance: Grid) -> Mask:
    """Mark the cells bool [R-1, C-1] that lie inside, given a distance [R, C] that is positive there."""
    inside: Mask = distance[:-1, :-1] + distance[1:, :-1] + distance[:-1, 1:] + distance[1:, 1:] >= 0
    return inside


def widest_place(footprint: Footprint, width_mm: float) -> tuple[float, float] | None:
    """Return x and y of the middle of the highest place that is at least so wide; None without one."""
    kept = _cells(footprint)
    pitch = footprint.pitch_mm(kept)
    room = scipy.ndimage.distance_transform_edt(np.pad(kept, 1), sampling=pitch)[1:-1, 1:-1]
    row, column = np.nonzero(room >= width_mm / 2)
    if not len(row):
        return None
    x = float(np.median(column[row == row.min()]) + 0.5) * pitch[1]
    y = footprint.front_mm + footprint.depth_mm - (float(row.min()) + 0.5) * pitch[0]
    return footprint.left_mm + x, y


def _cells(footprint: Footprint) -> Mask:
    if footprint.kept is None:
        raise ValueError("nothing is cut out")
    return footprint.kept


def _not_empty(wanted: Mask, remedy: str) -> Mask:
    if not wanted.any():
        raise SettingsError(f"The cut-out is empty: {remedy}")
    return wanted


def clean(wanted: Mask, *, finest: int) -> Mask:
    """Return the cells that stay: one part without threads, specks or corners that only just touch.

    Args:
        wanted: bool [R-1, C-1], cells of the subject.
        finest: Parts and holes narrower than so many cells go; 1 keeps all.

    Returns:
        bool [R-1, C-1], all False where nothing is left.
    """
    kept = wanted
    for cells, operation in (
        (finest // 2, scipy.ndimage.binary_opening),
        (finest // 2, scipy.ndimage.binary_closing),
    ):
        if cells:
            padded = np.pad(kept, cells, mode="edge")  # or the border of the picture would be eaten
            kept = operation(padded, iterations=cells)[cells:-cells, cells:-cells]
    return _largest(_without_pinches(_largest(kept)))


def _largest(cells: Mask) -> Mask:
    """Keep the largest part of cells that share sides."""
    parts, count = scipy.ndimage.label(cells)
    if count < 2:
        return cells
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    largest: Mask = parts == sizes.argmax()
    return largest


def _without_pinches(cells: Mask) -> Mask:
    """Fill one cell wherever two cells touch at a corner alone, until none do."""
    cells = cells.copy()
    while True:
        a, b, c, d = cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:]
        falling, rising = a & d & ~b & ~c, b & c & ~a & ~d
        if not (falling.any() or rising.any()):
            return cells
        b |= falling
        a |= rising
