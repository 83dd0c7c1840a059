"""Arrangements along a wall that make a kitchen, an office, a bathroom or a cellar.

Each is built at the origin of the current frame, facing -y, its back on y = 0, on z = 0, `half` meters to
each side.
"""

import math
from collections.abc import Callable

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic import outdoor_materials as outdoor
from synthetic.builder import Builder, hsv
from synthetic.furniture import books, chair
from synthetic.objects import clutter


def kitchen(b: Builder, half: float) -> None:
    """Build base units with a worktop, wall units, a sink, an oven, a fridge and a hood."""
    r = b.rng
    front = r.choice((presets.wood, presets.plain_white, presets.gloss))(b)
    steel, dark = presets.metal(b), presets.plain_dark(b)
    b.box((0, -0.3, 0.44), (half, 0.3, 0.44), front)
    b.box((0, -0.31, 0.9), (half, 0.33, 0.02), r.choice((outdoor.stone, presets.wood))(b))
    b.box((0, -0.01, 1.15), (half, 0.01, 0.25), presets.wall(b))
    units = max(2, int(half / 0.3))
    high = r.random() < 0.8
    for k in range(units):
        with b.at(((k + 0.5) / units * 2 * half - half, 0, 0)):
            unit(b, w=half / units - 0.006, high=high, front=front, steel=steel, dark=dark)
    if r.random() < 0.6:
        x = r.uniform(-0.7, 0.7) * half
        b.box((x, -0.32, 0.925), (0.25, 0.2, 0.004), dark)
        b.limb((x, -0.1, 0.92), (x, -0.1, 1.15), 0.012, steel)
        b.limb((x, -0.1, 1.15), (x, -0.28, 1.13), 0.012, steel)
    if r.random() < 0.6:
        x = r.choice((-1, 1)) * (half + 0.35)
        b.puff(
            (x, -0.33, 0.92), (0.31, 0.33, 0.92), r.choice((presets.plain_white, presets.metal))(b), hard=True
        )
        b.limb((x - 0.25, -0.69, 1.0), (x - 0.25, -0.69, 1.5), 0.012, steel)
    with b.at((0, -0.32, 0.92)):
        clutter(b, x=half, y=0.2, z=0, count=r.randint(3, 10))


def unit(b: Builder, *, w: float, high: bool, front: int, steel: int, dark: int) -> None:
    """Build one kitchen unit of half width w: an oven, doors or drawers, and what hangs above."""
    r = b.rng
    if r.random() < 0.15:
        b.box((0, -0.61, 0.45), (w, 0.01, 0.36), dark)
        b.limb((-w * 0.8, -0.65, 0.78), (w * 0.8, -0.65, 0.78), 0.012, steel)
        for j in range(4):
            x = w * (0.5 * (j + 0.5) - 1.0)
            b.rod((x, -0.61, 0.86), (x, -0.64, 0.86), 0.02, steel)
    else:
        rows = r.choice((1, 1, 3))
        for j in range(rows):
            z = 0.1 + (j + 0.5) * 0.76 / rows
            b.box((0, -0.61, z), (w, 0.01, 0.38 / rows - 0.006), front)
            b.limb((-0.06, -0.64, z + 0.25 / rows), (0.06, -0.64, z + 0.25 / rows), 0.007, steel)
    if high and r.random() < 0.85:
        b.box((0, -0.17, 1.85), (w, 0.17, 0.36), front)
        b.limb((-w * 0.7, -0.36, 1.55), (-w * 0.7, -0.36, 1.68), 0.007, steel)
    elif r.random() < 0.4:
        b.rod((0, -0.25, 1.6), (0, -0.25, 1.8), 0.3, steel, tip=0.12)
        b.box((0, -0.15, 2.1), (0.12, 0.12, 0.3), steel)


def office(b: Builder, half: float) -> None:
    """Build desks with screens, keyboards, papers, chairs and partitions."""
    r = b.rng
    top, leg, dark = r.choice((presets.wood, presets.plain_white))(b), presets.metal(b), presets.plain_dark(b)
    part = presets.cloth(b, vivid=0.2) if r.random() < 0.5 else None
    count = max(1, int(half / 0.8))
    for k in range(count):
        with b.at(((k + 0.5) / count * 2 * half - half, -0.42, 0)):
            w = half / count - 0.03
            b.box((0, 0, 0.73), (w, 0.38, 0.015), top)
            for x in (-1, 1):
                b.box((x * (w - 0.04), 0, 0.36), (0.02, 0.3, 0.36), leg)
            if part is not None:
                b.box((0, 0.4, 0.65), (w, 0.02, 0.65), part)
            for _ in range(r.choice((1, 1, 2))):
                with b.at((r.uniform(-0.5, 0.5) * w, r.uniform(0.05, 0.2), 0.745), r.gauss(0, 0.3)):
                    monitor(b, dark=dark)
            b.box((r.gauss(0, 0.08), -0.18, 0.755), (0.21, 0.07, 0.01), keys(b), turn=(r.gauss(0, 0.1), 0, 0))
            b.ball((0.32, -0.18, 0.755), (0.03, 0.05, 0.02), dark)
            clutter(b, x=w, y=0.33, z=0.745, count=r.randint(1, 8))
            if r.random() < 0.8:
                with b.at((r.uniform(-0.2, 0.2), -0.7 - r.random() * 0.4, 0), math.pi + r.gauss(0, 0.7)):
                    chair(b)


def monitor(b: Builder, *, dark: int) -> None:
    """Build a screen on its foot, flat or an old deep one."""
    r = b.rng
    w = r.uniform(0.2, 0.34)
    h = w * r.choice((0.6, 0.78))
    face = b.material(
        r.choice((mat.PLAIN, mat.PRINT, mat.PRINT)),
        hsv(r.random(), 0.1, r.choice((0.05, 0.9))),
        hsv(r.random(), 0.6, 0.4),
        hsv(r.random(), 0.6, 0.7),
        scale=40,
        emission=r.choice((0.0, 0.7)),
        specular=0.3,
    )
    b.box((0, 0, 0.12 + h), (w, 0.02, h), dark)
    b.box((0, -0.022, 0.12 + h), (w * 0.94, 0.002, h * 0.92), face)
    if r.random() < 0.2:
        b.puff((0, 0.18, 0.12 + h), (w * 0.85, 0.2, h * 0.85), dark, hard=True)
    b.box((0, 0.02, 0.06), (0.03, 0.02, 0.08), dark)
    b.rod((0, 0.02, 0), (0, 0.02, 0.015), 0.12, dark)


def keys(b: Builder) -> int:
    """Return the material of a keyboard."""
    v = b.rng.choice((0.06, 0.8))
    return b.material(mat.TILES, hsv(0, 0, v), hsv(0, 0, v * 0.9), hsv(0, 0, v * 0.4), scale=50, contrast=1.0)


def bathroom(b: Builder, half: float) -> None:
    """Build a basin, a mirror cupboard, a toilet, a tub or shower and towels."""
    r = b.rng
    white, steel = (
        b.plain(hsv(0.1, 0.02, r.uniform(0.8, 0.97)), specular=0.6, gloss=80, mottle=0.02),
        presets.metal(b),
    )
    x = r.uniform(-0.6, 0.6) * half
    b.rod((x, -0.25, 0.75), (x, -0.25, 0.88), 0.16, white, tip=0.28, open_ends=1, flat=0.85)
    b.rod((x, -0.25, 0.0), (x, -0.25, 0.75), 0.08, white, tip=0.1)
    b.limb((x, -0.05, 0.88), (x, -0.05, 1.0), 0.015, steel)
    b.limb((x, -0.05, 1.0), (x, -0.2, 0.98), 0.012, steel)
    b.box(
        (x, -0.06, 1.55),
        (r.uniform(0.25, 0.5), 0.06, 0.35),
        b.material(mat.PLAIN, hsv(0.55, 0.05, 0.75), mirror=0.5, specular=0.8, mottle=0.3),
    )
    t = x + r.choice((-1, 1)) * r.uniform(0.6, 0.9)
    b.limb((t, -0.2, 0.2), (t, -0.5, 0.25), 0.16, white, tip=0.15)
    b.rod((t, -0.38, 0.3), (t, -0.38, 0.42), 0.16, white, tip=0.2, flat=1.2)
    b.puff((t, -0.1, 0.6), (0.19, 0.09, 0.2), white, hard=True)
    b.puff((t - 1.3, -0.4, 0.28), (0.75, 0.38, 0.28), white, hard=True)
    towel = presets.cloth(b, vivid=0.5)
    b.relief(
        (t + 0.6, -0.04, 1.1), (0.22, 0.35, 0.04), towel, fields=(7, 8, 9), span=0.4, turn=(0, math.pi / 2, 0)
    )
    clutter(b, x=half, y=0.1, z=0, count=r.randint(0, 3))


def cellar(b: Builder, half: float) -> None:
    """Build pipes, a boiler, machines, racks with boxes, and things leaning on the wall."""
    r = b.rng
    steel, white = presets.metal(b), presets.plain_white(b)
    for _ in range(r.randint(2, 6)):
        z, y = r.uniform(0.3, 2.4), -r.uniform(0.05, 0.25)
        b.rod((-half, y, z), (half, y, z + r.gauss(0, 0.05)), r.uniform(0.015, 0.06), steel)
    for _ in range(r.randint(1, 3)):
        x = r.uniform(-half, half)
        b.rod((x, -0.15, 0), (x, -0.15, 2.6), r.uniform(0.02, 0.09), steel)
    if r.random() < 0.7:
        x = r.uniform(-half, half) * 0.8
        b.rod((x, -0.4, 0.1), (x, -0.4, 1.5), 0.27, white)
        b.limb((x, -0.4, 1.5), (x, -0.4, 2.6), 0.06, steel)
    for _ in range(r.randint(0, 2)):
        x = r.uniform(-half, half) * 0.8
        b.box((x, -0.35, 0.43), (0.3, 0.3, 0.43), white)
        b.rod((x, -0.65, 0.45), (x, -0.68, 0.45), 0.18, steel)
    rack(b, x=r.uniform(-half, half) * 0.6)
    for _ in range(r.randint(0, 4)):
        x = r.uniform(-half, half)
        b.rod((x, -0.5, 0), (x + r.gauss(0, 0.2), -0.05, r.uniform(1.0, 1.8)), 0.018, presets.wood(b))


def rack(b: Builder, *, x: float) -> None:
    """Build an open rack full of boxes."""
    r = b.rng
    steel, w = presets.metal(b), r.uniform(0.4, 0.9)
    covers = [presets.gloss(b) for _ in range(4)]
    for k in range(4):
        z = 0.2 + 0.55 * k
        b.box((x, -0.25, z), (w, 0.24, 0.015), steel)
        if r.random() < 0.3:
            with b.at((x, -0.25, z + 0.015)):
                books(b, covers, x=w, y=0.15, z=0, room=0.45)
            continue
        left = x - w
        while left < x + w - 0.15:
            size = r.uniform(0.08, 0.2)
            b.box(
                (left + size, -0.25, z + 0.015 + size * 0.8),
                (size, r.uniform(0.1, 0.2), size * 0.8),
                r.choice((presets.wood, presets.gloss, outdoor.stone))(b),
                turn=(r.gauss(0, 0.1), 0, 0),
            )
            left += 2 * size + r.uniform(0.0, 0.15)
    for sx in (-1, 1):
        for y in (-0.03, -0.47):
            b.box((x + sx * w, y, 1.0), (0.015, 0.015, 1.0), steel)


ARRANGEMENTS: tuple[Callable[[Builder, float], None], ...] = (
    kitchen,
    kitchen,
    office,
    office,
    bathroom,
    cellar,
)
