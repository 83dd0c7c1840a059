"""What is painted on surfaces: weights of a material's three colors and a brightness, at a place.

Every pattern gives (weight of color 2, weight of color 3, brightness). Lengths are meters along the surface.
"""

import math
from typing import NamedTuple

from synthetic.compiled import compiled, inlined
from synthetic.fields import Vector
from synthetic.noise import fbm2, hash2, noise2, noise3


class Pattern(NamedTuple):
    """How a material is patterned: features per meter, strength, width over height, and a seed."""

    scale: float
    contrast: float
    aspect: float
    seed: int


@inlined
def fine(foot: float, frequency: float) -> float:
    """Return how much of a pattern a pixel `foot` meters wide still resolves, 1 to 0."""
    return min(1.0, max(0.0, 1.5 - 1.5 * foot * frequency))


@compiled
def wood(m: Pattern, u: float, v: float, foot: float) -> Vector:
    """Grain along u; with contrast, boards of different tint and the gaps between them."""
    board = math.floor(v * m.scale * m.aspect)
    along = u + 3.0 * hash2(int(board), 3, m.seed)
    tint = hash2(int(board), math.floor(along * m.scale * 0.25), m.seed + 1)
    grain = 0.5 + (fbm2(along * 3.0, v * 60.0 + 7.0 * tint, 2, m.seed) - 0.5) * fine(foot, 40.0)
    gap = 0.45 if v * m.scale * m.aspect - board < 0.03 and m.contrast > 0.0 else 1.0
    return grain, 0.0, (0.75 + 0.5 * tint * m.contrast + 0.25 * (1.0 - m.contrast)) * gap


@compiled
def tiles(m: Pattern, u: float, v: float, foot: float) -> Vector:
    """Tiles of mixed tint with joints; wide ones are laid like bricks."""
    a, b = u * m.scale / m.aspect, v * m.scale
    row = math.floor(b)
    if m.aspect > 1.2 and int(row) & 1:
        a += 0.5
    col = math.floor(a)
    inside = min(min(a - col, 1.0 - (a - col)) * m.aspect, min(b - row, 1.0 - (b - row)))
    if inside < 0.03 + 0.05 * m.contrast:
        return 0.0, 1.0, 0.9
    speck = (noise2(u * m.scale * 3.0, b * 3.0, m.seed) - 0.5) * fine(foot, m.scale * 3.0)
    return hash2(int(col), int(row), m.seed), 0.0, 1.0 + 0.3 * speck


@compiled
def stripes(m: Pattern, u: float) -> Vector:
    """Stripes across u, some with a thin third color."""
    w = u * m.scale
    f = w - math.floor(w)
    thin = 1.0 if hash2(math.floor(w), 1, m.seed) < 0.3 and f > 0.75 else 0.0
    return (1.0 if f < 0.5 * m.aspect else 0.0), thin, 1.0


@compiled
def fabric(m: Pattern, u: float, v: float, foot: float) -> Vector:
    """Clouds of tint under a fine weave."""
    weave = (noise2(u * 300.0, v * 300.0, m.seed) - 0.5) * fine(foot, 200.0)
    return fbm2(u * m.scale, v * m.scale, 3, m.seed), 0.0, 1.0 + 0.3 * weave


@compiled
def marble(m: Pattern, u: float, v: float) -> Vector:
    """Veins, warped."""
    warp = fbm2(u * m.scale, v * m.scale, 4, m.seed)
    return 1.0 - abs(math.sin(3.0 * (u * m.scale + 4.0 * warp))) ** 0.4, 0.0, 0.9 + 0.2 * warp


@compiled
def foliage(m: Pattern, at: Vector, foot: float) -> Vector:
    """Leaves or grass: light specks over dark, in patches."""
    s = m.scale * 4.0
    leaf = 0.5 + (noise3(at[0] * s, at[1] * s, at[2] * s, m.seed) - 0.5) * fine(foot, m.scale * 3.0)
    rough = noise3(at[0] * m.scale, at[1] * m.scale, at[2] * m.scale, m.seed + 5)
    return leaf * leaf, max(0.0, 2.0 * (rough - 0.6)), 0.35 + 0.9 * leaf


@compiled
def dots(m: Pattern, u: float, v: float) -> Vector:
    """Small five-leaved flowers on a grid."""
    a, b = u * m.scale, v * m.scale
    da, db = a - math.floor(a) - 0.5, b - math.floor(b) - 0.5
    ring = math.sqrt(da * da + db * db) + 0.12 * math.sin(5.0 * math.atan2(db, da))
    if ring < 0.12:
        return 0.0, 1.0, 1.0
    return (1.0 if ring < 0.35 * m.aspect else 0.0), 0.0, 1.0


@compiled
def ornate(m: Pattern, u: float, v: float) -> Vector:
    """Interlaced curves, as on carpets and wallpaper."""
    a, b = u * m.scale, v * m.scale
    first = math.sin(a * 6.28) * math.cos(b * 4.2) + math.sin((a + b) * 3.1 + 2.0 * math.sin(b * 5.0))
    second = math.sin(a * 13.0 + 3.0 * first) * math.sin(b * 11.0)
    return (1.0 if first > 0.25 else 0.0), (1.0 if second > 0.45 else 0.0), 1.0


@compiled
def coat(m: Pattern, at: Vector, foot: float) -> Vector:
    """Fur with spots or stripes."""
    s = m.scale
    warp = noise3(at[0] * s * 0.6, at[1] * s * 0.6, at[2] * s * 0.6, m.seed)
    band = noise3(at[0] * s * m.aspect + 2.0 * warp, at[1] * s + 2.0 * warp, at[2] * s, m.seed + 2)
    fur = (noise3(at[0] * 150.0, at[1] * 150.0, at[2] * 150.0, m.seed + 3) - 0.5) * fine(foot, 120.0)
    edge = min(1.0, max(0.0, (band - 0.5) * 8.0 + 0.5))
    return edge * m.contrast, max(0.0, min(1.0, (0.35 - warp) * 4.0)), 1.0 + 0.5 * fur


@compiled
def asphalt(m: Pattern, u: float, v: float, foot: float) -> Vector:
    """Grit, patches and cracks."""
    grit = (noise2(u * 60.0, v * 60.0, m.seed) - 0.5) * fine(foot, 50.0)
    patch = fbm2(u * m.scale, v * m.scale, 3, m.seed + 4)
    crack = abs(noise2(u * m.scale * 1.5 + patch, v * m.scale * 1.5, m.seed + 9) - 0.5)
    return patch, 0.0, (1.0 + 0.6 * grit) * (0.6 if crack < 0.01 * m.contrast else 1.0)


@compiled
def print_(m: Pattern, u: float, v: float) -> Vector:
    """Lines of words and blocks of color."""
    line = v * m.scale
    row = math.floor(line)
    ink = 1.0 if line - row < 0.55 and noise2(u * m.scale * 2.2, row * 7.1, m.seed) > 0.42 else 0.0
    block = 1.0 if noise2(u * m.scale * 0.15, line * 0.15, m.seed + 1) > 0.62 else 0.0
    return ink * (1.0 - block), block, 1.0


@compiled
def facade(m: Pattern, u: float, v: float) -> Vector:
    """A grid of windows with frames."""
    a, b = u * m.scale / m.aspect, v * m.scale
    ia, ib = math.floor(a), math.floor(b)
    da, db = a - ia - 0.5, b - ib
    if abs(da) < 0.36 * m.contrast and 0.22 < db < 0.22 + 0.55 * m.contrast:
        if abs(da) < 0.02 or abs(db - 0.5) < 0.015:
            return 0.0, 1.0, 1.0
        lit = hash2(int(ia), int(ib), m.seed)
        return 1.0, 0.0, 0.3 + 1.1 * lit * (0.5 + noise2(a * 3.0, b * 3.0, m.seed))
    return 0.0, 0.0, 0.85 + 0.3 * noise2(u * 8.0, v * 8.0, m.seed)
