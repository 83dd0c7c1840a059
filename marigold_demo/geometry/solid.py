"""Heights into a closed solid, and whether triangles form one.

The solid: triangles over the picture, then its border swept out and down. A ring is a rectangle,
counter-clockwise from above in four sides: front (bottom of the picture), right, back, left. The first ring
follows every border vertex of the picture; further rings need only their corners. The rings of a disc are
ellipses around its picture. A cut-out has no rings: walls join it to a flat copy of itself at the bottom.

The check: vertices count as one where their coordinates are equal to the last bit, which is how slicers join
them too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.csgraph
from numpy.typing import NDArray

from marigold_demo.errors import SettingsError
from marigold_demo.geometry.footprint import Footprint
from marigold_demo.geometry.heightfield import Heightfield, Ring
from marigold_demo.geometry.outline import Clipped, Outline, clip, extended, open_edges
from marigold_demo.geometry.rtin import TILE, FaceBudget, compact, triangulate

SMALLEST_AREA = 1e-10  # in the square of the unit

Corners = NDArray[np.float32]


@dataclass(frozen=True)
class MeshCheck:
    """What a check found.

    Attributes:
        finite: Every coordinate is a number.
        closed: Every edge belongs to exactly two faces.
        consistent: Neighboring faces agree on what is outside.
        outward: And they agree on the right side: the volume is positive.
        degenerate: How many faces have no area.
        bodies: How many separate parts there are.
        handles: How many holes go through it.
        volume: Volume in the cube of the unit; meaningless where it is not closed.
        size: Extent in x, y and z.
        faces: How many faces there are.
    """

    finite: bool
    closed: bool
    consistent: bool
    outward: bool
    degenerate: int
    bodies: int
    handles: int
    volume: float
    size: tuple[float, float, float]
    faces: int

    @property
    def solid(self) -> bool:
        """Whether it is one closed solid without faults."""
        return (
            self.finite
            and self.closed
            and self.consistent
            and self.outward
            and not self.degenerate
            and self.bodies == 1
        )


def require_sound(found: MeshCheck) -> None:
    """Refuse a mesh that is not solid.

    Raises:
        SettingsError: It is not; what was chosen cannot be printed.
    """
    if not found.solid:
        raise SettingsError(
            "These settings give no sound solid, so nothing is written; another width_mm, resolution or"
            " hole_mm does."
        )


def check_mesh(corners: Corners) -> MeshCheck:
    """Check triangles float32 [F, 3, 3]."""
    if not len(corners) or not np.isfinite(corners).all():
        return MeshCheck(
            finite=bool(len(corners) == 0),
            closed=False,
            consistent=False,
            outward=False,
            degenerate=0,
            bodies=0,
            handles=0,
            volume=float("nan"),
            size=(float("nan"),) * 3,
            faces=len(corners),
        )
    faces, vertices = weld(corners)
    closed, consistent = _edges(faces, vertices)
    bodies = _bodies(faces, vertices)
    volume = _volume(corners)
    x, y, z = (float(side) for side in np.ptp(corners.reshape(-1, 3), axis=0))
    return MeshCheck(
        finite=True,
        closed=closed,
        consistent=consistent,
        outward=volume > 0,
        degenerate=_degenerate(corners, faces),
        bodies=bodies,
        handles=bodies - (vertices - len(faces) // 2) // 2 if closed else 0,
        volume=volume,
        size=(x, y, z),
        faces=len(corners),
    )


def weld(corners: Corners) -> tuple[NDArray[np.int32], int]:
    """Number the distinct corners: faces int32 [F, 3], and how many vertices there are.

    Every corner leaves its number in a slot chosen by its bits; all corners that find an equal one in their
    slot are done, the others go on to another slot. It takes a fifth of the time of sorting.
    """
    points = np.ascontiguousarray(corners, dtype=np.float32).reshape(-1, 3) + np.float32(
        0
    )  # no negative zero
    columns = [np.ascontiguousarray(column) for column in points.view(np.uint32).T]
    same = np.full(len(points), -1, dtype=np.int32)  # of each corner, an equal corner that stands for all
    left = np.arange(len(points), dtype=np.int32)
    for multipliers in _multipliers():
        slot_bits = max(len(left), 2).bit_length() + 2
        slot = _slots(columns, multipliers, slot_bits)
        slots = np.zeros(1 << slot_bits, dtype=np.int32)
        slots[slot] = np.arange(len(left), dtype=np.int32)
        found = slots[slot]
        equal = np.logical_and.reduce([column[found] == column for column in columns])
        same[left[equal]] = left[found[equal]]
        left, columns = left[~equal], [column[~equal] for column in columns]
        if not len(left):
            break
    first = same == np.arange(len(points), dtype=np.int32)
    number = np.cumsum(first, dtype=np.int32) - np.int32(1)
    return number[same].reshape(-1, 3), int(np.count_nonzero(first))


def _multipliers() -> Iterator[NDArray[np.uint64]]:
    """Yield odd numbers without end, the same ones every time."""
    random = np.random.default_rng(0)
    while True:
        yield random.integers(1, 2**63, size=3, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _slots(
    columns: list[NDArray[np.uint32]], multipliers: NDArray[np.uint64], slot_bits: int
) -> NDArray[np.uint64]:
    mixed = np.zeros(len(columns[0]), dtype=np.uint64)
    for column, multiplier in zip(columns, multipliers, strict=True):
        mixed += column * multiplier
    return mixed >> np.uint64(64 - slot_bits)


def _edges(faces: NDArray[np.int32], vertices: int) -> tuple[bool, bool]:
    start, end = faces.ravel().astype(np.int64), np.roll(faces, -1, axis=1).ravel().astype(np.int64)
    undirected = np.minimum(start, end) * vertices + np.maximum(start, end)
    keys = np.sort(undirected * 2 + (start > end))  # the two directions of an edge become neighbors
    if len(keys) % 2 or not len(keys):
        return False, False
    edge = keys >> 1
    paired = edge[::2] == edge[1::2]
    alone = edge[1:-1:2] != edge[2::2]
    closed = bool(paired.all() and alone.all())
    return closed, closed and bool((keys[::2] != keys[1::2]).all())


def _bodies(faces: NDArray[np.int32], vertices: int) -> int:
    a, b = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    graph = scipy.sparse.coo_array((np.ones(len(a), dtype=bool), (a, b)), shape=(vertices, vertices))
    count, _ = scipy.sparse.csgraph.connected_components(graph, directed=False)
    return int(count)


def _volume(corners: Corners) -> float:
    a, b, c = (corners[:, k].astype(np.float64) for k in range(3))
    return float(np.einsum("fk,fk->", a, np.cross(b, c)) / 6)


def _degenerate(corners: Corners, faces: NDArray[np.int32]) -> int:
    sides = (corners[:, 1:] - corners[:, :1]).astype(np.float64)  # [F, 2, 3]
    area = np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1) / 2
    repeated = (faces[:, 0] == faces[:, 1]) | (faces[:, 1] == faces[:, 2]) | (faces[:, 2] == faces[:, 0])
    return int(np.count_nonzero(repeated | (area < SMALLEST_AREA)))


Points = NDArray[np.float32]
Indices = NDArray[np.int32]
Fractions = NDArray[np.float64]
Mask = NDArray[np.bool_]
CORNERS = (np.array([0.0, 1.0]),) * 4
ROUND_SAG_MM = 0.004  # how far the chords of a disc stay inside its circle


@dataclass(frozen=True, eq=False)
class Bend:
    """How a flat solid was bent onto a cylinder along y.

    Attributes:
        radius: Of the back; negative with the picture inside.
        middle: Where in x the flat solid touches the cylinder.
        corner: float64 [3], taken from all points, so that their corner lies at the origin.
    """

    radius: float
    middle: float
    corner: Fractions

    def flattened(self, points: Points) -> Points:
        """Return where points [V, 3] were before, x and y alone: float32 [V, 2]."""
        x, y, z = (points + self.corner).T
        angle = np.arctan2(x, np.sign(self.radius) * z)
        return np.column_stack([self.middle + abs(self.radius) * angle, y]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Solid:
    """A closed solid.

    Attributes:
        vertices: float32 [V, 3] in millimeters.
        faces: int32 [F, 3], counter-clockwise from outside; those of the picture come first.
        picture_faces: How many faces belong to the picture.
        tolerance_mm: The largest vertical distance between the picture's faces and the heights.
        bend: How it was bent; None where it is flat.
    """

    vertices: Points
    faces: Indices
    picture_faces: int
    tolerance_mm: float
    bend: Bend | None = None

    @property
    def flat_xy(self) -> Points:
        """Where the vertices lie in x and y, or lay before the solid was bent: float32 [V, 2]."""
        return self.vertices[:, :2] if self.bend is None else self.bend.flattened(self.vertices)


@dataclass(frozen=True)
class Quality:
    """How fine the triangles are.

    Attributes:
        tolerance_mm: Largest vertical distance from the heights.
        max_faces: Most faces; the tolerance is raised to stay within them.
        step_mm: How wide they may be in x, for a solid that is bent afterwards; None: any width.
    """

    tolerance_mm: float
    max_faces: int
    step_mm: float | None = None


def build_solid(field: Heightfield, quality: Quality) -> Solid:
    """Return the solid under a heightfield on z = 0, its corner at the origin."""
    outline = field.footprint.outline
    if outline is None:
        return _framed(field, quality)
    heights = extended(field.heights, outline.inside)
    if outline.ellipse is not None:
        return _disc(replace(field, heights=heights), outline, quality)
    return _cut_out(replace(field, heights=heights), outline, quality)


def _framed(field: Heightfield, quality: Quality) -> Solid:
    heights, footprint, rings = field.heights, field.footprint, field.profile.rings
    fractions = _side_fractions(footprint, rings, quality.step_mm)
    corners = sum(len(side) for side in fractions)
    budget = FaceBudget(quality.max_faces - 2 * corners * (len(rings) + 2), per_border_vertex=3)
    found = triangulate(
        heights, quality.tolerance_mm, forced=_forced(heights, footprint, quality), budget=budget
    )
    used, faces = compact(found.faces, heights.size)
    border = border_loop(found.active, _numbers(used, heights.size).reshape(heights.shape))
    top = _points(used, heights, footprint)
    vertices, closing = close_border(top, border, footprint=footprint, rings=rings, fractions=fractions)
    return Solid(vertices, np.concatenate([faces, closing]), len(faces), found.tolerance)


def _disc(field: Heightfield, outline: Outline, quality: Quality) -> Solid:
    """Clip the picture at its ellipse and sweep that border out over the rim and down."""
    heights, footprint, rings = field.heights, field.footprint, field.profile.rings
    half = max(footprint.outer_mm) / 2
    count = np.pi / np.arccos(1 - ROUND_SAG_MM / half)
    if quality.step_mm is not None:
        count = max(count, 2 * np.pi * half / quality.step_mm)
    around = np.linspace(0, 1, 4 * int(np.ceil(max(count, 64) / 4)) + 1)
    forced = _forced(heights, footprint, quality)
    budget = FaceBudget(quality.max_faces - 2 * len(around) * (len(rings) + 2) - _crossed(outline))
    found = triangulate(heights, quality.tolerance_mm, forced=forced, budget=budget)
    clipped = clip(found.faces, outline)
    used, faces = compact(clipped.faces, heights.size + len(clipped.share))
    top = _clipped_points(used, clipped, heights, footprint)
    edge = np.unique(open_edges(faces))
    x, y = ((top[edge, k] / footprint.outer_mm[k] - 0.5).astype(np.float64) for k in (0, 1))
    inner = ellipse_mm(footprint)
    turn = np.arctan2(y * footprint.outer_mm[1] / inner[1], x * footprint.outer_mm[0] / inner[0])
    turn = np.where(turn < 0, turn + 2 * np.pi, turn) / (2 * np.pi)
    order = np.argsort(turn, kind="stable")
    ring, along = edge[order].astype(np.int32), turn[order]
    border = Loop(ids=(np.append(ring, ring[0]),), along=(np.append(along, along[0] + 1),))
    vertices, closing = close_border(top, border, footprint=footprint, rings=rings, fractions=(around,))
    return Solid(vertices, np.concatenate([faces, closing]), len(faces), found.tolerance)


def _cut_out(field: Heightfield, outline: Outline, quality: Quality) -> Solid:
    """Close a cut-out by a flat copy of itself at the bottom and walls between the two borders."""
    heights, footprint = field.heights, field.footprint
    flat = np.zeros_like(heights)
    found = triangulate(flat, quality.tolerance_mm, forced=_forced(flat, footprint, quality))
    under = clip(found.faces, outline)
    size = heights.size + len(under.share)
    below, bottom = compact(under.faces, size)
    budget = FaceBudget(quality.max_faces - len(bottom) - 3 * _crossed(outline))
    found = triangulate(
        heights, quality.tolerance_mm, forced=_forced(heights, footprint, quality), budget=budget
    )
    over = clip(found.faces, outline)
    above, top = compact(over.faces, size)
    upper = _numbers(above, size)
    lower = _numbers(below, size) + np.int32(len(above))
    start, end = open_edges(over.faces).T
    walls = np.concatenate(
        [
            np.column_stack([upper[start], lower[start], upper[end]]),
            np.column_stack([upper[end], lower[start], lower[end]]),
        ]
    )
    return Solid(
        vertices=np.concatenate(
            [
                _clipped_points(above, over, heights, footprint),
                _clipped_points(below, under, flat, footprint),
            ]
        ),
        faces=np.concatenate([top, bottom[:, ::-1] + np.int32(len(above)), walls]),
        picture_faces=len(top),
        tolerance_mm=found.tolerance,
    )


def _crossed(outline: Outline) -> int:
    """Return about how many edges of the grid an outline crosses."""
    inside = outline.inside
    return int(
        np.count_nonzero(inside[1:] != inside[:-1]) + np.count_nonzero(inside[:, 1:] != inside[:, :-1])
    )


def _forced(heights: Points, footprint: Footprint, quality: Quality) -> Mask:
    """Mark the samples bool [R, C] that must be vertices."""
    forced = np.zeros(heights.shape, dtype=bool)
    inside = footprint.picture
    counted = heights if inside is None else np.where(inside, heights, np.nan)
    lowest, highest = int(np.nanargmin(counted)), int(np.nanargmax(counted))
    forced.flat[[lowest, highest]] = True  # or the height would miss by the tolerance
    if inside is not None:  # unit triangles beside the outline, on both sides of it
        padded = np.pad(inside, 1)
        differs = scipy.ndimage.maximum_filter(padded, 5) & ~scipy.ndimage.minimum_filter(padded, 5)
        forced |= differs[1:-1, 1:-1]
    if quality.step_mm is not None:
        pitch = footprint.width_mm / (heights.shape[1] - 1)
        stride = min(TILE, 1 << max(0, int(np.log2(max(quality.step_mm / pitch, 1)))))
        forced[::stride, ::stride] = True
    return forced


def _side_fractions(
    footprint: Footprint, rings: Sequence[Ring], step_mm: float | None
) -> tuple[Fractions, ...]:
    """Return where the vertices of the outer rings lie: at the corners; on a curve also along the sides."""
    if step_mm is None:
        return CORNERS
    reach = footprint.width_mm + 2 * max((ring.outward_mm for ring in rings), default=0.0)
    along = np.linspace(0, 1, int(np.ceil(reach / step_mm)) + 1)
    return along, CORNERS[1], along, CORNERS[3]


def _numbers(used: Indices, size: int) -> Indices:
    numbers = np.zeros(size, dtype=np.int32)
    numbers[used] = np.arange(len(used), dtype=np.int32)
    return numbers


def _points(used: Indices, heights: Points, footprint: Footprint) -> Points:
    """Place samples: float32 [V, 3]; the first row of the grid is the back, at large y."""
    rows, columns = heights.shape
    x = (footprint.left_mm + footprint.width_mm * (np.arange(columns) / (columns - 1))).astype(np.float32)
    y = (footprint.front_mm + footprint.depth_mm * (1 - np.arange(rows) / (rows - 1))).astype(np.float32)
    row, column = np.divmod(used, np.int32(columns))
    return np.column_stack([x[column], y[row], heights.ravel()[used]])


def _clipped_points(used: Indices, clipped: Clipped, heights: Points, footprint: Footprint) -> Points:
    """Place samples and crossings: float32 [V, 3]."""
    rows, columns = heights.shape
    chosen = used[used >= heights.size] - heights.size
    start, end, share = clipped.inside[chosen], clipped.outside[chosen], clipped.share[chosen]
    row, column, z = (
        values[0] + share * (values[1] - values[0])
        for values in (
            (start // columns, end // columns),
            (start % columns, end % columns),
            (heights.ravel()[start].astype(np.float64), heights.ravel()[end]),
        )
    )
    x = footprint.left_mm + footprint.width_mm * (column / (columns - 1))
    y = footprint.front_mm + footprint.depth_mm * (1 - row / (rows - 1))
    samples = _points(used[used < heights.size], heights, footprint)
    return np.concatenate([samples, np.column_stack([x, y, z]).astype(np.float32)])


@dataclass(frozen=True, eq=False)
class Loop:
    """A ring of vertices.

    Attributes:
        ids: int32 arrays, the vertices of each of four sides with both corners; of an ellipse one array.
        along: float64 arrays from 0 to 1, where on their side, or around the ellipse, they lie.
    """

    ids: tuple[Indices, ...]
    along: tuple[Fractions, ...]


def ellipse_mm(footprint: Footprint) -> tuple[float, float]:
    """Return the half axes of a disc's picture."""
    assert footprint.outline is not None and footprint.outline.ellipse is not None
    ellipse, shape = footprint.outline.ellipse, footprint.outline.level.shape
    return (
        ellipse.half_columns * footprint.width_mm / (shape[1] - 1),
        ellipse.half_rows * footprint.depth_mm / (shape[0] - 1),
    )


def close_border(
    points: Points,
    border: Loop,
    *,
    footprint: Footprint,
    rings: Sequence[Ring],
    fractions: Sequence[Fractions] = CORNERS,
) -> tuple[Points, Indices]:
    """Return the vertices and faces that turn an open top into a closed solid on z = 0.

    Args:
        points: float32 [V, 3] of the top.
        border: The border of the top.
        footprint: Where the picture lies.
        rings: Of the frame, strictly outwards; empty without one.
        fractions: Where the vertices of the outer rings lie along the four sides.

    Returns:
        All vertices float32 [V', 3], the first V unchanged, and the added faces int32 [F, 3].
    """
    if not rings:
        # A step down the wall takes up the uneven border, so that the bottom needs no vertex but its corners.
        lowest = min(float(points[side, 2].min()) for side in border.ids)
        rings = (Ring(0.0, lowest / 2),)
    rings = (*rings, Ring(rings[-1].outward_mm, 0.0))
    all_points, loops = [points], [border]
    count = len(points)
    for k, ring in enumerate(rings):
        along = border.along if k == 0 else tuple(fractions)
        loop, corners = _loop(along, start=count)
        placed = _place(along, ring, footprint)
        if ring.outward_mm == 0 and k == 0:
            # Straight down from the border, to the last bit: walls stay upright.
            placed[:, :2] = points[np.concatenate([side[:-1] for side in border.ids]), :2]
        all_points.append(placed)
        count += corners
        loops.append(loop)
    faces = [_strip(inner, outer) for inner, outer in pairwise(loops)]
    return np.concatenate(all_points), np.concatenate([*faces, _bottom(loops[-1])])


def border_loop(active: NDArray[np.bool_], number: Indices) -> Loop:
    """Return the border of a triangulation as a loop.

    Args:
        active: bool [R, C], the samples that are vertices.
        number: int32 [R, C], the vertex number of each active sample.
    """
    last_row, last_column = active.shape[0] - 1, active.shape[1] - 1
    front, back = np.flatnonzero(active[-1]), np.flatnonzero(active[0])[::-1]
    right, left = np.flatnonzero(active[:, -1])[::-1], np.flatnonzero(active[:, 0])
    return Loop(
        ids=(number[-1, front], number[right, -1], number[0, back], number[left, 0]),
        along=(front / last_column, 1 - right / last_row, 1 - back / last_column, left / last_row),
    )


def _loop(along: Sequence[Fractions], *, start: int) -> tuple[Loop, int]:
    """Number new vertices side by side; each side's last is the next side's first."""
    ids, first = [], start
    total = sum(len(side) - 1 for side in along)
    for side in along:
        numbers = np.arange(first, first + len(side), dtype=np.int32)
        first += len(side) - 1
        ids.append(numbers)
    ids[-1][-1] = start
    return Loop(ids=tuple(ids), along=tuple(along)), total


def _place(along: Sequence[Fractions], ring: Ring, footprint: Footprint) -> Points:
    """Put the vertices of a ring where they belong: float32 [N, 3]."""
    d = ring.outward_mm
    if footprint.outline is not None:
        turn = 2 * np.pi * along[0][:-1]
        x, y = (
            outer / 2 + (half + d) * part
            for outer, half, part in zip(
                footprint.outer_mm, ellipse_mm(footprint), (np.cos(turn), np.sin(turn)), strict=True
            )
        )
        return np.column_stack([x, y, np.full(len(turn), ring.height_mm)]).astype(np.float32)
    left, right = footprint.left_mm - d, footprint.left_mm + footprint.width_mm + d
    front, back = footprint.front_mm - d, footprint.front_mm + footprint.depth_mm + d
    corners = np.array([[left, front], [right, front], [right, back], [left, back], [left, front]])
    sides = []
    for (start, end), share in zip(pairwise(corners), along, strict=True):
        t = share[:-1, None]
        sides.append(start * (1 - t) + end * t)
    flat = np.concatenate(sides)
    return np.column_stack([flat, np.full(len(flat), ring.height_mm)]).astype(np.float32)


def _strip(inner: Loop, outer: Loop) -> Indices:
    """Fill the band between two loops: int32 [F, 3], facing up or outwards."""
    parts = [
        _fill_between(inner.ids[k], outer.ids[k], inner_along=inner.along[k], outer_along=outer.along[k])
        for k in range(len(inner.ids))
    ]
    return np.concatenate(parts)


def _fill_between(
    inner: Indices, outer: Indices, *, inner_along: Fractions, outer_along: Fractions
) -> Indices:
    """Fill the band between two chains of vertices: step along the one that lags behind."""
    steps = np.concatenate([inner_along[1:], outer_along[1:]])
    order = np.argsort(steps, kind="stable")
    is_inner = order < len(inner) - 1
    on_inner: Indices = np.cumsum(is_inner) - is_inner  # where each chain stands before the step
    on_outer: Indices = np.cumsum(~is_inner) - ~is_inner
    third = np.where(
        is_inner,
        inner[np.minimum(on_inner + 1, len(inner) - 1)],
        outer[np.minimum(on_outer + 1, len(outer) - 1)],
    )
    # Stepping inwards: (inner, outer, next inner). Stepping outwards: (inner, outer, next outer).
    return np.column_stack([inner[on_inner], outer[on_outer], third]).astype(np.int32)


def _bottom(loop: Loop) -> Indices:
    """Fill the last loop, facing down; front and back match, the other sides have their corners only."""
    if len(loop.ids) == 1:  # around an ellipse, from its right: front and back meet at both ends
        half = len(loop.ids[0]) // 2
        back, front = loop.ids[0][half::-1], loop.ids[0][half:]
        low = np.column_stack([front[1:-1], back[1:-1], back[2:]])
        high = np.column_stack([front[:-2], back[1:-1], front[1:-1]])
        return np.concatenate([low, high])
    front, back = loop.ids[0], loop.ids[2][::-1]
    low = np.column_stack([front[:-1], back[:-1], back[1:]])
    high = np.column_stack([front[:-1], back[1:], front[1:]])
    return np.concatenate([low, high])
