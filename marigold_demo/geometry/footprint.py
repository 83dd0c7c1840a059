"""Which part of the picture becomes the relief, and where it lies in x and y.

The whole picture, its subject (by depth or by the photo's transparency), or a disc. Grid cells are kept or
cut whole. Two kept cells that touch only at a corner would make an edge of four faces, so the gap is filled.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.errors import SettingsError

FINEST_PART_MM = 0.8  # two walls of a common nozzle: narrower parts of a cut-out are left out
DISCS = ("round", "oval")

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
        picture: bool [R, C], the samples whose heights count, without a disc's rim; None counts all.
    """

    left_mm: float
    front_mm: float
    width_mm: float
    depth_mm: float
    kept: Mask | None = None
    picture: Mask | None = None

    @property
    def outer_mm(self) -> tuple[float, float]:
        """Width and depth with the frame on all sides; meaningless for a cut-out, which has none."""
        return self.width_mm + 2 * self.left_mm, self.depth_mm + 2 * self.front_mm

    def pitch_mm(self, cells: Mask) -> tuple[float, float]:
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
    shape: tuple[int, ...], size: tuple[int, int], *, is_round: bool, width_mm: float, frame_mm: float
) -> Footprint:
    """Return the footprint of the largest disc or oval around the middle, whose frame is a rim inside it.

    Args:
        shape: Rows and columns of the relief's grid.
        size: Width and height of the picture in pixels.
        is_round: Round, or oval.
        width_mm: Longest side of what is kept.
        frame_mm: Width of the rim.

    Raises:
        SettingsError: The picture is too narrow, or the rim leaves nothing of it.
    """
    whole = framed_footprint(size, width_mm=width_mm, frame_mm=frame_mm)
    rows, columns = shape[0] - 1, shape[1] - 1
    x = ((np.arange(columns) + 0.5) / columns - 0.5) * whole.width_mm
    y = ((np.arange(rows) + 0.5) / rows - 0.5) * whole.depth_mm
    half = np.array([whole.width_mm, whole.depth_mm]) / 2
    if is_round:
        half[:] = half.min()
    disc: Mask = (x / half[0]) ** 2 + (y[:, None] / half[1]) ** 2 <= 1
    if not disc.any():
        raise SettingsError("The picture is too narrow for a disc; choose cutout 'oval' or 'none'.")
    footprint = _cut_out(whole, disc, width_mm=width_mm)
    if frame_mm > 0:
        picture = corners_of(_cells(footprint)) & (distance_from_border(footprint) >= frame_mm)
        if not picture.any():
            raise SettingsError(f"frame_mm is {frame_mm:g}, which leaves no picture; a narrower frame does.")
        footprint = replace(footprint, picture=picture)
    return footprint


def subject_footprint(subject: Mask, size: tuple[int, int], *, width_mm: float) -> Footprint:
    """Return the footprint of a cut-out subject.

    Args:
        subject: bool [R-1, C-1], the cells of the subject.
        size: Width and height of the picture in pixels.
        width_mm: Longest side of what is kept.

    Raises:
        SettingsError: No part of it is wide enough.
    """
    return _cut_out(framed_footprint(size, width_mm=width_mm, frame_mm=0.0), subject, width_mm=width_mm)


def near_cells(grid: Grid, farthest: float) -> Mask:
    """Mark the cells bool [R-1, C-1] of depth [R, C] that lie before `farthest`.

    Raises:
        SettingsError: There are none.
    """
    wanted: Mask = (grid[:-1, :-1] + grid[1:, :-1] + grid[:-1, 1:] + grid[1:, 1:]) / 4 <= farthest
    return _not_empty(wanted, f"nothing lies before cutout_depth {farthest:g}; a larger value keeps more.")


def opaque_cells(alpha: NDArray[np.uint8] | None, shape: tuple[int, ...]) -> Mask:
    """Mark the cells bool [R-1, C-1] of a grid [R, C] that are opaque in the photo.

    Raises:
        SettingsError: There are none, or the photo has no transparency.
    """
    if alpha is None:
        raise SettingsError(
            "cutout is 'alpha', but the photo has no transparent part; choose cutout 'depth'."
        )
    cells = shape[1] - 1, shape[0] - 1
    wanted: Mask = np.asarray(Image.fromarray(alpha).resize(cells, Image.Resampling.BILINEAR)) >= 128
    return _not_empty(wanted, "all of the photo is transparent; choose cutout 'depth'.")


def distance_from_border(footprint: Footprint) -> NDArray[np.float64]:
    """Return the distance of every sample [R, C] from what is cut away, in millimeters; 0 outside."""
    kept = _cells(footprint)
    inside = np.pad(corners_of(kept), 1)
    pitch = footprint.pitch_mm(kept)
    distance: NDArray[np.float64] = scipy.ndimage.distance_transform_edt(inside, sampling=pitch)[1:-1, 1:-1]
    distance -= min(pitch)  # the nearest sample that is cut away lies one cell outside the border
    return distance.clip(0)


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


def _cut_out(whole: Footprint, wanted: Mask, *, width_mm: float) -> Footprint:
    """Keep the wanted cells, cleaned, at the asked size with their corner at the origin."""
    scaled = _scaled(whole, wanted, width_mm=width_mm)
    pitch = max(scaled.width_mm, scaled.depth_mm) / max(wanted.shape)
    kept = clean(wanted, finest=max(1, round(FINEST_PART_MM / pitch)))
    if not kept.any():
        raise SettingsError(
            f"The cut-out has no part {FINEST_PART_MM:g} mm wide; a larger width_mm or cutout_depth helps."
        )
    return replace(_scaled(scaled, kept, width_mm=width_mm), kept=kept, picture=corners_of(kept))


def _scaled(footprint: Footprint, kept: Mask, *, width_mm: float) -> Footprint:
    """Scale and move a picture so that what is kept of it has the asked size and its corner at the origin."""
    rows, columns = np.flatnonzero(kept.any(axis=1)), np.flatnonzero(kept.any(axis=0))
    down, across = footprint.pitch_mm(kept)
    longest = max((columns[-1] + 1 - columns[0]) * across, (rows[-1] + 1 - rows[0]) * down)
    scale = width_mm / longest
    below = kept.shape[0] - 1 - rows[-1]
    return Footprint(
        left_mm=-float(columns[0] * across * scale),
        front_mm=-float(below * down * scale),
        width_mm=float(footprint.width_mm * scale),
        depth_mm=float(footprint.depth_mm * scale),
    )


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


def around_border(kept: Mask) -> Mask:
    """Mark the samples bool [R, C] of all cells at the border of what is kept, on both sides of it."""
    padded = np.pad(kept, 1)  # outside the picture nothing is kept
    differs = scipy.ndimage.maximum_filter(padded, size=3) & ~scipy.ndimage.minimum_filter(padded, size=3)
    cells = differs[1:-1, 1:-1]
    return corners_of(cells)


def corners_of(cells: Mask) -> Mask:
    """Mark the samples bool [R, C] at the corners of cells [R-1, C-1]."""
    samples = np.zeros((cells.shape[0] + 1, cells.shape[1] + 1), dtype=bool)
    for corner in (samples[:-1, :-1], samples[1:, :-1], samples[:-1, 1:], samples[1:, 1:]):
        corner |= cells
    return samples


def faces_within(faces: Indices, kept: Mask) -> Indices:
    """Return the faces in kept cells; every face across the border must be half a cell.

    Args:
        faces: int32 [F, 3], row-major indices of samples.
        kept: bool [R-1, C-1].
    """
    row, column = np.divmod(np.ascontiguousarray(faces.T), np.int32(kept.shape[1] + 1))  # [3, F]
    inside: Indices = faces[kept[np.minimum.reduce(row), np.minimum.reduce(column)]]
    return inside


def border_edges(kept: Mask) -> tuple[Indices, Indices]:
    """Return start and end samples int32 [N] of the border, what is kept on the left as seen from above."""
    rows, columns = kept.shape[0] + 1, kept.shape[1] + 1
    sample = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    across, down = np.pad(kept, ((1, 1), (0, 0))), np.pad(kept, ((0, 0), (1, 1)))
    above, below = across[:-1], across[1:]  # cells above and below each horizontal edge: [R, C-1]
    left, right = down[:, :-1], down[:, 1:]  # cells left and right of each vertical edge: [R-1, C]
    starts_and_ends = [
        (sample[:, 1:][below & ~above], sample[:, :-1][below & ~above]),
        (sample[:, :-1][above & ~below], sample[:, 1:][above & ~below]),
        (sample[:-1][right & ~left], sample[1:][right & ~left]),
        (sample[1:][left & ~right], sample[:-1][left & ~right]),
    ]
    return (
        np.concatenate([start for start, _ in starts_and_ends]),
        np.concatenate([end for _, end in starts_and_ends]),
    )
