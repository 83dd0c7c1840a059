"""The solids that scenes are made of: how a ray meets each, and which way its surface faces.

A solid is a canonical shape (unit box, unit ball, ...) under an affine map `local = to_local @ (point -
origin)`. Rays, origin o and direction d, are given in that local frame; a ray parameter t means the same in
both frames. Two numbers (a, b) shape a solid; every function returns the first t > t_min, or MISS.
"""

import math

import numpy as np
from numpy.typing import NDArray

from synthetic.compiled import compiled, inlined
from synthetic.fields import Shape, Vector, hit_relief, meet_slabs, relief_normal

BOX = 0  # |x|, |y|, |z| <= 1
BALL = 1  # x² + y² + z² <= 1
FRUSTUM = 2  # radius 1 at z = -1 to `a` at z = 1; b = 1: no lid on top, b = 2: neither lid nor floor
PUFF4 = 3  # x⁴ + y⁴ + z⁴ <= 1: cushions, cars, soap
PUFF8 = 4  # x⁸ + y⁸ + z⁸ <= 1: upholstery, boxes with soft edges
ROUND_CONE = 5  # hull of a unit ball at 0 and a ball of radius `b` at (0, 0, a)
RELIEF = 6  # the surface z = field(x, y) of field int(a) over a share |b| of its width, see fields.py

MISS = -1.0


@compiled
def hit_solid(
    fields: NDArray[np.float64], kind: int, o: Vector, d: Vector, shape: Shape, reach: Shape
) -> float:
    """Meet a solid of this kind after reach[0]; reach[1] only saves work."""
    if kind == BOX:
        return hit_box(o, d, reach[0])
    if kind == BALL:
        return hit_ball(o, d, reach[0])
    if kind == FRUSTUM:
        return hit_frustum(o, d, shape, reach[0])
    if kind == ROUND_CONE:
        return hit_round_cone(o, d, shape, reach[0])
    if kind == RELIEF:
        return hit_relief(fields, o, d, shape, reach)
    return hit_puff(o, d, kind == PUFF8, reach[0])


@inlined
def hit_box(o: Vector, d: Vector, t_min: float) -> float:
    """Meet the unit box, from outside or inside."""
    near, far = meet_slabs(o, d)
    if not near <= far:
        return MISS
    if near > t_min:
        return near
    return far if far > t_min else MISS


@compiled
def hit_ball(o: Vector, d: Vector, t_min: float) -> float:
    """Meet the unit ball, from outside or inside."""
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    disc = b * b - a * (o[0] * o[0] + o[1] * o[1] + o[2] * o[2] - 1.0)
    if disc < 0.0:
        return MISS
    root = math.sqrt(disc)
    t = (-b - root) / a
    if t > t_min:
        return t
    t = (-b + root) / a
    return t if t > t_min else MISS


@compiled
def hit_frustum(o: Vector, d: Vector, shape: Shape, t_min: float) -> float:
    """Meet the mantle, floor or lid of a cylinder or cone."""
    best = 1e30
    top, lids = shape
    m, n = 0.5 * (1.0 + top), 0.5 * (top - 1.0)
    s = m + n * o[2]
    a = d[0] * d[0] + d[1] * d[1] - n * n * d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] - n * d[2] * s
    disc = b * b - a * (o[0] * o[0] + o[1] * o[1] - s * s)
    if disc >= 0.0 and a != 0.0:
        root = math.sqrt(disc)
        for sign in (-1.0, 1.0):
            t = (-b + sign * root) / a
            z = o[2] + t * d[2]
            if t_min < t < best and -1.0 <= z <= 1.0 and m + n * z >= 0.0:
                best = t
    for end in range(2):
        if lids > 1.5 - end:
            continue
        t = ((1.0 if end else -1.0) - o[2]) / d[2]
        x, y = o[0] + t * d[0], o[1] + t * d[1]
        if t_min < t < best and x * x + y * y <= (top * top if end else 1.0):
            best = t
    return best if best < 1e29 else MISS


@compiled
def hit_puff(o: Vector, d: Vector, hard: bool, t_min: float) -> float:
    """Enter a superellipsoid of power 8 (hard) or 4.

    Newton's steps from outside never overshoot, as f is convex in t.
    """
    near, far = meet_slabs(o, d)
    if not near <= far or near <= t_min:
        return MISS
    t = near
    for _ in range(24):
        x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
        x2, y2, z2 = x * x, y * y, z * z
        if hard:
            x6, y6, z6 = x2 * x2 * x2, y2 * y2 * y2, z2 * z2 * z2
            f = x6 * x2 + y6 * y2 + z6 * z2 - 1.0
            g = 8.0 * (x6 * x * d[0] + y6 * y * d[1] + z6 * z * d[2])
        else:
            f = x2 * x2 + y2 * y2 + z2 * z2 - 1.0
            g = 4.0 * (x2 * x * d[0] + y2 * y * d[1] + z2 * z * d[2])
        if f < 1e-6:
            return t
        if g >= 0.0:
            return MISS
        t -= f / g
        if t > far:
            return MISS
    return MISS


@compiled
def hit_round_cone(o: Vector, d: Vector, shape: Shape, t_min: float) -> float:
    """Enter the hull of two balls (after Inigo Quilez's round cone intersector)."""
    h, k = shape
    inv = 1.0 / math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
    dx, dy, dz = d[0] * inv, d[1] * inv, d[2] * inv
    rr = 1.0 - k
    m0, m1, m2 = h * h, h * o[2], h * dz
    m3 = dx * o[0] + dy * o[1] + dz * o[2]
    m5 = o[0] * o[0] + o[1] * o[1] + o[2] * o[2]
    d2 = m0 - rr * rr
    k2 = d2 - m2 * m2
    k1 = d2 * m3 - m1 * m2 + m2 * rr
    k0 = d2 * m5 - m1 * m1 + m1 * rr * 2.0 - m0
    disc = k1 * k1 - k0 * k2
    if disc < 0.0:
        return MISS
    t = (-math.sqrt(disc) - k1) / k2
    if 0.0 < m1 - rr + t * m2 < d2:  # between the balls
        return t * inv if t * inv > t_min else MISS
    best = 1e30
    first = m3 * m3 - m5 + 1.0
    if first > 0.0:
        best = -m3 - math.sqrt(first)
    m6, m7 = m3 - h * dz, m5 - 2.0 * h * o[2] + h * h
    second = m6 * m6 - m7 + k * k
    if second > 0.0:
        best = min(best, -m6 - math.sqrt(second))
    if best > 1e29:
        return MISS
    return best * inv if best * inv > t_min else MISS


@inlined
def local_normal(fields: NDArray[np.float64], kind: int, at: Vector, shape: Shape) -> Vector:
    """Return the outward direction (not unit) at a local surface point."""
    x, y, z = at
    if kind == BOX:
        ax, ay, az = abs(x), abs(y), abs(z)
        if ax >= ay and ax >= az:
            return math.copysign(1.0, x), 0.0, 0.0
        return (0.0, math.copysign(1.0, y), 0.0) if ay >= az else (0.0, 0.0, math.copysign(1.0, z))
    if kind == BALL:
        return x, y, z
    if kind == FRUSTUM:
        n = 0.5 * (shape[0] - 1.0)
        r = 0.5 * (1.0 + shape[0]) + n * z
        if abs(z) > 0.9999 and x * x + y * y < r * r * 0.9995:
            return 0.0, 0.0, math.copysign(1.0, z)
        return x, y, -n * r
    if kind == ROUND_CONE:
        return round_cone_normal(at, shape)
    if kind == RELIEF:
        return relief_normal(fields, shape, x, y)
    if kind == PUFF8:
        return x**7, y**7, z**7
    return x * x * x, y * y * y, z * z * z


@compiled
def round_cone_normal(at: Vector, shape: Shape) -> Vector:
    """Return the outward direction on either ball or the cone between them."""
    x, y, z = at
    sine = (1.0 - shape[1]) / shape[0]
    if z <= sine:
        return x, y, z
    if z >= shape[0] + shape[1] * sine:
        return x, y, z - shape[0]
    radial = math.sqrt(max(0.0, 1.0 - sine * sine)) / (math.sqrt(x * x + y * y) + 1e-12)
    return x * radial, y * radial, sine
