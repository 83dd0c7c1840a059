"""Columns, arches, stairs, towers and domes, each at the origin of the current frame, facing -y, on z = 0."""

import math
from collections.abc import Callable

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic import outdoor_materials as outdoor
from synthetic.builder import Builder, hsv


def column(b: Builder, *, h: float, w: float, skin: int) -> None:
    """Build a column with base and capital."""
    b.box((0, 0, h * 0.02), (w * 1.4, w * 1.4, h * 0.02), skin)
    b.rod((0, 0, h * 0.04), (0, 0, h * 0.92), w, skin, tip=w * 0.85)
    b.rod((0, 0, h * 0.92), (0, 0, h * 0.97), w * 0.85, skin, tip=w * 1.3)
    b.box((0, 0, h * 0.985), (w * 1.4, w * 1.4, h * 0.015), skin)


def arch(b: Builder, *, wide: float, h: float, deep: float, skin: int) -> None:
    """Build two piers and the round arch between them, of wedge stones."""
    pier = wide * 0.16
    spring = h - wide * 0.5
    for x in (-1, 1):
        b.box((x * (wide / 2 + pier), 0, spring / 2), (pier, deep / 2, spring / 2), skin)
    n = 9
    for k in range(n):
        a = math.pi * (k + 0.5) / n
        radius = wide / 2 + pier
        place = (radius * math.cos(a), 0, spring + radius * math.sin(a))
        b.box(place, (pier, deep / 2, radius * math.pi / n / 2 * 1.12), skin, turn=(0, 0, -a))


def rotunda(b: Builder) -> None:
    """Build a ring of arcades in storeys, whole or broken, like an old arena."""
    r = b.rng
    skin, radius, storeys = outdoor.stone(b), r.uniform(6, 18), r.randint(1, 4)
    n = r.randint(9, 15)
    gone = r.uniform(0, 6.283)
    for s in range(storeys):
        for k in range(n):
            a = k / n * 2 * math.pi
            if s > 0 and math.cos(a - gone) > 1.2 - 0.25 * s:
                continue
            with b.at((radius * math.cos(a), radius * math.sin(a), s * 4.4), a + math.pi / 2):
                arch(b, wide=radius * 4.2 / n, h=4.2, deep=1.2, skin=skin)
                b.box((0, 0, 4.3), (radius * math.pi / n, 0.7, 0.2), skin)
    b.rod((0, 0, 0), (0, 0, storeys * 4.0), radius * 0.85, skin)


def temple(b: Builder) -> None:
    """Build a hall of columns on steps with a gable or a pagoda roof."""
    r = b.rng
    skin, n, h = outdoor.stone(b), r.randint(4, 8), r.uniform(3, 7)
    wide, deep = n * h * 0.28, r.uniform(0.6, 1.6) * h
    stairs(b, wide=wide * 1.2, count=5, skin=skin)
    with b.at((0, 1.8, 0.75)):
        for k in range(n):
            for y in (0.0, deep):
                with b.at(((k + 0.5) / n * wide - wide / 2, y, 0)):
                    column(b, h=h, w=h * 0.055, skin=skin)
        b.box((0, deep / 2, -0.38), (wide * 0.6, deep * 0.7 + 0.3, 0.38), skin)
        b.box((0, deep * 0.55, h / 2), (wide * 0.4, deep * 0.35, h / 2), outdoor.stone(b))
        b.box((0, deep / 2, h + 0.25), (wide * 0.55, deep * 0.65, 0.25), skin)
        roof = b.material(mat.TILES, hsv(r.gauss(0.04, 0.03), 0.6, r.uniform(0.3, 0.6)), scale=3)
        if r.random() < 0.5:
            for k in range(r.randint(1, 3)):
                s = 1.0 - 0.25 * k
                b.solid(
                    2, (0, deep / 2, h + 0.8 + 1.6 * k), (wide * 0.8 * s, deep * 1.0 * s, 0.5), m=roof, a=0.4
                )
                b.box((0, deep / 2, h + 1.6 + 1.6 * k), (wide * 0.3 * s, deep * 0.35 * s, 0.5), skin)
        else:
            for x in (-1, 1):
                b.box(
                    (x * wide * 0.27, deep / 2, h + 0.5 + wide * 0.08),
                    (wide * 0.3, deep * 0.68, 0.12),
                    roof,
                    turn=(0, 0, x * 0.3),
                )


def stairs(b: Builder, *, wide: float, count: int, skin: int) -> None:
    """Build steps rising towards +y."""
    for k in range(count):
        b.box(
            (0, 0.3 * k + 4.0, 0.075 * (2 * k + 1) / 2), (wide / 2, 4.0, 0.075 * (2 * k + 1) / 2 + 0.04), skin
        )


def tower(b: Builder) -> None:
    """Build a tower with a dome, a spire or battlements."""
    r = b.rng
    skin, w, h = r.choice((outdoor.stone, presets.brick))(b), r.uniform(1.5, 4), r.uniform(9, 30)
    roof, pick = presets.metal(b), r.random()
    if pick < 0.5:
        b.rod((0, 0, 0), (0, 0, h), w, skin, tip=w * r.uniform(0.8, 1.0))
    else:
        b.box((0, 0, h / 2), (w, w, h / 2), skin)
    dark = presets.plain_dark(b)
    for k in range(int(h / 3)):
        b.box((0, -w, 2 + 3 * k), (0.35, 0.1, 0.7), dark)
        b.box((0, 0, 3 * k), (w * 1.04, w * 1.04, 0.12), skin)
    if pick < 0.3:
        b.ball((0, 0, h), (w * 1.05, w * 1.05, w * 1.2), roof)
    elif pick < 0.8:
        b.rod((0, 0, h), (0, 0, h + w * 3), w * 1.15, roof, tip=0.05)
    else:
        for k in range(12):
            a = k * 0.5236
            b.box((w * 1.1 * math.cos(a), w * 1.1 * math.sin(a), h + 0.4), (0.3, 0.3, 0.5), skin)


def playground(b: Builder) -> None:
    """Build a slide, tubes and frames of colored plastic and pipe."""
    r = b.rng
    tubes = [presets.gloss(b, vivid=1.0) for _ in range(3)]
    h, reach = r.uniform(1.2, 2.2), r.uniform(1.8, 3.0)
    for k in range(6):  # a half-open chute, in pieces
        s, e = k / 6, (k + 1) / 6
        z0, z1 = h * (1 - s) ** 1.4 + 0.2, h * (1 - e) ** 1.4 + 0.2
        b.rod((0, -reach * s, z0), (0, -reach * e - 0.03, z1), 0.3, tubes[0], open_ends=2)
    for x in (-0.5, 0.5):
        for y in (0.2, 1.2):
            b.rod((x, y, 0), (x, y, h + 1.3), 0.05, tubes[1])
    b.box((0, 0.7, h), (0.55, 0.55, 0.05), tubes[2])
    b.rod((0, 0.7, h + 1.3), (0, 0.7, h + 2.1), 0.9, tubes[1], tip=0.02)
    for k in range(5):
        b.rod((-0.4, 1.6 - 0.08 * k, 0.1 + h * k / 5), (0.4, 1.6 - 0.08 * k, 0.1 + h * k / 5), 0.03, tubes[2])


MONUMENTS: tuple[Callable[[Builder], None], ...] = (rotunda, temple, tower, playground)
