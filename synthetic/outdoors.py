"""Things that stand in streets: cars, buildings, poles, signs, fences; and daylight."""

import math

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic import outdoor_materials as outdoor
from synthetic.builder import Builder, hsv


def facade_material(b: Builder) -> int:
    """Return a wall with painted-on windows, for far buildings."""
    r = b.rng
    c = presets.calm_color(b, low=0.3)
    return b.material(
        mat.FACADE,
        c,
        hsv(0.6, r.uniform(0.05, 0.4), r.uniform(0.1, 0.6)),
        presets.calm_color(b),
        scale=r.uniform(0.28, 0.4),
        aspect=r.uniform(0.5, 1.4),
        contrast=r.uniform(0.6, 1.25),
        specular=0.1,
        mottle=0.3,
    )


def building(b: Builder, *, wide: float, deep: float, near: bool = False) -> None:
    """Build a house or block whose front is on y = 0, seen from -y; near: with real windows and doors."""
    r = b.rng
    floors = r.choice((1, 2, 2, 3, 4, 6, 12))
    h = floors * r.uniform(2.8, 3.5)
    skin = facade_material(b) if not near else r.choice((presets.brick, outdoor.stone, facade_material))(b)
    if r.random() < 0.1:
        skin = b.material(
            mat.TILES, hsv(0.58, 0.3, 0.35), hsv(0.58, 0.2, 0.55), hsv(0, 0, 0.5), scale=0.5, mirror=0.5
        )
    b.box((0, deep / 2, h / 2), (wide / 2, deep / 2, h / 2), skin)
    roof(b, wide=wide, deep=deep, h=h, floors=floors)
    if near:
        front(b, wide=wide, h=h, floors=floors)
    if r.random() < 0.3:
        b.box((0, -0.15, h * r.uniform(0.3, 0.95)), (wide / 2, 0.2, 0.12), outdoor.stone(b))
    if r.random() < 0.2:
        b.box((0, -0.6, 3.1), (wide * 0.45, 0.6, 0.05), presets.cloth(b), turn=(0, 0.15, 0))


def roof(b: Builder, *, wide: float, deep: float, h: float, floors: int) -> None:
    """Build a pitched or flat roof."""
    r = b.rng
    if floors > 4 or r.random() < 0.35:
        b.box((0, deep / 2, h + 0.2), (wide / 2 + 0.15, deep / 2 + 0.15, 0.2), outdoor.stone(b))
        b.box((r.uniform(-0.3, 0.3) * wide, deep * 0.5, h + 1), (1.2, 1.2, 1.2), outdoor.stone(b))
        return
    skin = b.material(
        mat.TILES, hsv(r.gauss(0.03, 0.02), r.uniform(0.1, 0.7), r.uniform(0.2, 0.6)), scale=3, aspect=1.0
    )
    rise, slope = deep * 0.35, math.atan2(0.35, 0.5)
    half = deep / 2 / math.cos(slope) + 0.3
    b.box((0, deep * 0.25, h + rise / 2), (wide / 2 + 0.3, half / 2, 0.08), skin, turn=(0, slope, 0))
    b.box((0, deep * 0.75, h + rise / 2), (wide / 2 + 0.3, half / 2, 0.08), skin, turn=(0, -slope, 0))
    b.box((r.uniform(-0.3, 0.3) * wide, deep * 0.4, h + rise), (0.3, 0.3, 0.9), presets.brick(b))


def front(b: Builder, *, wide: float, h: float, floors: int) -> None:
    """Build windows, doors and balconies on a near front."""
    r = b.rng
    glass = b.material(
        mat.PLAIN, hsv(0.6, 0.2, r.uniform(0.1, 0.4)), specular=1, gloss=100, mirror=0.6, mottle=0.3
    )
    trim, dark = presets.plain_white(b), presets.wood(b)
    columns = max(1, int(wide / r.uniform(1.8, 3.5)))
    half = (r.uniform(0.35, 0.8), r.uniform(0.5, 0.85))
    balcony = r.random() < 0.25
    for i in range(columns):
        x = (i + 0.5) / columns * wide - wide / 2
        for k in range(min(floors, 4)):
            z = (k + 0.5) * h / floors
            if k == 0 and r.random() < 0.3:
                b.box((x, -0.03, 1.1), (0.55, 0.05, 1.1), dark)
                continue
            b.box((x, 0, z), (half[0] + 0.08, 0.06, half[1] + 0.08), trim)
            b.box((x, -0.04, z), (half[0], 0.03, half[1]), glass)
            b.box((x, -0.08, z), (0.03, 0.02, half[1]), trim)
            if balcony and k > 0:
                b.box((x, -0.5, z - half[1] - 0.15), (half[0] + 0.3, 0.5, 0.06), trim)
                b.box((x, -1.0, z - half[1] + 0.3), (half[0] + 0.3, 0.02, 0.45), trim)


def pole(b: Builder) -> None:
    """Build a street lamp, traffic light or sign."""
    r = b.rng
    skin, h, pick = presets.metal(b), r.uniform(2.2, 8.0), r.random()
    b.rod((0, 0, 0), (0, 0, h), r.uniform(0.03, 0.1), skin)
    if pick < 0.35:
        reach = r.uniform(0.6, 2.0)
        b.limb((0, 0, h), (-reach, 0, h + 0.4), 0.05, skin)
        b.puff((-reach - 0.2, 0, h + 0.4), (0.35, 0.12, 0.08), skin)
    elif pick < 0.75:
        sign = presets.artwork(b, size=0.8) if r.random() < 0.5 else presets.gloss(b, vivid=1.0)
        z = min(h, 2.6)
        if r.random() < 0.5:
            b.rod((0, -0.08, z), (0, -0.05, z), r.uniform(0.25, 0.4), sign)
        else:
            b.box((0, -0.08, z), (r.uniform(0.2, 0.9), 0.01, r.uniform(0.2, 0.5)), sign)
    else:
        b.box((0, -0.15, min(h, 3)), (0.14, 0.12, 0.42), presets.plain_dark(b))
        for k in range(3):
            lit = b.material(mat.PLAIN, hsv((0.35, 0.13, 0.0)[k], 0.9, 0.9), emission=r.choice((0, 0, 4)))
            b.rod((0, -0.28, min(h, 3) - 0.25 + 0.25 * k), (0, -0.25, min(h, 3) - 0.25 + 0.25 * k), 0.09, lit)


def fence(b: Builder, *, length: float) -> None:
    """Build a fence or wall along x."""
    r = b.rng
    h, pick = r.uniform(0.6, 2.0), r.random()
    if pick < 0.4:
        b.box((0, 0, h / 2), (length / 2, 0.12, h / 2), r.choice((presets.brick, outdoor.stone))(b))
        b.box((0, 0, h), (length / 2, 0.17, 0.05), outdoor.stone(b))
        return
    skin = r.choice((presets.wood, presets.metal, presets.plain_white))(b)
    step = r.choice((0.15, 0.3, 1.5))
    count = min(50, int(length / step))
    for k in range(count):
        b.box(
            ((k + 0.5) / count * length - length / 2, 0, h / 2),
            (0.03 if step < 1 else 0.05, 0.02, h / 2),
            skin,
        )
    for z in (0.25, 0.55, 0.9):
        b.box((0, 0.02, h * z), (length / 2, 0.02, 0.04), skin)


def bench(b: Builder) -> None:
    """Build a park bench."""
    skin, feet = presets.wood(b), presets.metal(b)
    for k in range(4):
        b.box((0, -0.2 + 0.12 * k, 0.45), (0.8, 0.05, 0.02), skin)
        b.box((0, 0.24 + 0.02 * k, 0.52 + 0.11 * k), (0.8, 0.015, 0.045), skin)
    for x in (-0.65, 0.65):
        b.box((x, 0, 0.22), (0.03, 0.22, 0.22), feet)
