"""Which part of the picture becomes the piece, and where it lies. Knows nothing of triangles.

The whole picture, its subject (by depth or by the photo's transparency), or a disc. A disc keeps its frame as
a rim, which is worked into the heights.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.errors import SettingsError
from marigold_demo.geometry.cutout import corners_of, tidy
from marigold_demo.geometry.frame import frame_width, profile
from marigold_demo.geometry.solid import Outline
from marigold_demo.settings import ReliefSettings

FINEST_PART_MM = 0.8  # two walls of a common nozzle: narrower parts of a cut-out are left out
DISCS = ("round", "oval")

Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Pixels(Protocol):
    """What is needed of a photo."""

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """Photo uint8 [H, W, 3]."""
        ...

    @property
    def alpha(self) -> NDArray[np.uint8] | None:
        """Opacity uint8 [H, W], where there is any transparency."""
        ...


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of the picture.

    Attributes:
        outline: Where the whole picture would lie.
        kept: bool [R-1, C-1], the cells that are kept; None keeps all.
        picture: bool [R, C], the samples whose heights count, without a rim; None counts all.
    """

    outline: Outline
    kept: Mask | None = None
    picture: Mask | None = None


def need_photo(photo: Pixels | None) -> Pixels:
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


def plan_piece(grid: Grid, settings: ReliefSettings, *, size: tuple[int, int], photo: Pixels | None) -> Piece:
    """Decide what is kept.

    Args:
        grid: Depth float32 [R, C] on the relief's grid.
        settings: Cut-out, frame and size.
        size: Width and height of the picture in pixels: its true aspect.
        photo: Needed for its transparency.

    Raises:
        SettingsError: Nothing would be left.
    """
    frame = frame_width(settings)
    inner = settings.width_mm - 2 * frame
    across, down = (side * inner / max(size) for side in size)
    if settings.cutout == "none":
        return Piece(Outline(left=frame, front=frame, width=across, depth=down))
    outline = Outline(left=0.0, front=0.0, width=across, depth=down)
    wanted = (
        _disc(grid.shape, outline, settings) if settings.cutout in DISCS else _subject(grid, settings, photo)
    )
    outline = _around(wanted, outline, settings)
    kept = _tidied(wanted, outline)
    outline = _around(kept, outline, settings)
    picture = corners_of(kept)
    if settings.cutout in DISCS and frame > 0:
        picture &= _from_border(kept, outline) >= frame
        if not picture.any():
            raise SettingsError(f"frame_mm is {frame:g}, which leaves no picture; a narrower frame does.")
    return Piece(outline, kept, picture)


def with_rim(heights: Grid, piece: Piece, settings: ReliefSettings) -> Grid:
    """Work the frame of a disc into heights float32 [R, C] in millimetres; other pieces stay as they are."""
    rings = profile(settings)
    if settings.cutout not in DISCS or piece.kept is None or not rings:
        return heights
    outward = frame_width(settings) - _from_border(
        piece.kept, piece.outline
    )  # [R, C] from the picture's border
    first = rings[0]
    share = np.clip(outward / first.outward_mm, 0, 1)
    slope = heights * (1 - share) + first.height_mm * share
    rim = np.interp(outward, [ring.outward_mm for ring in rings], [ring.height_mm for ring in rings])
    made: Grid = np.where(outward < first.outward_mm, slope, rim).astype(np.float32)
    return made


def _disc(shape: tuple[int, ...], outline: Outline, settings: ReliefSettings) -> Mask:
    """Mark the cells bool [R-1, C-1] in the largest disc or oval around the middle."""
    rows, columns = shape[0] - 1, shape[1] - 1
    x = ((np.arange(columns) + 0.5) / columns - 0.5) * outline.width
    y = ((np.arange(rows) + 0.5) / rows - 0.5) * outline.depth
    half = np.array([outline.width, outline.depth]) / 2
    if settings.cutout == "round":
        half[:] = half.min()
    disc: Mask = (x / half[0]) ** 2 + (y[:, None] / half[1]) ** 2 <= 1
    if not disc.any():
        raise SettingsError("The picture is too narrow for a disc; choose cutout 'oval' or 'none'.")
    return disc


def _subject(grid: Grid, settings: ReliefSettings, photo: Pixels | None) -> Mask:
    """Mark the cells bool [R-1, C-1] of the subject.

    Raises:
        SettingsError: There are none, or the photo has nothing to tell them by.
    """
    if settings.cutout == "depth":
        wanted = (grid[:-1, :-1] + grid[1:, :-1] + grid[:-1, 1:] + grid[1:, 1:]) / 4 <= settings.cutout_depth
        remedy = f"nothing lies before cutout_depth {settings.cutout_depth:g}; a larger value keeps more."
    else:
        alpha = need_photo(photo).alpha
        if alpha is None:
            raise SettingsError(
                "cutout is 'alpha', but the photo has no transparent part; choose cutout 'depth'."
            )
        cells = grid.shape[1] - 1, grid.shape[0] - 1
        wanted = np.asarray(Image.fromarray(alpha).resize(cells, Image.Resampling.BILINEAR)) >= 128
        remedy = "all of the photo is transparent; choose cutout 'depth'."
    if not wanted.any():
        raise SettingsError(f"The cut-out is empty: {remedy}")
    return wanted


def _tidied(wanted: Mask, outline: Outline) -> Mask:
    pitch = max(outline.width, outline.depth) / max(wanted.shape)
    kept = tidy(wanted, finest=max(1, round(FINEST_PART_MM / pitch)))
    if not kept.any():
        raise SettingsError(
            f"The cut-out has no part {FINEST_PART_MM:g} mm wide; a larger width_mm or cutout_depth helps."
        )
    return kept


def _around(kept: Mask, outline: Outline, settings: ReliefSettings) -> Outline:
    """Scale and move a picture so that what is kept of it has the asked size and its corner at the origin."""
    rows, columns = np.flatnonzero(kept.any(axis=1)), np.flatnonzero(kept.any(axis=0))
    across, down = outline.width / kept.shape[1], outline.depth / kept.shape[0]  # of one cell
    longest = max((columns[-1] + 1 - columns[0]) * across, (rows[-1] + 1 - rows[0]) * down)
    scale = settings.width_mm / longest
    below = kept.shape[0] - 1 - rows[-1]
    return Outline(
        left=-float(columns[0] * across * scale),
        front=-float(below * down * scale),
        width=float(outline.width * scale),
        depth=float(outline.depth * scale),
    )


def _from_border(kept: Mask, outline: Outline) -> NDArray[np.float64]:
    """Return the distance of every sample [R, C] from what is cut away, in millimetres; 0 outside."""
    inside = np.pad(corners_of(kept), 1)
    pitch = outline.depth / kept.shape[0], outline.width / kept.shape[1]
    distance: NDArray[np.float64] = scipy.ndimage.distance_transform_edt(inside, sampling=pitch)[1:-1, 1:-1]
    distance -= min(pitch)  # the nearest sample that is cut away lies one cell outside the border
    return distance.clip(0)
