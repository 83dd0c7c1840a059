"""Small things for tables, shelves and floors, each built at the origin of the current frame, on z = 0."""

import itertools
import math
from collections.abc import Callable

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic import outdoor_materials as outdoor
from synthetic.builder import Builder, hsv


def mug(b: Builder) -> None:
    """Build a mug or a cup with its handle."""
    r = b.rng
    h, w, skin = r.uniform(0.08, 0.12), r.uniform(0.035, 0.05), presets.gloss(b)
    b.rod((0, 0, 0), (0, 0, h), w * r.uniform(0.7, 1.0), skin, tip=w, open_ends=1)
    b.rod((0, 0, 0), (0, 0, h * 0.8), w * 0.7, b.plain(hsv(0.07, 0.7, r.uniform(0.1, 0.5))), tip=w * 0.93)
    a, points = r.uniform(0, 6.283), []
    for k in range(5):
        s = math.pi * (k / 4.0)
        out, z = w * 0.85 + 0.03 * math.sin(s), h * (0.2 + 0.6 * k / 4.0)
        points.append((out * math.cos(a), out * math.sin(a), z))
    for p, q in itertools.pairwise(points):
        b.limb(p, q, 0.006, skin)


def bottle(b: Builder) -> None:
    """Build a bottle or vase from stacked cones."""
    r = b.rng
    skin, w, h = presets.gloss(b), r.uniform(0.03, 0.06), r.uniform(0.15, 0.34)
    profile = r.choice(
        (
            ((0, 0.95), (0.55, 1.0), (0.75, 0.35), (1.0, 0.3)),
            ((0, 0.5), (0.35, 1.1), (0.7, 0.45), (1.0, 0.65)),
            ((0, 0.7), (0.2, 1.0), (0.45, 0.9), (0.6, 0.25), (1.0, 0.25)),
            ((0, 1.0), (0.85, 1.0), (0.9, 0.6), (1.0, 0.6)),
        )
    )
    for (z0, w0), (z1, w1) in itertools.pairwise(profile):
        b.rod((0, 0, z0 * h), (0, 0, z1 * h), w0 * w, skin, tip=w1 * w)
    if r.random() < 0.6:
        b.rod((0, 0, 0.2 * h), (0, 0, 0.45 * h), w * 1.12, presets.artwork(b, size=0.1))


def fruit(b: Builder) -> None:
    """Build one to a few fruits."""
    r = b.rng
    hue, s = r.choice((0.0, 0.05, 0.09, 0.14, 0.25, 0.3)), r.uniform(0.025, 0.07)
    skin = b.material(
        mat.FABRIC,
        hsv(hue, 0.85, r.uniform(0.5, 0.9)),
        hsv(hue + r.uniform(-0.05, 0.08), 0.8, 0.7),
        scale=20,
        specular=0.35,
        gloss=25,
        bump=0.05,
    )
    for k in range(r.randint(1, 5)):
        x, y = (0.0, 0.0) if k == 0 else (r.uniform(-2.5, 2.5) * s, r.uniform(-2.5, 2.5) * s)
        tall = r.uniform(0.8, 1.5)
        b.ball((x, y, s * tall * 0.95), (s, s, s * tall), skin, turn=(r.random(), r.uniform(-0.4, 0.4), 0))


def bowl(b: Builder) -> None:
    """Build a bowl or plate with food."""
    r = b.rng
    w, h, skin = r.uniform(0.07, 0.16), r.uniform(0.015, 0.09), presets.gloss(b)
    b.rod((0, 0, 0), (0, 0, h), w * 0.5, skin, tip=w, open_ends=1)
    b.rod((0, 0, 0), (0, 0, 0.01), w * 0.5, skin)
    food = presets.gloss(b, vivid=1.0)
    for _ in range(r.randint(0, 6)):
        s = r.uniform(0.15, 0.4) * w
        b.ball((r.uniform(-0.5, 0.5) * w, r.uniform(-0.5, 0.5) * w, h * 0.7 + s * 0.4), (s, s, s * 0.8), food)


def book_pile(b: Builder) -> None:
    """Build a pile of books or papers."""
    r = b.rng
    z = 0.0
    for _ in range(r.randint(1, 6)):
        t = r.uniform(0.004, 0.025)
        half = (r.uniform(0.07, 0.12), r.uniform(0.1, 0.16), t)
        turn = (r.uniform(-0.5, 0.5), 0.0, 0.0)
        b.box((0, 0, z + t), half, r.choice((presets.gloss(b), presets.artwork(b, size=0.2))), turn=turn)
        b.box((0.004, 0, z + t), (half[0], half[1] - 0.004, t * 0.8), presets.plain_white(b), turn=turn)
        z += 2 * t


def carton(b: Builder) -> None:
    """Build a printed box, upright or lying."""
    r = b.rng
    half = (r.uniform(0.02, 0.12), r.uniform(0.02, 0.09), r.uniform(0.02, 0.15))
    skin = r.choice((presets.gloss(b), presets.artwork(b, size=0.2), presets.wood(b)))
    b.box((0, 0, half[2]), half, skin)


def can(b: Builder) -> None:
    """Build a can, candle, jar or roll."""
    r = b.rng
    w, h = r.uniform(0.025, 0.06), r.uniform(0.05, 0.16)
    b.rod((0, 0, 0), (0, 0, h), w, r.choice((presets.gloss(b), presets.artwork(b, size=0.15))))
    b.rod((0, 0, h), (0, 0, h + 0.006), w * 0.93, presets.metal(b))


def teddy(b: Builder) -> None:
    """Build a soft toy."""
    r = b.rng
    s = r.uniform(0.06, 0.16)
    fur = b.material(
        mat.COAT, hsv(r.random(), r.uniform(0.1, 0.7), r.uniform(0.3, 0.9)), scale=4, contrast=0.3
    )
    nose = presets.plain_dark(b)
    b.ball((0, 0, s), (s * 0.8, s * 0.7, s), fur)
    b.ball((0, -0.1 * s, 2.4 * s), (s * 0.75, s * 0.7, s * 0.7), fur)
    b.ball((0, -0.75 * s, 2.25 * s), (s * 0.3, s * 0.3, s * 0.25), fur)
    b.ball((0, -1.02 * s, 2.35 * s), (s * 0.1, s * 0.08, s * 0.08), nose)
    for x in (-1, 1):
        b.ball((x * 0.55 * s, 0, 3.0 * s), (s * 0.28, s * 0.15, s * 0.28), fur)
        b.ball((x * 0.28 * s, -0.72 * s, 2.55 * s), (s * 0.08, s * 0.06, s * 0.08), nose)
        b.limb((x * 0.6 * s, 0, 1.5 * s), (x * 1.2 * s, -0.5 * s, 0.9 * s), s * 0.28, fur)
        b.limb((x * 0.5 * s, -0.2 * s, 0.3 * s), (x * 0.8 * s, -1.2 * s, 0.25 * s), s * 0.32, fur)


def cone_toy(b: Builder) -> None:
    """Build a paper cone or a pyramid of rings."""
    r = b.rng
    h, w = r.uniform(0.1, 0.35), r.uniform(0.04, 0.1)
    b.rod((0, 0, 0), (0, 0, h), w, presets.gloss(b, vivid=1.0), tip=w * r.choice((0.02, 0.02, 0.4)))


def vase_of_flowers(b: Builder) -> None:
    """Build a vase with flowers."""
    r = b.rng
    bottle(b)
    stem, petal, heart = outdoor.leaves(b), presets.gloss(b, vivid=1.0), b.plain(hsv(0.13, 0.8, 0.7))
    for _ in range(r.randint(3, 8)):
        a, reach, z = r.uniform(0, 6.283), r.uniform(0.0, 0.14), r.uniform(0.25, 0.45)
        x, y, s = reach * math.cos(a), reach * math.sin(a), r.uniform(0.02, 0.045)
        b.rod((0, 0, 0.15), (x, y, z), 0.003, stem)
        b.ball((x, y, z), (s, s, s * 0.6), petal, turn=(a, r.uniform(-0.6, 0.6), 0))
        b.ball((x, y, z + s * 0.4), (s * 0.4, s * 0.4, s * 0.3), heart)


def desk_lamp(b: Builder) -> None:
    """Build a jointed desk lamp or a table lamp with a shade."""
    r = b.rng
    skin = presets.metal(b)
    b.rod((0, 0, 0), (0, 0, 0.02), 0.09, skin)
    if r.random() < 0.5:
        elbow, head = (r.uniform(-0.15, 0.15), 0.1, 0.28), (r.uniform(-0.2, 0.2), -0.1, 0.45)
        b.limb((0, 0, 0.02), elbow, 0.01, skin)
        b.limb(elbow, head, 0.01, skin)
        b.rod(head, (head[0], head[1] - 0.08, head[2] - 0.08), 0.03, skin, tip=0.08, open_ends=1)
        return
    b.limb((0, 0, 0.02), (0, 0, 0.25), 0.02, skin)
    glow = b.material(mat.FABRIC, hsv(0.11, 0.2, 0.9), emission=r.choice((0.0, 1.5)), scale=5)
    b.rod((0, 0, 0.22), (0, 0, 0.42), 0.14, glow, tip=0.09, open_ends=2)


def laptop(b: Builder) -> None:
    """Build a laptop, open."""
    r = b.rng
    skin = presets.metal(b)
    b.box((0, 0, 0.01), (0.17, 0.12, 0.01), skin)
    b.box(
        (0, -0.0, 0.0205),
        (0.15, 0.07, 0.001),
        b.material(mat.TILES, hsv(0, 0, 0.1), hsv(0, 0, 0.15), hsv(0, 0, 0.5), scale=50),
    )
    b.box((0, 0.16, 0.12), (0.17, 0.005, 0.115), skin, turn=(0, -0.3, 0))
    face = b.material(
        mat.PRINT, hsv(0, 0, 0.95), hsv(r.random(), 0.5, 0.3), any_hue(b), scale=60, emission=0.6
    )
    b.box((0, 0.153, 0.12), (0.16, 0.002, 0.105), face, turn=(0, -0.3, 0))


def any_hue(b: Builder) -> tuple[float, float, float]:
    """Return a bright random color."""
    return hsv(b.rng.random(), 0.7, 0.8)


def slices(b: Builder) -> None:
    """Build a row of slices or biscuits leaning on each other, or a pile of cubes."""
    r = b.rng
    skin, w = presets.gloss(b, vivid=0.7), r.uniform(0.02, 0.05)
    edge = b.plain(hsv(r.gauss(0.07, 0.03), 0.6, r.uniform(0.3, 0.9)))
    for k in range(r.randint(3, 8)):
        x = 0.6 * w * k
        if r.random() < 0.85:
            b.solid(2, (x, r.gauss(0, 0.003), w * 0.5), (w, w * 0.8, 0.004), m=skin, turn=(1.57, 1.0, 0))
            b.solid(2, (x - 0.002, 0, w * 0.5), (w * 1.04, w * 0.84, 0.003), m=edge, turn=(1.57, 1.0, 0))
        else:
            b.puff(
                (x, r.gauss(0, w), w * 0.4),
                (w * 0.4, w * 0.4, w * 0.4),
                edge,
                turn=(r.random(), 0, 0),
                hard=True,
            )


def board(b: Builder) -> None:
    """Build a cutting board or tray with food, a knife and a napkin."""
    r = b.rng
    w, d = r.uniform(0.12, 0.24), r.uniform(0.1, 0.15)
    b.puff((0, 0, 0.01), (w, d, 0.01), presets.wood(b), hard=True)
    for _ in range(r.randint(2, 6)):
        with b.at((r.uniform(-0.7, 0.7) * w, r.uniform(-0.7, 0.7) * d, 0.018), r.uniform(0, 6.283)):
            r.choice((slices, slices, fruit, bowl, can))(b)
    b.box((w + 0.03, 0, 0.004), (0.009, d, 0.002), presets.metal(b))
    b.limb((w + 0.03, -d, 0.008), (w + 0.03, -d - 0.09, 0.008), 0.009, presets.wood(b))


def contraption(b: Builder) -> None:
    """Build a made-up thing from a few solids, so that no one shape is ever expected."""
    r = b.rng
    skins = [presets.gloss(b), presets.metal(b), presets.cloth(b, vivid=0.7)]
    x, y, z = 0.0, 0.0, 0.05
    for _ in range(r.randint(2, 9)):
        s, skin = r.uniform(0.015, 0.08), r.choice(skins)
        turn = (
            r.uniform(0, 6.3),
            r.choice((0.0, r.uniform(-1.5, 1.5))),
            r.choice((0.0, r.uniform(-1.5, 1.5))),
        )
        half = (s * r.uniform(0.3, 1.5), s * r.uniform(0.3, 1.5), s * r.uniform(0.3, 1.5))
        step = (x + r.uniform(-0.07, 0.07), y + r.uniform(-0.07, 0.07), max(0.03, z + r.uniform(-0.03, 0.09)))
        pick = r.random()
        if pick < 0.2:
            b.box(step, half, skin, turn=turn)
        elif pick < 0.4:
            b.ball(step, half, skin, turn=turn)
        elif pick < 0.6:
            b.puff(step, half, skin, turn=turn, hard=r.random() < 0.5)
        elif pick < 0.75:
            b.limb((x, y, z), step, s * 0.5, skin, tip=s * r.uniform(0.2, 0.6))
        else:
            b.rod((x, y, z), step, s * r.uniform(0.1, 0.7), skin, tip=s * r.uniform(0.1, 0.7))
        x, y, z = step


SMALL: tuple[Callable[[Builder], None], ...] = (
    mug,
    mug,
    bottle,
    bottle,
    fruit,
    bowl,
    book_pile,
    book_pile,
    carton,
    carton,
    can,
    can,
    teddy,
    cone_toy,
    vase_of_flowers,
    desk_lamp,
    laptop,
    board,
    slices,
    contraption,
    contraption,
)


def small_object(b: Builder) -> None:
    """Build any small thing."""
    b.rng.choice(SMALL)(b)


def clutter(b: Builder, *, x: float, y: float, z: float, count: int, limit: float = 1.0) -> None:
    """Strew small things over a rectangle of half sizes x, y at height z, with `limit` meters above."""
    r = b.rng
    for _ in range(count):
        with b.at(
            (r.uniform(-x, x) * 0.85, r.uniform(-y, y) * 0.75, z),
            r.uniform(0, 6.283),
            scale=min(1.0, limit / 0.35),
        ):
            small_object(b)
