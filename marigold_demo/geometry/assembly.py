"""Heights into a closed solid: triangles, frame or walls, bend, hole. Knows nothing of depth."""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from marigold_demo.errors import SettingsError
from marigold_demo.geometry.bend import bend, check_bend, widest_step
from marigold_demo.geometry.cutout import around_border, border_edges, faces_within
from marigold_demo.geometry.frame import Ring, profile
from marigold_demo.geometry.hanging import Place, drill, needed_mm
from marigold_demo.geometry.piece import Piece
from marigold_demo.geometry.rtin import TILE, Budget, Network, compact, triangulate
from marigold_demo.geometry.solid import CORNERS, Outline, Share, border_loop, close
from marigold_demo.geometry.soundness import weld
from marigold_demo.settings import ReliefSettings

FINEST_SAG_MM = 0.01  # a curve needs no finer triangles, whatever the tolerance

Points = NDArray[np.float32]
Indices = NDArray[np.int32]
Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Ground:
    """What a solid is made from.

    Attributes:
        heights: float32 [R, C] in millimetres above the back, a disc's rim included.
        piece: What is kept of the picture and where it lies.
    """

    heights: Grid
    piece: Piece


@dataclass(frozen=True, eq=False)
class Assembled:
    """A closed solid.

    Attributes:
        vertices: float32 [V, 3].
        faces: int32 [F, 3], those of the picture first.
        picture_faces: How many those are.
        tolerance_mm: Largest vertical distance between the picture's faces and the heights.
    """

    vertices: Points
    faces: Indices
    picture_faces: int
    tolerance_mm: float


def assemble(ground: Ground, settings: ReliefSettings) -> Assembled:
    """Build the solid.

    Raises:
        SettingsError: A bend or hole does not fit the piece, or manifold3d is missing for a hole.
    """
    step = _bend_step(ground, settings)
    made = _framed(ground, settings, step) if ground.piece.kept is None else _cut_out(ground, settings, step)
    if settings.hole != "none":
        _check_hole(ground, settings)
    vertices, place = made.vertices, _place(ground, made.vertices, settings)
    if settings.bend_radius_mm:
        probe = np.array([[place.x, 0, 0]], dtype=np.float32)  # tells how far the bend lifts the back
        bent = bend(np.concatenate([vertices, probe]), settings.bend_radius_mm)
        vertices, back = bent[:-1], bent[-1]
        place = Place(x=float(back[0]), y=place.y, back=float(back[2]), top=float(vertices[:, 2].max()))
    made = Assembled(vertices, made.faces, made.picture_faces, made.tolerance_mm)
    return made if settings.hole == "none" else _drilled(made, settings, place)


def _framed(ground: Ground, settings: ReliefSettings, step: float | None) -> Assembled:
    heights, outline, rings = ground.heights, ground.piece.outline, profile(settings)
    shares = _shares(outline, rings, step)
    corners = sum(len(side) for side in shares)
    budget = Budget(settings.max_faces - 2 * corners * (len(rings) + 2), per_border_vertex=3)
    network = _network(ground, settings, step, budget=budget)
    used, faces = compact(network.faces, heights.size)
    border = border_loop(network.active, _numbers(used, heights.size).reshape(heights.shape))
    top = _points(used, heights, outline)
    vertices, closing = close(top, border, outline=outline, rings=rings, shares=shares)
    return Assembled(vertices, np.concatenate([faces, closing]), len(faces), network.tolerance)


def _cut_out(ground: Ground, settings: ReliefSettings, step: float | None) -> Assembled:
    """Close a cut-out by a flat copy of itself at the bottom and walls between the two borders."""
    heights, kept = ground.heights, ground.piece.kept
    if kept is None:
        raise ValueError("nothing is cut out")
    flat = Ground(np.zeros_like(heights), ground.piece)
    below, bottom = compact(faces_within(_network(flat, settings, step).faces, kept), heights.size)
    start, end = border_edges(kept)
    budget = Budget(settings.max_faces - len(bottom) - 2 * len(start))
    network = _network(ground, settings, step, budget=budget)
    above, top = compact(faces_within(network.faces, kept), heights.size)
    upper = _numbers(above, heights.size)
    lower = _numbers(below, heights.size) + np.int32(len(above))
    walls = np.concatenate(
        [
            np.column_stack([upper[start], lower[start], upper[end]]),
            np.column_stack([upper[end], lower[start], lower[end]]),
        ]
    )
    return Assembled(
        vertices=np.concatenate(
            [
                _points(above, heights, ground.piece.outline),
                _points(below, flat.heights, ground.piece.outline),
            ]
        ),
        faces=np.concatenate([top, bottom[:, ::-1] + np.int32(len(above)), walls]),
        picture_faces=len(top),
        tolerance_mm=network.tolerance,
    )


def _network(
    ground: Ground, settings: ReliefSettings, step: float | None, *, budget: Budget | None = None
) -> Network:
    heights = ground.heights
    forced = np.zeros(heights.shape, dtype=bool)
    counted = heights if ground.piece.picture is None else np.where(ground.piece.picture, heights, np.nan)
    lowest, highest = int(np.nanargmin(counted)), int(np.nanargmax(counted))
    forced.flat[[lowest, highest]] = True  # or the height would miss by the tolerance
    if ground.piece.kept is not None:
        forced |= around_border(ground.piece.kept)
    if step is not None:
        pitch = ground.piece.outline.width / (heights.shape[1] - 1)
        stride = min(TILE, 1 << max(0, int(np.log2(max(step / pitch, 1)))))
        forced[::stride, ::stride] = True
    return triangulate(heights, settings.tolerance_mm, forced=forced, budget=budget)


def _bend_step(ground: Ground, settings: ReliefSettings) -> float | None:
    """Return how wide triangles may be on the curve; None where the piece stays flat."""
    radius = settings.bend_radius_mm
    if not radius:
        return None
    thickness = max([float(ground.heights.max()), *(ring.height_mm for ring in profile(settings))])
    width = (
        settings.width_mm
        if ground.piece.kept is not None
        else ground.piece.outline.width + 2 * ground.piece.outline.left
    )
    check_bend(radius, width=width, thickness=thickness)
    return widest_step(radius, max(settings.tolerance_mm, FINEST_SAG_MM), thickness=thickness)


def _shares(outline: Outline, rings: tuple[Ring, ...], step: float | None) -> tuple[Share, ...]:
    """Return where the vertices of the outer rings lie: at the corners; on a curve also along the sides."""
    if step is None:
        return CORNERS
    reach = outline.width + 2 * max((ring.outward_mm for ring in rings), default=0.0)
    along = np.linspace(0, 1, int(np.ceil(reach / step)) + 1)
    return along, CORNERS[1], along, CORNERS[3]


def _numbers(used: Indices, size: int) -> Indices:
    numbers = np.zeros(size, dtype=np.int32)
    numbers[used] = np.arange(len(used), dtype=np.int32)
    return numbers


def _points(used: Indices, heights: Grid, outline: Outline) -> Points:
    """Place samples: float32 [V, 3]; the first row of the grid is the back, at large y."""
    rows, columns = heights.shape
    x = (outline.left + outline.width * (np.arange(columns) / (columns - 1))).astype(np.float32)
    y = (outline.front + outline.depth * (1 - np.arange(rows) / (rows - 1))).astype(np.float32)
    row, column = np.divmod(used, np.int32(columns))
    return np.column_stack([x[column], y[row], heights.ravel()[used]])


def _check_hole(ground: Ground, settings: ReliefSettings) -> None:
    outline = ground.piece.outline
    if ground.piece.kept is not None:
        return  # where a cut-out has room is found when the place is chosen
    across, down = outline.width + 2 * outline.left, outline.depth + 2 * outline.front
    width, height = needed_mm(settings.hole, settings.hole_mm)
    if width > across or height > down:
        raise SettingsError(
            f"hole_mm is {settings.hole_mm:g}; with its walls the hole needs {width:g} x {height:g} mm,"
            f" more than the piece has ({across:.4g} x {down:.4g} mm)."
        )


def _place(ground: Ground, vertices: Points, settings: ReliefSettings) -> Place:
    """Choose where a hole goes: at the middle of the top edge, or as high as a cut-out is wide enough."""
    outline, top = ground.piece.outline, float(vertices[:, 2].max())
    across, down = outline.width + 2 * outline.left, outline.depth + 2 * outline.front
    _, height = needed_mm(settings.hole, settings.hole_mm)
    if ground.piece.kept is None or settings.hole == "none":
        middle = down - max(outline.front, height) / 2 if settings.hole == "through" else down - height / 2
        return Place(x=across / 2, y=middle, back=0.0, top=top)
    rows, columns = ground.piece.kept.shape
    pitch = outline.depth / rows, outline.width / columns
    room = scipy.ndimage.distance_transform_edt(np.pad(ground.piece.kept, 1), sampling=pitch)[1:-1, 1:-1]
    row, column = np.nonzero(room >= height / 2)
    if not len(row):
        raise SettingsError(
            f"hole_mm is {settings.hole_mm:g}; the cut-out has no place {height:g} mm wide for the hole."
        )
    highest = row == row.min()
    x = float(np.median(column[highest]) + 0.5) * pitch[1]
    y = outline.front + outline.depth - (float(row.min()) + 0.5) * pitch[0]
    return Place(x=outline.left + x, y=y, back=0.0, top=top)


def _drilled(made: Assembled, settings: ReliefSettings, place: Place) -> Assembled:
    """Cut the hole, and find the picture's faces again: those with only corners of the picture."""
    vertices, faces = drill(
        made.vertices, made.faces, kind=settings.hole, shank_mm=settings.hole_mm, place=place
    )
    picture = made.vertices[made.faces[: made.picture_faces]]
    numbers, count = weld(np.concatenate([picture, vertices[faces]]))
    known = np.zeros(count, dtype=bool)
    known[numbers[: len(picture)]] = True
    is_picture = known[numbers[len(picture) :]].all(axis=1)
    order = np.argsort(~is_picture, kind="stable")
    return Assembled(vertices, faces[order], int(np.count_nonzero(is_picture)), made.tolerance_mm)
