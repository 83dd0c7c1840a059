"""Corridors, tunnels, arcades and stairwells: long spaces that run away from the camera."""

import math

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic import outdoor_materials as outdoor
from synthetic.builder import Builder, hsv
from synthetic.figures import person
from synthetic.furniture import FURNITURE
from synthetic.monuments import arch, column
from synthetic.openings import door, hang, opening
from synthetic.rooms import light
from synthetic.views import View
from synthetic.weather import daylight


def build_passage(b: Builder) -> list[View]:
    """Build a corridor or a vaulted passage along +y and stand in it."""
    r = b.rng
    w, h, length = r.uniform(0.7, 2.2), r.uniform(2.2, 3.6), r.uniform(5, 30)
    if r.random() < 0.6:
        corridor(b, w=w, h=h, length=length)
        light(b, w=w, d=2.0, h=h)
        for y in (length * 0.4, length * 0.8):
            b.lamp((0, y, h * 0.9), hsv(0.1, r.uniform(0, 0.3), r.uniform(0.6, 1.0)), 0.1)
    else:
        daylight(b)
        vault(b, w=w * 1.5, h=h * 1.3, length=length)
    for _ in range(r.choice((0, 1, 1, 3))):
        with b.at((r.uniform(-0.7, 0.7) * w, r.uniform(1.5, length), 0), r.uniform(0, 6.28)):
            r.choice((person, *FURNITURE))(b)
    eye = max(0.4, r.gauss(1.4, 0.3))
    return [
        View(
            (r.uniform(-0.6, 0.6) * w, r.uniform(-0.8, 0.5), eye),
            r.gauss(0, 14),
            r.gauss(-3, 8),
            r.gauss(0, 4),
            r.uniform(45, 85),
            clearance=0.3,
            variety=6,
        )
        for _ in range(3)
    ]


def corridor(b: Builder, *, w: float, h: float, length: float) -> None:
    """Build floor, ceiling and side walls with doors and pictures, and an end wall."""
    r = b.rng
    skin, trim, ceiling = presets.wall(b), presets.plain_white(b), presets.plain_white(b)
    b.box((0, length / 2, -0.05), (w + 3, length / 2 + 2, 0.05), presets.floor(b))
    b.box((0, length / 2, h + 0.05), (w + 3, length / 2 + 2, 0.05), ceiling)
    b.box((0, length + 0.1, h / 2), (w + 0.3, 0.1, h / 2), presets.wall(b))
    b.box((0, -2.0, h / 2), (w + 0.3, 0.1, h / 2), skin)
    glow = b.material(mat.PLAIN, hsv(0.13, 0.1, 1), emission=2.5)
    for k in range(r.choice((0, 3, 6))):
        b.solid(0, (0, (k + 0.5) * length / 6, h - 0.01), (0.15, 0.4, 0.015), m=glow, shadow=False)
    for side in (-1, 1):
        y = -2.0
        while y < length:
            run = r.uniform(1.3, 3.5)
            with b.at((side * w, y + run / 2, 0), -side * math.pi / 2):
                if r.random() < 0.5:
                    opening(b, half=run / 2 - 0.2, h=h, x=0, wide=0.42, low=0.0, high=2.05, skin=skin)
                    door(b, x=0, wide=0.42, high=2.05, trim=trim)
                else:
                    b.box((0, 0.1, h / 2), (run / 2, 0.1, h / 2), skin)
                    if r.random() < 0.5:
                        hang(b, x=0.0, z=r.uniform(1.2, 1.8))
                b.box((0, -0.01, 0.05), (run / 2, 0.01, 0.05), trim)
            y += run


def vault(b: Builder, *, w: float, h: float, length: float) -> None:
    """Build an arcade of arches or columns, or a closed tunnel, open at its far end to the sky."""
    r = b.rng
    skin, floor = outdoor.stone(b), r.choice((outdoor.stone, presets.brick))(b)
    b.box((0, 60, -0.05), (80, 80, 0.05), floor, shadow=False)
    closed = r.random() < 0.6
    if closed:
        b.rod((0, -2, h - w), (0, length, h - w), w, skin, open_ends=2)
        for side in (-1, 1):
            b.box((side * (w + 0.2), length / 2 - 1, (h - w) / 2), (0.2, length / 2 + 1, (h - w) / 2), skin)
    step = r.uniform(1.8, 4.0)
    for k in range(int(length / step)):
        with b.at((0, k * step, 0)):
            if r.random() < 0.9:
                arch(b, wide=2 * w * 0.93, h=h * 0.97, deep=0.4, skin=skin)
        if not closed:
            for side in (-1, 1):
                with b.at((side * w * 1.6, k * step, 0)):
                    column(b, h=h, w=0.18, skin=skin)
    with b.at((r.uniform(-3, 3), length + r.uniform(4, 30), 0)):
        b.box((0, 0, 3), (8, 0.5, 3), presets.brick(b))
