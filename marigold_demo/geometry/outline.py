"""The true outline of a disc or cut-out on the grid, and triangles clipped at it.

A triangulation is cut by marching triangles: every edge from a sample inside to one outside gets a vertex on
the outline. No sample lies on the outline itself, so the border of what is left is always one or more closed
loops that do not touch.
"""

from dataclasses import dataclass, replace

import contourpy
import numpy as np
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg
import scipy.spatial
import scipy.special
from numpy.typing import NDArray

CONTOUR_SIGMA = 1.5  # samples over which the steps of kept cells are smoothed
MOST_POINTS = 12_000  # of borders between pixels, for which the smoothest course takes a second or two
FEWEST_POINTS = 16  # shorter borders of a mask have no form to find
START_SIGMA = 3.0  # pixels along a border that its first, rounded course is the mean of
CLEARANCE = 0.02  # pixels between a border and the middles of the pixels on both sides
STIFFNESS, SOLVER_STEPS = 1e-4, 300  # of the alternating direction method of multipliers (ADMM)
NEAREST_MM = 5e-4  # a vertex on the outline keeps this distance from samples, so that files tell them apart

Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]
Indices = NDArray[np.int32]
Fractions = NDArray[np.float64]


@dataclass(frozen=True)
class Ellipse:
    """An ellipse in units of the grid: middle and half axes."""

    column: float
    row: float
    half_columns: float
    half_rows: float

    def level(self, shape: tuple[int, ...], *, margin: float) -> Grid:
        """Return a value for every sample [R, C], positive inside.

        No sample at the border of the grid is inside, nor one that is nearer than the margin to the ellipse.
        """
        across = (np.arange(shape[1]) - self.column) / self.half_columns
        down = (np.arange(shape[0]) - self.row) / self.half_rows
        most = 1 - 2 * margin / min(self.half_columns, self.half_rows)
        level = (most - across**2 - down[:, None] ** 2).astype(np.float32)
        for edge in (level[0], level[-1], level[:, 0], level[:, -1]):
            np.minimum(edge, np.float32(-1e-6), out=edge)
        return level


@dataclass(frozen=True, eq=False)
class Outline:
    """What is inside an outline, and where edges cross it.

    Attributes:
        level: float32 [R, C], positive inside.
        nearest: Smallest share of an edge between its ends and the outline.
        ellipse: Where the outline is one: edges cross it exactly there, and not where `level` is 0.
    """

    level: Grid
    nearest: float
    ellipse: Ellipse | None = None

    @property
    def inside(self) -> Mask:
        """The samples bool [R, C] inside."""
        found: Mask = self.level > 0
        return found

    def crossings(self, inside: Indices, outside: Indices) -> Fractions:
        """Return how far along edges the outline lies, from inside to outside: float64 [N]."""
        if self.ellipse is None:
            a, b = (self.level.ravel()[ends].astype(np.float64) for ends in (inside, outside))
            share = a / (a - b)
        else:
            (u, v), (p, q) = self._unit(inside), self._unit(outside)
            u2, uv, v2 = u * u + v * v, u * (p - u) + v * (q - v), (p - u) ** 2 + (q - v) ** 2
            share = (np.sqrt(np.maximum(uv * uv + v2 * (1 - u2), 0)) - uv) / v2
        return np.clip(share, self.nearest, 1 - self.nearest)

    def mirrored(self) -> "Outline":
        """Return it with left and right exchanged."""
        ellipse = self.ellipse
        if ellipse is not None:
            ellipse = replace(ellipse, column=self.level.shape[1] - 1 - ellipse.column)
        return replace(self, level=np.ascontiguousarray(self.level[:, ::-1]), ellipse=ellipse)

    def _unit(self, samples: Indices) -> tuple[Fractions, Fractions]:
        """Return samples in coordinates in which the ellipse is the unit circle."""
        assert self.ellipse is not None
        row, column = np.divmod(samples, self.level.shape[1])
        return (
            (column - self.ellipse.column) / self.ellipse.half_columns,
            (row - self.ellipse.row) / self.ellipse.half_rows,
        )


@dataclass(frozen=True, eq=False)
class Clipped:
    """Triangles inside an outline.

    Attributes:
        faces: int32 [F, 3], row-major sample indices below R C; those from R C on are crossings.
        inside: int32 [K], the sample inside of each crossing's edge.
        outside: int32 [K], the sample outside.
        share: float64 [K], how far from the first to the second.
    """

    faces: Indices
    inside: Indices
    outside: Indices
    share: Fractions


def clip(faces: Indices, outline: Outline) -> Clipped:
    """Clip a triangulation int32 [F, 3] of samples at an outline."""
    is_inside = outline.inside.ravel()
    corners = is_inside[faces]
    count = corners.sum(axis=1)
    one, two = (
        _turned(faces[count == 1], corners[count == 1]),
        _turned(faces[count == 2], ~corners[count == 2]),
    )
    inside = np.concatenate([one[:, 0], one[:, 0], two[:, 1], two[:, 2]]).astype(np.int64)
    outside = np.concatenate([one[:, 1], one[:, 2], two[:, 0], two[:, 0]]).astype(np.int64)
    size = is_inside.size
    edges, number = np.unique(inside * size + outside, return_inverse=True)
    at = (number.ravel() + size).astype(np.int32)
    first, second, third, fourth = np.split(at, np.cumsum([len(one), len(one), len(two)]))
    start, end = (part.astype(np.int32) for part in np.divmod(edges, size))
    return Clipped(
        faces=np.concatenate(
            [
                faces[count == 3],
                np.column_stack([one[:, 0], first, second]),
                np.column_stack([two[:, 1], two[:, 2], fourth]),
                np.column_stack([two[:, 1], fourth, third]),
            ]
        ).astype(np.int32),
        inside=start,
        outside=end,
        share=outline.crossings(start, end),
    )


def _turned(faces: Indices, marked: Mask) -> Indices:
    """Turn faces [F, 3] so that their one marked corner comes first."""
    order = (marked.argmax(axis=1)[:, None] + np.arange(3)) % 3
    turned: Indices = np.take_along_axis(faces, order, axis=1)
    return turned


def open_edges(faces: Indices) -> Indices:
    """Return start and end int32 [N, 2] of the edges that belong to one face only, as that face runs."""
    start, end = faces.ravel().astype(np.int64), np.roll(faces, -1, axis=1).ravel().astype(np.int64)
    size = int(faces.max()) + 1
    alone = ~np.isin(start * size + end, end * size + start)
    return np.column_stack([start[alone], end[alone]]).astype(np.int32)


def contour(kept: Mask, distance: Grid | None) -> Grid:
    """Return a smooth level [R, C] for kept cells [R-1, C-1], in samples from their border, positive inside.

    Args:
        kept: The cells.
        distance: float32 [R, C], a finer measure of what was wanted, positive inside and in any unit; it
            decides where it differs by less than one sample from the border of the cells.
    """
    share = scipy.ndimage.uniform_filter(np.pad(kept, 1, mode="edge").astype(np.float32), 2)[1:, 1:]
    smooth = scipy.ndimage.gaussian_filter(share, CONTOUR_SIGMA, mode="nearest")
    level = CONTOUR_SIGMA * from_blurred(smooth)
    if distance is not None:
        slope = np.maximum(np.hypot(*np.gradient(distance)), 1e-6 * max(float(np.ptp(distance)), 1e-6))
        level = np.clip(distance / slope, level - 1, level + 1)
    return _one_part(level.astype(np.float32))


def border_distance(mask: Mask, *, reach: float = 3.0) -> Grid | None:
    """Return the distance in pixels from the smoothest border that a mask permits.

    A mask says of each pixel's middle on which side of the border it lies, and no more. Of all curves with
    these middles on their right sides the one that bends least is taken, in the sum of squared second
    differences. The mask goes on outside the picture.

    Args:
        mask: bool [H, W].
        reach: Pixels at which distances end.

    Returns:
        float32 [H, W], positive inside; None where the border is longer than 12,000 pixels.
    """
    margin = 8
    inside = np.pad(mask, margin, mode="edge")
    lines = contourpy.contour_generator(z=np.pad(inside, 1).astype(np.float32)).lines(0.5)
    if sum(len(line) for line in lines) > MOST_POINTS:
        return None
    starts, ends = [], []
    for line in lines:
        border = np.asarray(line)[:-1] - 1
        if len(border) >= FEWEST_POINTS:
            border = _least_bent(border, inside)
        starts.append(border)
        ends.append(np.roll(border, -1, axis=0))
    far = np.where(inside, np.float32(reach), np.float32(-reach))
    if starts:
        start, end = np.concatenate(starts), np.concatenate(ends)
        near = np.ones_like(inside)
        for side in (inside, ~inside):
            near &= scipy.ndimage.distance_transform_edt(side) < reach + 1
        row, column = np.nonzero(near)
        found = _distance(np.stack([column, row], axis=1).astype(np.float64), start, end)
        far[row, column] = np.copysign(np.clip(found, CLEARANCE, reach), far[row, column])
    return far[margin:-margin, margin:-margin]


def _least_bent(border: Fractions, inside: Mask) -> Fractions:
    """Return a closed curve [M, 2] (x, y) that bends least; `border` [N, 2] runs between the pixels."""
    curve: Fractions = scipy.ndimage.gaussian_filter1d(
        _evenly(border, 0.5), 2 * START_SIGMA, axis=0, mode="wrap"
    )
    left, top = np.floor(border.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(border.max(axis=0)).astype(int) + 2
    part = inside[max(0, top) : bottom, max(0, left) : right]
    row, column = np.nonzero(scipy.ndimage.binary_dilation(part) ^ scipy.ndimage.binary_erosion(part))
    middles = np.stack([column + max(0, left), row + max(0, top)], axis=1).astype(np.float64)
    reach = scipy.spatial.cKDTree(border).query(middles, distance_upper_bound=1.5)[0]  # not of other borders
    middles, is_inside = middles[np.isfinite(reach)], part[row, column][np.isfinite(reach)]
    for _ in range(2):  # the second time with normals of the first result
        curve = _least_bent_from(_evenly(curve, 1.0), middles, is_inside)
    return _evenly(curve, 1.0)


def _least_bent_from(curve: Fractions, middles: Fractions, is_inside: Mask) -> Fractions:
    """Move a curve [N, 2] along its normals to bend least, with pixels' middles [K, 2] on their sides."""
    n, count = len(curve), len(middles)
    tangent = np.roll(curve, -1, axis=0) - np.roll(curve, 1, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    nearest = scipy.spatial.cKDTree(curve).query(middles)[1]
    away = middles - curve[nearest]
    outward, along = (away * normal[nearest]).sum(axis=1), (away * tangent[nearest]).sum(axis=1)
    if outward[is_inside].sum() > 0:
        normal, outward = -normal, -outward
    first = np.where(along < 0, nearest - 1, nearest) % n
    share = np.clip(np.where(along < 0, 1 + along, along), 0, 1)
    places = np.tile(np.arange(count), 2), np.concatenate([first, (first + 1) % n])
    at = scipy.sparse.csr_array((np.concatenate([1 - share, share]), places), shape=(count, n))
    low = np.where(is_inside, outward + CLEARANCE, -np.inf)
    high = np.where(is_inside, np.inf, outward - CLEARANCE)
    ring = (np.ones(n), (np.arange(n), (np.arange(n) + 1) % n))
    following = scipy.sparse.csr_array(ring, shape=(n, n))
    second = following + following.T - 2 * scipy.sparse.eye_array(n)
    bending = second.T @ second
    across = [scipy.sparse.diags_array(normal[:, axis]) for axis in (0, 1)]
    energy = sum(side @ bending @ side for side in across)
    pull = (normal * (bending @ curve)).sum(axis=1)
    solve = scipy.sparse.linalg.splu(
        scipy.sparse.csc_array(energy + STIFFNESS * at.T @ at + 1e-9 * scipy.sparse.eye_array(n))
    ).solve
    placed, price = np.clip(np.zeros(count), low, high), np.zeros(count)
    for _ in range(SOLVER_STEPS):
        moved = solve(STIFFNESS * (at.T @ (placed - price)) - pull)
        wanted = at @ moved + price
        placed = np.clip(wanted, low, high)
        price = wanted - placed
    result: Fractions = curve + moved[:, None] * normal
    return result


def _evenly(curve: Fractions, step: float) -> Fractions:
    """Return points [M, 2] that lie at equal steps on a closed curve [N, 2]."""
    closed = np.concatenate([curve, curve[:1]])
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    count = max(FEWEST_POINTS, round(length[-1] / step))
    at = np.arange(count) * (length[-1] / count)
    return np.stack([np.interp(at, length, closed[:, axis]) for axis in (0, 1)], axis=1)


def _distance(points: Fractions, start: Fractions, end: Fractions) -> Fractions:
    """Return the distance float64 [N] of points [N, 2] from segments [M, 2] of about equal length."""
    nearest = scipy.spatial.cKDTree((start + end) / 2).query(points, k=min(3, len(start)))[1]
    nearest = nearest.reshape(len(points), -1)
    a, run = start[nearest], (end - start)[nearest]  # [N, 3, 2]
    away = points[:, None] - a
    square = np.maximum((run**2).sum(axis=-1), 1e-18)
    share = np.clip((away * run).sum(axis=-1) / square, 0, 1)
    distance: Fractions = np.linalg.norm(away - share[..., None] * run, axis=-1).min(axis=1)
    return distance


def from_blurred(share: Grid) -> Grid:
    """Return the distance from a straight border in sigmas, given the share [R, C] of it that is blurred."""
    found: Grid = scipy.special.ndtri(np.clip(share, 1e-3, 1 - 1e-3)).astype(np.float32)
    return found


def _one_part(level: Grid) -> Grid:
    """Let only the largest part of samples that are neighbors be inside, and none exactly on the outline."""
    parts, count = scipy.ndimage.label(level > 0)
    if count > 1:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        level = np.where(parts == sizes.argmax(), level, np.minimum(level, np.float32(-1e-3)))
    return np.where(level > 0, np.maximum(level, np.float32(1e-6)), np.minimum(level, np.float32(-1e-6)))


def extent(outline: Outline) -> tuple[float, float, float, float]:
    """Return left, right, top and bottom of an outline in samples."""
    rows, columns = outline.level.shape
    index = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    inside = outline.inside
    falling = np.add.outer(np.arange(rows - 1), np.arange(columns - 1)) % 2 == 0
    pairs = [
        (index[:, :-1].ravel(), index[:, 1:].ravel()),
        (index[:-1].ravel(), index[1:].ravel()),
        (index[:-1, :-1][falling], index[1:, 1:][falling]),
        (index[1:, :-1][~falling], index[:-1, 1:][~falling]),
    ]
    first = np.concatenate([pair[0] for pair in pairs])
    second = np.concatenate([pair[1] for pair in pairs])
    flat = inside.ravel()
    differ = flat[first] != flat[second]
    first, second = first[differ], second[differ]
    start, end = np.where(flat[first], first, second), np.where(flat[first], second, first)
    share = outline.crossings(start, end)
    samples = np.flatnonzero(flat)
    row = np.concatenate([samples // columns, start // columns + share * (end // columns - start // columns)])
    column = np.concatenate([samples % columns, start % columns + share * (end % columns - start % columns)])
    return float(column.min()), float(column.max()), float(row.min()), float(row.max())


def extended(heights: Grid, inside: Mask, *, by: int = 2) -> Grid:
    """Continue heights [R, C] a few samples outside, so that the border is as high as the inside."""
    made, known = np.where(inside, heights, np.float32(0)), inside
    for _ in range(by):
        weight = scipy.ndimage.uniform_filter(known.astype(np.float32), 3, mode="constant")
        mean = scipy.ndimage.uniform_filter(made, 3, mode="constant") / np.maximum(weight, np.float32(1e-6))
        near = ~known & (weight > 0.05)
        made, known = np.where(near, mean, made), known | near
    lowest = heights[inside].min()
    highest = heights[inside].max()
    return np.where(known, np.clip(made, lowest, highest), lowest).astype(np.float32)
