"""What lies behind the cuts of a textured surface: the far side, continued under what stands before it.

Every sample before a jump takes the depth and the color of the nearest sample on the jump's far side. Depth
is blurred the more the farther it is from there; color is streaked. So a surface that is turned by some 20
degrees shows the background in place of holes.
"""

from dataclasses import dataclass

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

from marigold_demo.geometry.rtin import FaceBudget, compact, triangulate

REACH = 0.35  # how far it goes on behind a cut, as a share of the long side
BLUR = 0.004  # of depth far from the cut, as a share of the long side
PUSH = 0.008  # from the cut to where its color is taken, of the long side; nearer is mixed with the front
STRIDES = (4, 8, 16, 32)  # samples between vertices at most, because colors do not follow straight lines

Grid = NDArray[np.float32]
Mask = NDArray[np.bool_]
Indices = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class SecondLayer:
    """Triangles behind the front.

    Attributes:
        faces: int32 [F, 3], wound as the front's are.
        samples: int32 [V], the sample of the grid that each vertex lies behind.
        linear: float32 [V], inverse depth (or depth under parallel rays).
        colors: int32 [V], the sample whose color it has.
    """

    faces: Indices
    samples: Indices
    linear: Grid
    colors: Indices


def second_layer(
    nearness: Grid, jumps: Mask, *, edge_tol: float, tolerance: float, max_faces: int
) -> SecondLayer | None:
    """Return the layer behind the jumps of a grid; None where there are none.

    Args:
        nearness: float32 [R, C], larger is nearer; every jump is one cell wide.
        jumps: bool [R-1, C-1], the cells with a jump.
        edge_tol: How large a jump is, as a share of nearness.
        tolerance: See `rtin.triangulate`.
        max_faces: Most triangles.
    """
    far = _far_side(nearness, jumps)
    if not far.any():
        return None
    rows, columns = nearness.shape
    distance, (row, column) = scipy.ndimage.distance_transform_edt(~far, return_indices=True)
    behind = nearness[row, column]  # [R, C]
    is_before = nearness > behind * np.float32(1 + edge_tol / 2)
    # Beside a shallow cut, what lies behind is at the nearest of the deep ones.
    deep = far & (nearness <= np.median(nearness[far]))
    reach, (deep_row, deep_column) = scipy.ndimage.distance_transform_edt(~deep, return_indices=True)
    deeper = nearness[deep_row, deep_column]
    is_deep = ~far & ~is_before & (nearness > deeper * np.float32(1 + edge_tol / 2))
    row, column = np.where(is_deep, deep_row, row), np.where(is_deep, deep_column, column)
    distance, behind = np.where(is_deep, reach, distance), np.where(is_deep, deeper, behind)
    is_before |= is_deep
    longest = max(rows, columns)
    region = far | (is_before & (distance <= REACH * longest))
    share = np.clip(distance / (4 * BLUR * longest), 0, 1).astype(np.float32)
    blurred = scipy.ndimage.gaussian_filter(behind, BLUR * longest, mode="nearest")
    behind = behind + share * (blurred - behind)
    behind = np.where(is_before, np.minimum(behind, nearness * np.float32(1 - edge_tol / 4)), behind)
    cells = region[:-1, :-1] & region[1:, :-1] & region[:-1, 1:] & region[1:, 1:]
    if not cells.any():
        return None
    padded = np.pad(cells, 1)
    edge = scipy.ndimage.maximum_filter(padded, 3) & ~scipy.ndimage.minimum_filter(padded, 3)
    edge = edge[1:, 1:] | edge[:-1, 1:] | edge[1:, :-1] | edge[:-1, :-1]
    for stride in STRIDES:
        forced = edge.copy()
        forced[::stride, ::stride] |= region[::stride, ::stride]
        found = triangulate(behind, tolerance, forced=forced, budget=FaceBudget(max_faces))
        top, side = np.divmod(np.ascontiguousarray(found.faces.T), np.int32(columns))
        top, side = np.minimum(top.min(axis=0), rows - 2), np.minimum(side.min(axis=0), columns - 2)
        kept = found.faces[cells[top, side]]
        if len(kept) <= max_faces:
            break
    used, faces = compact(kept, nearness.size)
    return SecondLayer(faces, used, behind.ravel()[used], _colors(used, row, column, nearness, edge_tol))


def _far_side(nearness: Grid, jumps: Mask) -> Mask:
    """Mark the samples bool [R, C] on the far side of the cells with a jump."""
    corners = np.stack([nearness[:-1, :-1], nearness[1:, :-1], nearness[:-1, 1:], nearness[1:, 1:]])
    middle = (corners.max(axis=0) + corners.min(axis=0)) / 2
    far = np.zeros(nearness.shape, dtype=bool)
    for corner, part in zip(corners, (far[:-1, :-1], far[1:, :-1], far[:-1, 1:], far[1:, 1:]), strict=True):
        part |= jumps & (corner < middle)
    return far


def _colors(used: Indices, row: Indices, column: Indices, nearness: Grid, edge_tol: float) -> Indices:
    """Return the sample that gives each used sample its color: a little behind the cut, seen from there."""
    rows, columns = nearness.shape
    own_row, own_column = np.divmod(used, np.int32(columns))
    far_row, far_column = row.ravel()[used], column.ravel()[used]
    away = np.stack([far_row - own_row, far_column - own_column]).astype(np.float64)
    away *= PUSH * max(rows, columns) / np.maximum(np.hypot(*away), 1e-6)
    to_row = np.clip(np.round(far_row + away[0]), 0, rows - 1).astype(np.int32)
    to_column = np.clip(np.round(far_column + away[1]), 0, columns - 1).astype(np.int32)
    is_far = nearness[to_row, to_column] <= nearness[far_row, far_column] * np.float32(1 + edge_tol)
    found: Indices = np.where(is_far, to_row * columns + to_column, far_row * columns + far_column).astype(
        np.int32
    )
    return found
