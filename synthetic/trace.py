"""Rays against a whole scene: one solid, and whether anything stands in the way, through a tree of boxes."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from synthetic.compiled import compiled, inlined
from synthetic.fields import Shape, Vector
from synthetic.noise import noise3
from synthetic.placing import (
    FLAG_NO_SHADOW,
    SOLID_A,
    SOLID_B,
    SOLID_FLAGS,
    SOLID_HOLE_SIZE,
    SOLID_HOLES,
    SOLID_KIND,
)
from synthetic.primitives import hit_solid

DEEPEST = 64  # levels of the tree that a stack holds


class World(NamedTuple):
    """All that rays can meet: solids [P, 22], bounds [P, 6], fields [K, S + 1, S], and their tree [N, 8].

    A row of the tree is a box, low then high, and its two children; in a leaf -1 - solid and 0.
    Loops unpack the world once and hand on single arrays: handing on the tuple costs as much as tracing.
    """

    solids: NDArray[np.float64]
    bounds: NDArray[np.float64]
    fields: NDArray[np.float64]
    tree: NDArray[np.float64]


@inlined
def to_local(solids: NDArray[np.float64], p: int, v: Vector) -> Vector:
    """Return a world direction in the frame of solid p."""
    return (
        solids[p, 3] * v[0] + solids[p, 4] * v[1] + solids[p, 5] * v[2],
        solids[p, 6] * v[0] + solids[p, 7] * v[1] + solids[p, 8] * v[2],
        solids[p, 9] * v[0] + solids[p, 10] * v[1] + solids[p, 11] * v[2],
    )


@inlined
def hit(
    solids: NDArray[np.float64], fields: NDArray[np.float64], p: int, o: Vector, d: Vector, reach: Shape
) -> float:
    """Return the first t in reach where a world ray meets solid p, holes let through, else -1."""
    kind = int(solids[p, SOLID_KIND])
    local = to_local(solids, p, (o[0] - solids[p, 0], o[1] - solids[p, 1], o[2] - solids[p, 2]))
    along = to_local(solids, p, d)
    shape = (solids[p, SOLID_A], solids[p, SOLID_B])
    t = hit_solid(fields, kind, local, along, shape, reach)
    if t < 0.0 or solids[p, SOLID_HOLES] <= 0.0:
        return t
    for _ in range(2):
        if t < 0.0 or not pierced(solids, p, (o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])):
            return t
        t = hit_solid(fields, kind, local, along, shape, (t + 1e-4, reach[1]))
    return -1.0


@compiled
def pierced(solids: NDArray[np.float64], p: int, at: Vector) -> bool:
    """Return whether the leafy solid p has a hole at this world point."""
    f = 0.7 / solids[p, SOLID_HOLE_SIZE]
    hole: bool = noise3(at[0] * f, at[1] * f, at[2] * f, 7) < 0.22 + 0.56 * solids[p, SOLID_HOLES]
    return hole


@compiled
def blocked(
    solids: NDArray[np.float64],
    fields: NDArray[np.float64],
    tree: NDArray[np.float64],
    stack: NDArray[np.int64],
    o: Vector,
    d: Vector,
    t_max: float,
) -> float:
    """Return the t of some solid on the way (not the nearest), else -1.

    `stack` [DEEPEST] is room to work in.
    """
    dx = d[0] if abs(d[0]) > 1e-12 else 1e-12
    dy = d[1] if abs(d[1]) > 1e-12 else 1e-12
    dz = d[2] if abs(d[2]) > 1e-12 else 1e-12
    inverse = (1.0 / dx, 1.0 / dy, 1.0 / dz)
    depth = 1 if tree.shape[0] > 0 else 0
    stack[0] = 0
    while depth > 0:
        depth -= 1
        n = stack[depth]
        if not passes(tree, n, o, inverse, t_max):
            continue
        child = int(tree[n, 6])
        if child >= 0:
            stack[depth], stack[depth + 1] = child, int(tree[n, 7])
            depth += 2
            continue
        t = hit(solids, fields, -child - 1, o, (dx, dy, dz), (1e-4, t_max))
        if 0.0 < t < t_max:
            return t
    return -1.0


@inlined
def passes(tree: NDArray[np.float64], n: int, o: Vector, inverse: Vector, t_max: float) -> bool:
    """Return whether a ray passes the box of node n before t_max; inverse is one over its direction."""
    a, b = (tree[n, 0] - o[0]) * inverse[0], (tree[n, 3] - o[0]) * inverse[0]
    near, far = min(a, b), max(a, b)
    a, b = (tree[n, 1] - o[1]) * inverse[1], (tree[n, 4] - o[1]) * inverse[1]
    near, far = max(near, min(a, b)), min(far, max(a, b))
    a, b = (tree[n, 2] - o[2]) * inverse[2], (tree[n, 5] - o[2]) * inverse[2]
    near, far = max(near, min(a, b)), min(far, max(a, b))
    met: bool = near <= far and far > 0.0 and near < t_max
    return met


def build_tree(solids: NDArray[np.float64], bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sort the solids that cast shadows into a tree of boxes [N, 8]."""
    order = np.flatnonzero(solids[:, SOLID_FLAGS] != FLAG_NO_SHADOW)
    tree = np.zeros((max(0, 2 * len(order) - 1), 8))
    todo = np.zeros((len(order) + DEEPEST, 3), np.int64)
    if len(order):
        grow(tree, bounds, order, todo, np.zeros((3, len(order))))
    return tree


@compiled
def grow(
    tree: NDArray[np.float64],
    bounds: NDArray[np.float64],
    order: NDArray[np.int64],
    todo: NDArray[np.int64],
    room: NDArray[np.float64],
) -> None:
    """Write the tree [N, 8] of the solids in order [P]; todo [P + DEEPEST, 3], room [3, P] are to work in."""
    todo[0, 0], todo[0, 1], todo[0, 2] = 0, 0, order.shape[0]
    depth, used = 1, 1
    while depth > 0:
        depth -= 1
        node, first, last = todo[depth, 0], todo[depth, 1], todo[depth, 2]
        axis = enclose_part(tree, node, bounds, order, (first, last))
        if last - first == 1:
            tree[node, 6] = -1 - order[first]
            continue
        sort_part(bounds, order, (first, last), axis, room)
        cut = cheapest_cut(bounds, order, (first, last), room)
        tree[node, 6], tree[node, 7] = used, used + 1
        todo[depth, 0], todo[depth, 1], todo[depth, 2] = used, first, cut
        todo[depth + 1, 0], todo[depth + 1, 1], todo[depth + 1, 2] = used + 1, cut, last
        used += 2
        depth += 2


@compiled
def enclose_part(
    tree: NDArray[np.float64],
    node: int,
    bounds: NDArray[np.float64],
    order: NDArray[np.int64],
    part: tuple[int, int],
) -> int:
    """Write the box around a part of order, and return the axis along which middles are spread most."""
    axis, widest = 0, -1.0
    for i in range(3):
        low, high, first, last = 1e30, -1e30, 1e30, -1e30
        for k in range(part[0], part[1]):
            a, b = bounds[order[k], i], bounds[order[k], 3 + i]
            low, high, first, last = min(low, a), max(high, b), min(first, a + b), max(last, a + b)
        tree[node, i], tree[node, 3 + i] = low, high
        if last - first > widest:
            axis, widest = i, last - first
    return axis


@compiled
def sort_part(
    bounds: NDArray[np.float64],
    order: NDArray[np.int64],
    part: tuple[int, int],
    axis: int,
    room: NDArray[np.float64],
) -> None:
    """Sort a part of order by the middles of its boxes along an axis: Shell's sort, quick to compile."""
    for k in range(part[0], part[1]):
        room[0, k] = bounds[order[k], axis] + bounds[order[k], 3 + axis]
    for gap in (701, 301, 132, 57, 23, 10, 4, 1):
        for k in range(part[0] + gap, part[1]):
            key, solid, j = room[0, k], order[k], k
            while j >= part[0] + gap and room[0, j - gap] > key:
                room[0, j], order[j] = room[0, j - gap], order[j - gap]
                j -= gap
            room[0, j], order[j] = key, solid


@compiled
def cheapest_cut(
    bounds: NDArray[np.float64], order: NDArray[np.int64], part: tuple[int, int], room: NDArray[np.float64]
) -> int:
    """Return where to cut a sorted part: least sum of each side's surface times what it holds."""
    first, last = part
    for side in (1, 2):
        x0, y0, z0, x1, y1, z1 = 1e30, 1e30, 1e30, -1e30, -1e30, -1e30
        for k in range(last - first - 1):
            p = order[first + k if side == 1 else last - 1 - k]
            x0, y0, z0 = min(x0, bounds[p, 0]), min(y0, bounds[p, 1]), min(z0, bounds[p, 2])
            x1, y1, z1 = max(x1, bounds[p, 3]), max(y1, bounds[p, 4]), max(z1, bounds[p, 5])
            x, y, z = x1 - x0, y1 - y0, z1 - z0
            room[side, first + k if side == 1 else last - 2 - k] = (k + 1) * (x * y + y * z + z * x)
    best, least = first + 1, 1e300
    for k in range(first, last - 1):
        if room[1, k] + room[2, k] < least:
            best, least = k + 1, room[1, k] + room[2, k]
    return best
