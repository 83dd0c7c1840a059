"""What surfaces look like: one row of numbers per material, and the color it gives at a place.

Colors are linear, 0..1. Lengths are meters along the surface.
"""

import math

import numpy as np
from numpy.typing import NDArray

from synthetic import patterns
from synthetic.compiled import compiled, inlined
from synthetic.fields import Vector
from synthetic.noise import hash2, noise3

(
    PLAIN,
    WOOD,
    TILES,
    CHECKER,
    STRIPES,
    FABRIC,
    MARBLE,
    FOLIAGE,
    PICTURE,
    FACADE,
    DOTS,
    ORNATE,
    COAT,
    ASPHALT,
    PRINT,
) = range(15)

# The material row: pattern, three colors, features per meter, strength, highlight and its gloss, bumpiness,
# number of the picture, glow, how mirror-like, angle of the pattern, blotches, width over height of the
# pattern, seed.
M_KIND, M_COLOR1, M_COLOR2, M_COLOR3 = 0, 1, 4, 7
M_SCALE, M_CONTRAST, M_SPECULAR, M_GLOSS, M_BUMP, M_PICTURE = 10, 11, 12, 13, 14, 15
M_EMISSION, M_MIRROR, M_ANGLE, M_MOTTLE, M_ASPECT, M_SEED, M_WIDTH = 16, 17, 18, 19, 20, 21, 22


@inlined
def surface_color(
    materials: NDArray[np.float64],
    q: int,
    pictures: NDArray[np.float32],
    uv: tuple[float, float],
    at: Vector,
    foot: float,
) -> Vector:
    """Return the linear color of material q at surface place uv, solid place `at`.

    What a pixel `foot` meters wide cannot resolve fades.
    """
    u, v = uv
    if materials[q, M_ANGLE] != 0.0:
        c, n = math.cos(materials[q, M_ANGLE]), math.sin(materials[q, M_ANGLE])
        u, v = c * u - n * v, n * u + c * v
    if int(materials[q, M_KIND]) == PICTURE:
        r, g, b = picture_color(materials, q, pictures, u, v)
    else:
        r, g, b = pattern_color(materials, q, (u, v), at, foot)
    if materials[q, M_MOTTLE] > 0.0:
        x, y, z = at
        seed = int(materials[q, M_SEED])
        dirt = noise3(x * 2.3, y * 2.3, z * 2.3, seed) + 0.5 * noise3(x * 9.1, y * 9.1, z * 9.1, seed) - 0.75
        dirt = 1.0 + materials[q, M_MOTTLE] * dirt
        r, g, b = r * dirt, g * dirt, b * dirt
    return max(r, 0.0), max(g, 0.0), max(b, 0.0)


@inlined
def pattern_color(
    materials: NDArray[np.float64], q: int, uv: tuple[float, float], at: Vector, foot: float
) -> Vector:
    """Return a patterned material's three colors mixed; what a pixel cannot resolve fades to their mean."""
    w2, w3, shade = weights(materials, q, uv, at, foot)
    keep = 1.0
    if int(materials[q, M_KIND]) not in (PLAIN, COAT):
        keep = patterns.fine(foot, materials[q, M_SCALE] * 0.8)
        w2, w3 = 0.4 + (w2 - 0.4) * keep, 0.08 + (w3 - 0.08) * keep
    w1 = max(0.0, 1.0 - w2 - w3)
    shade = 1.0 + (shade - 1.0) * keep
    return (
        (materials[q, 1] * w1 + materials[q, 4] * w2 + materials[q, 7] * w3) * shade,
        (materials[q, 2] * w1 + materials[q, 5] * w2 + materials[q, 8] * w3) * shade,
        (materials[q, 3] * w1 + materials[q, 6] * w2 + materials[q, 9] * w3) * shade,
    )


@inlined
def weights(
    materials: NDArray[np.float64], q: int, uv: tuple[float, float], at: Vector, foot: float
) -> Vector:
    """Return (weight of color 2, weight of color 3, brightness) from the material's pattern."""
    kind = int(materials[q, M_KIND])
    if kind == PLAIN:
        return 0.0, 0.0, 1.0
    u, v = uv
    m = patterns.Pattern(
        materials[q, M_SCALE], materials[q, M_CONTRAST], materials[q, M_ASPECT], int(materials[q, M_SEED])
    )
    if kind == WOOD:
        return patterns.wood(m, u, v, foot)
    if kind == TILES:
        return patterns.tiles(m, u, v, foot)
    if kind == CHECKER:
        return float((math.floor(u * m.scale) + math.floor(v * m.scale)) & 1), 0.0, 1.0
    if kind == STRIPES:
        return patterns.stripes(m, u)
    if kind == FABRIC:
        return patterns.fabric(m, u, v, foot)
    if kind == MARBLE:
        return patterns.marble(m, u, v)
    if kind == FOLIAGE:
        return patterns.foliage(m, at, foot)
    if kind == DOTS:
        return patterns.dots(m, u, v)
    if kind == ORNATE:
        return patterns.ornate(m, u, v)
    if kind == COAT:
        return patterns.coat(m, at, foot)
    if kind == ASPHALT:
        return patterns.asphalt(m, u, v, foot)
    if kind == PRINT:
        return patterns.print_(m, u, v)
    return patterns.facade(m, u, v)


@compiled
def picture_color(
    materials: NDArray[np.float64], q: int, pictures: NDArray[np.float32], u: float, v: float
) -> Vector:
    """Return the color of a tiled picture, tinted by color 1 as far as the contrast says."""
    x = (
        u * materials[q, M_SCALE] / materials[q, M_ASPECT] * 256.0
        + hash2(1, 2, int(materials[q, M_SEED])) * 256.0
    )
    y = -v * materials[q, M_SCALE] * 256.0
    fx, fy = math.floor(x), math.floor(y)
    wx, wy = x - fx, y - fy
    k = int(materials[q, M_PICTURE])
    j0, j1, i0, i1 = int(fx) & 255, (int(fx) + 1) & 255, int(fy) & 255, (int(fy) + 1) & 255
    a, b, c, d = (1.0 - wx) * (1.0 - wy), wx * (1.0 - wy), (1.0 - wx) * wy, wx * wy
    plain = 1.0 - materials[q, M_CONTRAST]
    r = (
        pictures[k, i0, j0, 0] * a
        + pictures[k, i0, j1, 0] * b
        + pictures[k, i1, j0, 0] * c
        + pictures[k, i1, j1, 0] * d
    )
    g = (
        pictures[k, i0, j0, 1] * a
        + pictures[k, i0, j1, 1] * b
        + pictures[k, i1, j0, 1] * c
        + pictures[k, i1, j1, 1] * d
    )
    bl = (
        pictures[k, i0, j0, 2] * a
        + pictures[k, i0, j1, 2] * b
        + pictures[k, i1, j0, 2] * c
        + pictures[k, i1, j1, 2] * d
    )
    return (
        r * (materials[q, M_COLOR1] * materials[q, M_CONTRAST] + plain),
        g * (materials[q, M_COLOR1 + 1] * materials[q, M_CONTRAST] + plain),
        bl * (materials[q, M_COLOR1 + 2] * materials[q, M_CONTRAST] + plain),
    )
