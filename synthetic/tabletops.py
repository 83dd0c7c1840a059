"""Many things on a table or desk, seen from close by, like a stereo rig's still lifes."""

import math

from synthetic import material_presets as presets
from synthetic.builder import Builder
from synthetic.fields import CRUMPLED, FOLDS
from synthetic.furniture import FURNITURE
from synthetic.objects import SMALL
from synthetic.rooms import light, shell
from synthetic.views import View, look


def build_tabletop(b: Builder) -> list[View]:
    """Build a loaded table in a corner of a room and look at it."""
    r = b.rng
    h = r.choice((0.45, 0.75, 0.75, 0.9))
    w, d = r.uniform(0.5, 1.0), r.uniform(0.3, 0.6)
    lay_table(b, w=w, d=d, h=h)
    big = r.choice((1.0, 1.0, 1.6))
    for _ in range(r.randint(5, 22)):
        place = (r.uniform(-w, w) * 0.9, r.uniform(-d, d) * 0.85, h)
        with b.at(place, r.uniform(0, 6.283), scale=big * r.uniform(0.8, 1.3)):
            r.choice(SMALL)(b)
    near = r.random() < 0.5
    back = d + (0.05 if near else r.uniform(0.5, 3.0))
    with b.at((0, 0, 0), r.gauss(0, 0.4) if not near else 0.0), b.at((0, back - 2.5, 0)):
        shell(b, w=r.uniform(1.5, 3.5), d=2.5, h=2.8)
        light(b, w=1.5, d=1.5, h=2.5)
        for _ in range(r.choice((0, 1, 3))):
            with b.at((r.choice((-1, 1)) * r.uniform(w + 0.5, 2.0), 2.0, 0), r.gauss(0, 0.2)):
                r.choice(FURNITURE)(b)
    return [frame(b, w=w, d=d, h=h) for _ in range(4)]


def lay_table(b: Builder, *, w: float, d: float, h: float) -> None:
    """Build a table of half sizes w, d and height h, with or without a cloth."""
    r = b.rng
    top, leg = (
        r.choice((presets.wood, presets.wood, presets.gloss, presets.plain_white, presets.cloth))(b),
        presets.wood(b),
    )
    b.box((0, 0, h - 0.02), (w, d, 0.02), top)
    for x in (-1, 1):
        for y in (-1, 1):
            b.box((x * (w - 0.04), y * (d - 0.04), h / 2 - 0.02), (0.03, 0.03, h / 2 - 0.02), leg)
    if r.random() < 0.3:
        turn = (r.uniform(-0.3, 0.3), 0.0, 0.0)
        b.box((0, r.uniform(-0.1, 0.1), h + 0.002), (w * 0.6, d * 0.7, 0.003), presets.cloth(b), turn=turn)
    if r.random() < 0.25:
        place, half = (r.uniform(-w, w) * 0.5, 0.0, h + 0.02), (w * 0.6, d * 0.8, 0.04)
        span, turn = r.uniform(-0.6, -0.2), (r.uniform(0, 6), 0.0, 0.0)
        b.relief(place, half, presets.cloth(b), fields=(*FOLDS, *CRUMPLED), span=span, turn=turn)


def frame(b: Builder, *, w: float, d: float, h: float) -> View:
    """Choose the camera before the table."""
    r = b.rng
    far = r.uniform(0.5, 1.9)
    tilt, a = math.radians(r.uniform(5, 60)), r.gauss(0, 0.4)
    eye = (
        far * math.cos(tilt) * math.sin(a),
        -far * math.cos(tilt) * math.cos(a) - 0.1,
        h + far * math.sin(tilt),
    )
    yaw, pitch = look(eye, (r.uniform(-0.4, 0.4) * w, r.uniform(-0.5, 0.5) * d, h + r.uniform(0, 0.2)))
    soft = r.random() < 0.2
    return View(
        eye,
        yaw,
        pitch,
        r.gauss(0, 4),
        r.uniform(38, 70),
        focus=far if soft else None,
        aperture=r.uniform(3, 14),
    )
