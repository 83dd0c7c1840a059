"""Closing of a picture's triangles into a solid: its border swept out and down. Knows nothing of depth.

A ring is the outline of a rectangle, counter-clockwise from above in four sides: front (image bottom), right,
back, left. The first ring follows every border vertex of the picture; further rings need only their corners.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from marigold_demo.geometry.frame import Ring

Points = NDArray[np.float32]
Indices = NDArray[np.int32]
Share = NDArray[np.float64]
CORNERS = (np.array([0.0, 1.0]),) * 4


@dataclass(frozen=True, eq=False)
class Loop:
    """A ring of vertices.

    Attributes:
        ids: Four int32 arrays, the vertices of each side with both corners.
        along: Four float64 arrays from 0 to 1, where on their side they lie.
    """

    ids: tuple[Indices, ...]
    along: tuple[Share, ...]


@dataclass(frozen=True)
class Outline:
    """A rectangle in millimetres: the picture without its frame."""

    left: float
    front: float
    width: float
    depth: float


def close(
    points: Points,
    border: Loop,
    *,
    outline: Outline,
    rings: Sequence[Ring],
    shares: Sequence[Share] = CORNERS,
) -> tuple[Points, Indices]:
    """Return the vertices and faces that turn an open top into a closed solid on z = 0.

    Args:
        points: float32 [V, 3] of the top.
        border: The outline of the top.
        outline: Where the picture lies.
        rings: Frame profile, strictly outwards; empty for a bare picture.
        shares: Where the vertices of the outer rings lie along the four sides.

    Returns:
        All vertices float32 [V', 3], the first V unchanged, and the added faces int32 [F, 3].
    """
    if not rings:
        # A step down the wall takes up the uneven border, so that the bottom needs no vertex but its corners.
        lowest = min(float(points[side, 2].min()) for side in border.ids)
        rings = (Ring(0.0, lowest / 2),)
    rings = (*rings, Ring(rings[-1].outward_mm, 0.0))
    all_points, faces, loops = [points], [], [border]
    count = len(points)
    for k, ring in enumerate(rings):
        along = border.along if k == 0 else tuple(shares)
        loop, corners = _loop(along, start=count)
        placed = _place(along, ring, outline)
        if ring.outward_mm == 0 and k == 0:
            # Straight down from the border, to the last bit: walls stay upright.
            placed[:, :2] = points[np.concatenate([side[:-1] for side in border.ids]), :2]
        all_points.append(placed)
        count += corners
        loops.append(loop)
    faces = [_strip(inner, outer) for inner, outer in pairwise(loops)]
    return np.concatenate(all_points), np.concatenate([*faces, _bottom(loops[-1])])


def border_loop(active: NDArray[np.bool_], number: Indices) -> Loop:
    """Return the border of a network as a loop.

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


def _loop(along: Sequence[Share], *, start: int) -> tuple[Loop, int]:
    """Number new vertices side by side; each side's last is the next side's first."""
    ids, first = [], start
    total = sum(len(side) - 1 for side in along)
    for side in along:
        numbers = np.arange(first, first + len(side), dtype=np.int32)
        first += len(side) - 1
        ids.append(numbers)
    ids[-1][-1] = start
    return Loop(ids=tuple(ids), along=tuple(along)), total


def _place(along: Sequence[Share], ring: Ring, outline: Outline) -> Points:
    """Put the vertices of a ring where they belong: float32 [N, 3]."""
    d = ring.outward_mm
    left, right = outline.left - d, outline.left + outline.width + d
    front, back = outline.front - d, outline.front + outline.depth + d
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
        _zip(inner.ids[k], outer.ids[k], inner_along=inner.along[k], outer_along=outer.along[k])
        for k in range(4)
    ]
    return np.concatenate(parts)


def _zip(inner: Indices, outer: Indices, *, inner_along: Share, outer_along: Share) -> Indices:
    """Fill the band between two chains by always stepping on along the one that lags behind."""
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
    front, back = loop.ids[0], loop.ids[2][::-1]
    low = np.column_stack([front[:-1], back[:-1], back[1:]])
    high = np.column_stack([front[:-1], back[1:], front[1:]])
    return np.concatenate([low, high])
