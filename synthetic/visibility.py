"""What a camera sees: z-depth at pixel centers, which solid is there, and smooth outlines.

A view row is camera position 3, right 3, up 3, forward 3, and the tangents of half the horizontal and
vertical angles. Rays have forward component 1, so that t is z-depth.
"""

import math

import numpy as np
from numpy.typing import NDArray

from synthetic.compiled import compiled, inlined
from synthetic.fields import Vector
from synthetic.placing import SOLID_A, SOLID_B, SOLID_HOLES, SOLID_KIND
from synthetic.primitives import BOX, RELIEF, hit_box, hit_solid
from synthetic.trace import World, hit, to_local

NEAR = 0.02  # meters
FAR = 1000.0  # meters: the sky


def see(
    world: World, view: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Return z-depth [H, W] at pixel centers (FAR where nothing is hit) and the solid seen [H, W] (-1: none).

    Solids are drawn one by one into their screen rectangles; `size` is (H, W).
    """
    depth = np.full(size, FAR)
    seen = np.full(size, -1, np.int32)
    # Uneven sheets cost most: they come last, near ones first.
    away = 1.0 + ((world.solids[:, :3] - view[:3]) ** 2).sum(axis=1)
    order = np.argsort(np.where(world.solids[:, SOLID_KIND] == RELIEF, away, 0.0), kind="stable")
    draw_all(world, order, view, depth, seen)
    return depth, seen


@compiled
def draw_all(
    world: World,
    order: NDArray[np.int64],
    view: NDArray[np.float64],
    depth: NDArray[np.float64],
    seen: NDArray[np.int32],
) -> None:
    """Draw solids in this order [P]."""
    for p in order:
        draw(world, p, view, depth, seen)


@compiled
def draw(
    world: World, p: int, view: NDArray[np.float64], depth: NDArray[np.float64], seen: NDArray[np.int32]
) -> None:
    """Draw solid p into depth and seen where it is nearer than what is there."""
    height, width = depth.shape
    x0, x1, y0, y1 = screen_box(world.bounds[p], view, height, width)
    if x1 <= x0:
        return
    solids, fields = world.solids, world.fields
    kind = int(solids[p, SOLID_KIND])
    eye = (view[0], view[1], view[2])
    o = to_local(solids, p, (eye[0] - solids[p, 0], eye[1] - solids[p, 1], eye[2] - solids[p, 2]))
    right = to_local(solids, p, (view[3], view[4], view[5]))
    up = to_local(solids, p, (view[6], view[7], view[8]))
    ahead = to_local(solids, p, (view[9], view[10], view[11]))
    shape = (solids[p, SOLID_A], solids[p, SOLID_B])
    holes = solids[p, SOLID_HOLES] > 0.0
    for y in range(y0, y1):
        v = (1.0 - 2.0 * (y + 0.5) / height) * view[13]
        for x in range(x0, x1):
            u = (2.0 * (x + 0.5) / width - 1.0) * view[12]
            d = (
                ahead[0] + v * up[0] + u * right[0],
                ahead[1] + v * up[1] + u * right[1],
                ahead[2] + v * up[2] + u * right[2],
            )
            reach = (NEAR, depth[y, x])
            t = hit_box(o, d, NEAR) if kind == BOX else hit_solid(fields, kind, o, d, shape, reach)
            if holes and 0.0 < t < depth[y, x]:
                through = look_through(view, x + 0.5, y + 0.5, (height, width))
                t = hit(solids, fields, p, eye, through, reach)
            if 0.0 < t < depth[y, x]:
                depth[y, x] = t
                seen[y, x] = p


@inlined
def look_through(view: NDArray[np.float64], x: float, y: float, size: tuple[int, int]) -> Vector:
    """Return the direction through picture point x, y in pixels of a picture of size (H, W)."""
    u = (2.0 * x / size[1] - 1.0) * view[12]
    v = (1.0 - 2.0 * y / size[0]) * view[13]
    return (
        view[9] + v * view[6] + u * view[3],
        view[10] + v * view[7] + u * view[4],
        view[11] + v * view[8] + u * view[5],
    )


@compiled
def screen_box(
    bound: NDArray[np.float64], view: NDArray[np.float64], height: int, width: int
) -> tuple[int, int, int, int]:
    """Return the pixel rectangle (x0, x1, y0, y1; ends excluded) that covers a world box."""
    corners = np.empty((8, 3))
    for corner in range(8):
        px = (bound[3] if corner & 1 else bound[0]) - view[0]
        py = (bound[4] if corner & 2 else bound[1]) - view[1]
        pz = (bound[5] if corner & 4 else bound[2]) - view[2]
        corners[corner, 0] = (view[3] * px + view[4] * py + view[5] * pz) / view[12]
        corners[corner, 1] = (view[6] * px + view[7] * py + view[8] * pz) / view[13]
        corners[corner, 2] = view[9] * px + view[10] * py + view[11] * pz
    x0, x1, y0, y1 = 1e9, -1e9, 1e9, -1e9
    for corner in range(8):
        x, y, z = corners[corner]
        if z >= NEAR:
            x0, x1, y0, y1 = min(x0, x / z), max(x1, x / z), min(y0, y / z), max(y1, y / z)
        for axis in (1, 2, 4):  # where an edge crosses the near plane
            other = corner | axis
            if other == corner or (z < NEAR) == (corners[other, 2] < NEAR):
                continue
            w = (NEAR - z) / (corners[other, 2] - z)
            u = (x + w * (corners[other, 0] - x)) / NEAR
            v = (y + w * (corners[other, 1] - y)) / NEAR
            x0, x1, y0, y1 = min(x0, u), max(x1, u), min(y0, v), max(y1, v)
    left, right = max((x0 + 1.0) * 0.5 * width - 1.0, 0.0), min((x1 + 1.0) * 0.5 * width + 1.0, width * 1.0)
    top, low = max((1.0 - y1) * 0.5 * height - 1.0, 0.0), min((1.0 - y0) * 0.5 * height + 1.0, height * 1.0)
    if left >= right or top >= low:
        return 0, 0, 0, 0
    return int(left), math.ceil(right), int(top), math.ceil(low)


@compiled
def smooth_edges(
    image: NDArray[np.float32], seen: NDArray[np.int32], world: World, view: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return radiance [H, W, 3] where pixels on outlines mix the colors of their neighbors by coverage."""
    height, width = seen.shape
    solids, fields = world.solids, world.fields
    result = image.copy()
    near = np.empty(9, np.int64)
    for y in range(height):
        for x in range(width):
            p = seen[y, x]
            up, down = seen[max(0, y - 1), x], seen[min(height - 1, y + 1), x]
            if up == p and down == p and seen[y, max(0, x - 1)] == p and seen[y, min(width - 1, x + 1)] == p:
                continue
            count = list_neighbors(seen, x, y, near)
            for c in range(3):
                result[y, x, c] = 0.0
            for sub in range(4):
                sx, sy = x + (0.125, 0.375, 0.625, 0.875)[sub], y + (0.375, 0.875, 0.125, 0.625)[sub]
                d = look_through(view, sx, sy, (height, width))
                best, winner = FAR, -1
                for c in near[:count]:
                    t = (
                        hit(solids, fields, c, (view[0], view[1], view[2]), d, (NEAR, best))
                        if c >= 0
                        else -1.0
                    )
                    if 0.0 < t < best:
                        best, winner = t, c
                j, i = nearest_with(seen, x, y, winner)
                for c in range(3):
                    result[y, x, c] += np.float32(0.25) * image[j, i, c]
    return result


@compiled
def list_neighbors(seen: NDArray[np.int32], x: int, y: int, near: NDArray[np.int64]) -> int:
    """Write the solids seen in the 3x3 pixels around x, y to near [9] and return how many they are."""
    height, width = seen.shape
    count = 0
    for j in range(max(0, y - 1), min(height, y + 2)):
        for i in range(max(0, x - 1), min(width, x + 2)):
            known = False
            for k in range(count):
                known = known or near[k] == seen[j, i]
            if not known:
                near[count] = seen[j, i]
                count += 1
    return count


@compiled
def nearest_with(seen: NDArray[np.int32], x: int, y: int, winner: int) -> tuple[int, int]:
    """Return row and column of the pixel closest to x, y, in the 3x3 around it, that sees the winner."""
    height, width = seen.shape
    row, column, least = y, x, 100
    for j in range(max(0, y - 1), min(height, y + 2)):
        for i in range(max(0, x - 1), min(width, x + 2)):
            away = (j - y) * (j - y) + (i - x) * (i - x)
            if seen[j, i] == winner and away < least:
                row, column, least = j, i, away
    return row, column
