"""Things that stand in rooms, each built at the origin of the current frame, facing -y, on z = 0."""

import math
from collections.abc import Callable

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic import outdoor_materials as outdoor
from synthetic.builder import Builder, hsv
from synthetic.fields import CRUMPLED, FOLDS
from synthetic.objects import clutter, small_object


def table(b: Builder, *, loaded: bool = True) -> None:
    """Build a dining table, desk or coffee table, with things on it."""
    r = b.rng
    w, d, h = (
        r.uniform(0.35, 1.1),
        r.uniform(0.3, 0.55),
        r.choice((r.uniform(0.65, 0.8), r.uniform(0.35, 0.5))),
    )
    top = presets.wood(b) if r.random() < 0.75 else presets.gloss(b, vivid=0.2)
    legs = top if r.random() < 0.6 else presets.metal(b)
    if r.random() < 0.2:
        b.rod((0, 0, h - 0.04), (0, 0, h), w, top)
        b.rod((0, 0, 0), (0, 0, h - 0.04), 0.05, legs)
        b.rod((0, 0, 0), (0, 0, 0.04), w * 0.5, legs, tip=0.05)
        w = d = w * 0.7
    else:
        t = r.uniform(0.015, 0.04)
        b.box((0, 0, h - t), (w, d, t), top)
        thick = r.uniform(0.015, 0.05)
        for x in (-1, 1):
            for y in (-1, 1):
                b.box((x * (w - thick), y * (d - thick), h / 2 - t), (thick, thick, h / 2 - t), legs)
        if r.random() < 0.4:
            b.box((0, d * 0.9, h * 0.7), (w, 0.015, h * 0.2), top)
    if loaded:
        clutter(b, x=w, y=d, z=h, count=r.randint(1, 9))


def chair(b: Builder) -> None:
    """Build a chair."""
    r = b.rng
    h, w = r.uniform(0.42, 0.5), r.uniform(0.2, 0.26)
    frame = presets.wood(b) if r.random() < 0.65 else presets.metal(b)
    seat = presets.cloth(b) if r.random() < 0.5 else frame
    back = r.uniform(0.8, 1.1)
    b.puff((0, 0, h), (w, w, 0.035), seat, hard=True)
    if r.random() < 0.2:  # office chair
        b.rod((0, 0, 0.08), (0, 0, h), 0.03, frame)
        for k in range(5):
            a = k * 1.2566
            b.limb((0, 0, 0.1), (0.3 * math.cos(a), 0.3 * math.sin(a), 0.04), 0.025, frame)
        b.puff((0, w, (h + back) / 2 + 0.1), (w, 0.04, (back - h) / 2), seat)
        return
    splay = r.uniform(0.85, 1.1)
    for x in (-1, 1):
        b.rod((x * w * 0.9, -w * 0.9, h), (x * w * splay, -w * splay, 0), 0.02, frame)
        b.rod((x * w * 0.9, w * 0.95, back), (x * w * splay, w * splay, 0), 0.02, frame)
    if r.random() < 0.5:
        b.puff((0, w * 0.95, (h + back) / 2 + 0.08), (w * 0.95, 0.03, (back - h) / 2 - 0.05), seat, hard=True)
    else:
        for k in range(r.randint(2, 5)):
            z = h + (back - h) * (k + 1) / 5.0
            b.box((0, w * 0.95, z), (w * 0.9, 0.012, 0.03), frame)
        b.box((0, w * 0.95, back - 0.04), (w * 0.95, 0.015, 0.05), frame)


def sofa(b: Builder) -> None:
    """Build a sofa or an armchair with cushions."""
    r = b.rng
    seats = r.choice((1, 2, 3, 3))
    w, d, h = 0.35 * seats + 0.1, r.uniform(0.4, 0.5), r.uniform(0.36, 0.46)
    cover = presets.cloth(b)
    hard = r.random() < 0.5
    arm = r.uniform(0.07, 0.13)
    b.puff((0, 0, h / 2), (w, d, h / 2), cover, hard=True)
    back = r.uniform(0.7, 1.0)
    b.puff(
        (0, d - 0.1, back / 2 + 0.1), (w, 0.12, back / 2), cover, hard=hard, turn=(0, -r.uniform(0, 0.2), 0)
    )
    for x in (-1, 1):
        b.puff((x * (w + arm), 0, h * 0.72), (arm, d, h * 0.72), cover, hard=hard)
    for k in range(seats):
        place = (k - (seats - 1) / 2) * 2 * w / seats
        b.puff((place, -0.08, h + 0.04), (w / seats, d - 0.1, 0.09), cover, hard=hard)
        b.puff((place, d - 0.25, h + 0.3), (w / seats, 0.1, 0.25), cover, turn=(0, -0.25, 0))
    for _ in range(r.randint(0, 3)):
        b.puff(
            (r.uniform(-w, w) * 0.8, d - 0.42, h + 0.25),
            (0.2, 0.08, 0.2),
            presets.cloth(b, vivid=0.8),
            turn=(r.uniform(-0.4, 0.4), -0.35, r.uniform(-0.3, 0.3)),
        )


def bed(b: Builder) -> None:
    """Build a bed with pillows and blanket."""
    r = b.rng
    w, d, h = r.uniform(0.45, 0.95), 1.02, r.uniform(0.35, 0.6)
    frame, sheet = presets.wood(b), presets.cloth(b, vivid=0.3)
    b.box((0, 0, h / 2 - 0.05), (w, d, h / 2 - 0.05), frame)
    b.puff((0, 0, h), (w, d, 0.14), sheet, hard=True)
    blanket = presets.cloth(b)
    b.puff((0, -0.3, h + 0.02), (w + 0.04, d - 0.3, 0.13), blanket, hard=True)
    b.relief(
        (0, -0.3 * r.random(), h + 0.13),
        (w * 0.97, d * 0.7, 0.08),
        blanket,
        fields=(*FOLDS, *CRUMPLED),
        span=-0.5,
    )
    b.box((0, d + 0.04, r.uniform(0.45, 0.65)), (w + 0.03, 0.04, r.uniform(0.4, 0.6)), frame)
    for x in (-0.5, 0.5) if w > 0.6 else (0.0,):
        b.puff(
            (x * w, d - 0.25, h + 0.2), (w * 0.42, 0.2, 0.1), presets.cloth(b, vivid=0.2), turn=(0, 0.35, 0)
        )


def shelf(b: Builder) -> None:
    """Build a bookcase filled with books and things."""
    r = b.rng
    w, d, h = r.uniform(0.3, 1.2), r.uniform(0.13, 0.22), r.uniform(0.7, 2.3)
    case = presets.wood(b) if r.random() < 0.8 else presets.plain_white(b)
    rows = max(2, int(h / r.uniform(0.28, 0.42)))
    for x in (-1, 1):
        b.box((x * w, 0, h / 2), (0.015, d, h / 2), case)
    if r.random() < 0.8:
        b.box((0, d, h / 2), (w, 0.008, h / 2), case)
    covers = [presets.gloss(b) for _ in range(6)]
    for k in range(rows + 1):
        z = 0.05 + (h - 0.06) * k / rows
        b.box((0, 0, z), (w, d, 0.012), case)
        if k == rows:
            break
        if r.random() < 0.6:
            books(b, covers, x=w, y=d, z=z + 0.012, room=h / rows - 0.03)
        elif r.random() < 0.8:
            clutter(b, x=w * 0.9, y=d * 0.7, z=z + 0.012, count=r.randint(1, 4), limit=h / rows - 0.04)


def books(b: Builder, covers: list[int], *, x: float, y: float, z: float, room: float) -> None:
    """Fill a shelf of half width x from the left with books."""
    r = b.rng
    left = -x + 0.02
    while left < x * r.uniform(0.5, 1.0) - 0.06:
        thick = r.uniform(0.008, 0.03) * (1.0 if x < 0.6 else 1.8)
        tall = min(room, r.uniform(0.17, 0.3))
        deep = r.uniform(0.6, 0.9) * y
        lean = r.uniform(-0.15, 0.15) if r.random() < 0.1 else 0.0
        b.box(
            (left + thick, -0.1 * y * r.random(), z + tall / 2),
            (thick, deep, tall / 2),
            r.choice(covers),
            turn=(0, 0, lean),
        )
        left += 2 * thick + 0.002 + abs(lean) * 0.2


def cabinet(b: Builder) -> None:
    """Build a chest, cupboard, fridge or oven with fronts and handles."""
    r = b.rng
    w, d, h = (
        r.uniform(0.25, 0.8),
        r.uniform(0.2, 0.32),
        r.choice((r.uniform(0.5, 0.95), r.uniform(1.5, 2.1))),
    )
    body = r.choice((presets.wood, presets.gloss, presets.metal, presets.plain_white))(b)
    knob = presets.metal(b)
    b.box((0, 0, h / 2), (w, d, h / 2), body)
    columns, rows = max(1, int(w / 0.3)), r.randint(1, 4)
    for i in range(columns):
        for k in range(rows):
            x = (i + 0.5) / columns * 2 * w - w
            z = (k + 0.5) / rows * (h - 0.08) + 0.06
            b.box((x, -d - 0.008, z), (w / columns - 0.008, 0.01, (h - 0.08) / rows / 2 - 0.008), body)
            b.limb((x - 0.04, -d - 0.04, z), (x + 0.04, -d - 0.04, z), 0.008, knob)
    clutter(b, x=w * 0.9, y=d * 0.8, z=h, count=r.randint(0, 5))


def floor_lamp(b: Builder) -> None:
    """Build a lit or unlit floor lamp."""
    r = b.rng
    h, stand = r.uniform(1.2, 1.8), presets.metal(b)
    b.rod((0, 0, 0), (0, 0, 0.03), 0.14, stand)
    b.rod((0, 0, 0), (0, 0, h), 0.012, stand)
    shade = r.uniform(0.12, 0.25)
    lit = r.random() < 0.6
    glow = b.material(mat.FABRIC, hsv(0.11, r.uniform(0.05, 0.4), 0.9), emission=1.6 if lit else 0.0, scale=5)
    b.rod((0, 0, h - 0.15), (0, 0, h + 0.12), shade, glow, tip=shade * r.uniform(0.5, 1.0), open_ends=2)
    if lit and len(b.lights) < 4:
        b.lamp((0, 0, h + 0.3), hsv(0.09, 0.35, 1.0), 0.1)


def plant(b: Builder) -> None:
    """Build a pot plant, a few blades to a dense bush."""
    r = b.rng
    pot, size = presets.gloss(b, vivid=0.4), r.uniform(0.09, 0.2)
    h = size * r.uniform(1.2, 2.2)
    b.rod((0, 0, 0), (0, 0, h), size * 0.75, pot, tip=size)
    leaf, tall = outdoor.leaves(b), r.uniform(0.3, 1.3)
    for _ in range(r.randint(8, 22)):
        a, reach, up = r.uniform(0, 6.283), r.uniform(0.1, 0.5) * tall, r.uniform(0.3, 1.0) * tall
        x, y, z = reach * math.cos(a), reach * math.sin(a), h + up
        b.rod((0, 0, h * 0.9), (x, y, z), 0.006, leaf)
        b.ball(
            (x * 1.2, y * 1.2, z),
            (r.uniform(0.06, 0.2), r.uniform(0.03, 0.07), 0.008),
            leaf,
            turn=(a, r.uniform(-0.8, 0.8), r.uniform(-0.8, 0.8)),
        )


def screen(b: Builder) -> None:
    """Build a television or monitor on a low board."""
    r = b.rng
    w = r.uniform(0.25, 0.75)
    h, body = w * 0.56, presets.plain_dark(b)
    z = r.uniform(0.3, 0.8)
    b.box((0, 0, z / 2), (w * 1.2, 0.22, z / 2), presets.wood(b))
    on = r.random() < 0.5
    b.box((0, 0, z + h + 0.06), (w, 0.03, h), body)
    face = (
        b.material(
            mat.PICTURE,
            hsv(0, 0, 0.5),
            picture=r.randrange(14),
            scale=1 / w,
            contrast=0.0,
            emission=0.8 if on else 0.0,
            specular=0.3,
        )
        if on
        else body
    )
    b.box((0, -0.032, z + h + 0.06), (w * 0.96, 0.002, h * 0.94), face)
    b.box((0, 0, z + 0.03), (w * 0.3, 0.1, 0.03), body)


def boxes(b: Builder) -> None:
    """Build a pile of boxes, bags and balls."""
    r = b.rng
    z = 0.0
    for _ in range(r.randint(1, 4)):
        s = r.uniform(0.12, 0.32)
        half = (s * r.uniform(0.7, 1.4), s * r.uniform(0.7, 1.2), s * r.uniform(0.4, 1.0))
        skin = r.choice((presets.wood, presets.cloth, presets.gloss, outdoor.stone))(b)
        turn = (r.uniform(-0.6, 0.6), 0.0, 0.0)
        if r.random() < 0.7:
            b.box((r.uniform(-0.1, 0.1), 0, z + half[2]), half, skin, turn=turn)
        else:
            b.puff((0, 0, z + half[2]), half, skin, turn=turn)
        z += 2 * half[2]


def stool(b: Builder) -> None:
    """Build a round stool, pouf, bin or basket."""
    r = b.rng
    h, w = r.uniform(0.3, 0.75), r.uniform(0.15, 0.3)
    if r.random() < 0.5:
        b.rod(
            (0, 0, 0), (0, 0, h), w * r.uniform(0.7, 1.0), presets.cloth(b), tip=w, open_ends=r.choice((0, 1))
        )
        return
    legs = presets.wood(b)
    b.rod((0, 0, h - 0.04), (0, 0, h), w, r.choice((presets.cloth, presets.wood))(b))
    for k in range(4):
        a = 0.785 + k * 1.5708
        b.rod(
            (0.7 * w * math.cos(a), 0.7 * w * math.sin(a), h - 0.03),
            (w * math.cos(a), w * math.sin(a), 0),
            0.016,
            legs,
        )


FURNITURE: tuple[Callable[[Builder], None], ...] = (
    table,
    table,
    chair,
    chair,
    sofa,
    sofa,
    bed,
    shelf,
    shelf,
    cabinet,
    cabinet,
    floor_lamp,
    plant,
    screen,
    boxes,
    stool,
    small_object,
)
