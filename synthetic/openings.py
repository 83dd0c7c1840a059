"""Holes in walls and what fills them: windows with what is outside, doors, and things that hang on walls.

A wall stands on the plane y = 0 of the current frame, seen from -y.
"""

import math

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic import outdoor_materials as outdoor
from synthetic.builder import Builder, hsv
from synthetic.fields import FOLDS
from synthetic.furniture import FURNITURE
from synthetic.objects import clutter


def window(b: Builder, *, x: float, wide: float, low: float, high: float, trim: int) -> None:
    """Build window bars, curtains or a blind, and what is outside."""
    r = b.rng
    middle, tall = (low + high) / 2, (high - low) / 2
    for k in range(r.randint(1, 4)):
        b.box((x - wide + 2 * wide * k / 3, 0.06, middle), (0.025, 0.03, tall), trim)
    for z in (low, high, middle)[: r.randint(2, 3)]:
        b.box((x, 0.06, z), (wide, 0.035, 0.025), trim)
    far, outside = r.choice((0.08, 0.08, 0.08, 1.0, 4.0, 9.0)), outlook(b, far=0.0)
    if far < 0.1:  # frosted, curtained or overexposed
        glow = outlook(b, far=far)
        b.solid(0, (x, far, middle), (wide, 0.01, tall), m=glow, shadow=False)
    elif far < 9.0:
        b.solid(0, (x, far, middle), (wide * 3 + far * 2, 0.05, tall * 3 + far), m=outside, shadow=False)
    else:
        garden(b, x=x, outside=outside)
    dress = r.random()
    if dress < 0.45:
        curtains(b, x=x, wide=wide, low=low, high=high)
    elif dress < 0.6:
        slat = presets.plain_white(b)
        for k in range(int((high - low) * r.uniform(0.3, 1.0) / 0.07)):
            b.box((x, 0.0, high - 0.07 * k), (wide, 0.025, 0.003), slat, turn=(0, 0.5, 0))


def outlook(b: Builder, *, far: float) -> int:
    """Return the bright material behind a window: frosted glass when far is small but not 0, else a view."""
    r = b.rng
    bright = r.choice((0.6, 1.5, 3.0))
    if far > 0.0:
        return b.material(
            mat.PLAIN, hsv(r.gauss(0.12, 0.1), 0.1, 0.95), emission=bright, mottle=r.choice((0.0, 0.3))
        )
    pick = r.random()
    if pick < 0.25:
        return b.material(mat.PLAIN, hsv(0.57, 0.1, 0.95), emission=bright)
    if pick < 0.5:
        return b.material(mat.FOLIAGE, hsv(0.28, 0.5, 0.5), hsv(0.25, 0.5, 0.8), scale=1.5, emission=bright)
    if pick < 0.75:
        glass, frame = hsv(0.6, 0.2, 0.4), hsv(0, 0, 0.9)
        return b.material(mat.FACADE, hsv(0.05, 0.3, 0.7), glass, frame, scale=0.4, emission=bright)
    clay, joint = hsv(0.03, 0.5, 0.6), hsv(0, 0, 0.8)
    return b.material(mat.TILES, hsv(0.03, 0.5, 0.7), clay, joint, scale=8, aspect=3, emission=bright)


def curtains(b: Builder, *, x: float, wide: float, low: float, high: float) -> None:
    """Hang folded curtains on both sides, and their rail."""
    r = b.rng
    drape = presets.cloth(b, vivid=0.2)
    for edge in (-1, 1):
        half = (r.uniform(0.15, 0.35), (high - 0.2 * low) / 2, 0.05)
        place = (x + edge * wide, -0.07, high + 0.1 - half[1])
        upright = (0.0, math.pi / 2, 0.0)
        b.relief(place, half, drape, fields=FOLDS[1:], span=0.7, turn=upright, shadow=False)
    rail = presets.metal(b)
    b.rod((x - wide - 0.3, -0.07, high + 0.12), (x + wide + 0.3, -0.07, high + 0.12), 0.015, rail)


def opening(
    b: Builder, *, half: float, h: float, x: float, wide: float, low: float, high: float, skin: int
) -> None:
    """Build the wall around a rectangular hole."""
    left, right = x - wide, x + wide
    b.box(((left - half - 0.2) / 2, 0.1, h / 2), ((left + half + 0.2) / 2, 0.1, h / 2), skin)
    b.box(((right + half + 0.2) / 2, 0.1, h / 2), ((half + 0.2 - right) / 2, 0.1, h / 2), skin)
    b.box((x, 0.1, (h + high) / 2), (wide, 0.1, (h - high) / 2), skin)
    if low > 0.01:
        b.box((x, 0.1, low / 2), (wide, 0.1, low / 2), skin)


def garden(b: Builder, *, x: float, outside: int) -> None:
    """Put ground, bushes and walls behind a window, under the sky."""
    r = b.rng
    b.solid(0, (x, 20.0, -0.6), (30.0, 19.5, 0.05), m=outdoor.leaves(b), shadow=False)
    for _ in range(r.randint(2, 6)):
        at = (x + r.uniform(-6, 6), r.uniform(4, 12), r.uniform(0, 2))
        if r.random() < 0.6:
            b.solid(
                1, at, (1.6, 1.6, r.uniform(1, 3)), m=outdoor.leaves(b), holes=0.3, hole=0.15, shadow=False
            )
        else:
            b.solid(0, at, (2.0, 2.0, 3.0), m=outside, shadow=False)


def door(b: Builder, *, x: float, wide: float, high: float, trim: int) -> None:
    """Build a door: shut, ajar, or open to another room."""
    r = b.rng
    for edge in (-1, 1):
        b.box((x + edge * wide, 0.08, high / 2), (0.05, 0.12, high / 2), trim)
    b.box((x, 0.08, high), (wide, 0.12, 0.05), trim)
    leaf = r.choice((presets.wood, presets.plain_white))(b)
    swing = r.choice((0.0, 0.0, r.uniform(0.2, 2.2)))
    with b.at((x - wide, 0.05, 0), -swing):
        b.box((wide, 0, high / 2), (wide, 0.02, high / 2), leaf)
        b.limb((2 * wide - 0.08, -0.05, 1.0), (2 * wide - 0.18, -0.05, 1.0), 0.012, presets.metal(b))
        for k in range(r.choice((0, 2, 3))):
            b.box((wide, 0, high * (0.2 + 0.3 * k)), (wide * 0.7, 0.028, 0.2), leaf)
    if swing > 0:
        deep = r.uniform(1.0, 4.0)
        b.box((x, deep + 0.2, 1.5), (3, 0.05, 1.6), presets.wall(b))
        b.box((x, deep / 2, -0.05), (3, deep / 2 + 0.3, 0.05), presets.floor(b))
        b.box(
            (x + r.choice((-1, 1)) * r.uniform(0.8, 1.6), deep / 2 + 0.2, 1.5),
            (0.05, deep / 2, 1.6),
            presets.wall(b),
        )
        b.box((x, deep / 2 + 0.2, 2.9), (3, deep / 2, 0.05), presets.plain_white(b))
        with b.at((x + r.uniform(-0.5, 0.5), deep * 0.7, 0), r.uniform(-0.5, 0.5)):
            r.choice(FURNITURE)(b)


def hang(b: Builder, *, x: float, z: float) -> None:
    """Hang a framed picture, mirror, clock or small shelf on the wall."""
    r = b.rng
    w, h = r.uniform(0.12, 0.6), r.uniform(0.12, 0.5)
    if r.random() < 0.15:
        b.box((x, -0.1, z), (w, 0.1, 0.015), presets.wood(b))
        with b.at((x, -0.1, z + 0.015)):
            clutter(b, x=w, y=0.05, z=0, count=r.randint(1, 5))
        return
    frame = r.choice((presets.wood, presets.metal, presets.plain_dark, presets.plain_white))(b)
    t = r.uniform(0.01, 0.04)
    b.box((x, -0.015, z), (w + t, 0.015, h + t), frame)
    if r.random() < 0.5:
        b.box((x, -0.031, z), (w, 0.002, h), presets.plain_white(b))
        w, h = w * 0.75, h * 0.75
    b.box((x, -0.034, z), (w, 0.002, h), presets.artwork(b, size=w))
