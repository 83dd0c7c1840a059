"""Cars, vans, trucks, bicycles and motorcycles, nose towards -y, on z = 0."""

import math
from itertools import pairwise

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic.builder import Builder, hsv


def car(b: Builder) -> None:
    """Build a car or a van; now and then a truck or a bus, or something on two wheels."""
    r = b.rng
    color = hsv(r.random(), r.choice((0.0, 0.05, 0.1, 0.8)), r.choice((0.07, 0.2, 0.5, 0.7, 0.95)))
    body = b.material(mat.PLAIN, color, specular=0.8, gloss=60, mirror=r.uniform(0.1, 0.5), mottle=0.05)
    glass = b.material(mat.PLAIN, hsv(0.6, 0.2, 0.08), specular=1.0, gloss=120, mirror=0.6, mottle=0.0)
    tyre, pick = b.plain(hsv(0, 0, 0.1)), r.random()
    if pick < 0.12:
        truck(b, body=body, glass=glass, tyre=tyre)
        return
    if pick < 0.2:
        two_wheeler(b, body=body, tyre=tyre)
        return
    w, length, h = r.uniform(0.82, 0.95), r.uniform(1.8, 2.4), r.uniform(1.35, 1.55)
    if pick < 0.35:
        h, length = r.uniform(1.75, 2.1), r.uniform(2.1, 2.6)
    belt = h * r.uniform(0.58, 0.66)
    b.puff((0, 0, (0.25 + belt) / 2), (w, length, (belt - 0.2) / 2), body, hard=True)
    front, rear = r.uniform(0.25, 0.5) * length, r.uniform(0.55, 0.97) * length
    mid, half = (rear - front) / 2, (rear + front) / 2
    b.puff((0, mid, (belt + h) / 2 - 0.08), (w * 0.88, half, (h - belt) / 2 + 0.1), glass, hard=True)
    b.puff((0, mid + 0.1, h - 0.07), (w * 0.8, half * 0.78, 0.09), body)
    for x in (-w, w):
        for y in (mid - half * 0.25, mid + half * 0.3):
            post = (0.03, 0.04, (h - belt) / 2)
            b.box((x * 0.87, y, (belt + h) / 2), post, body, turn=(0, 0, 0.12 if x > 0 else -0.12))
        b.puff((x * 1.08, -front + 0.1, belt + 0.05), (0.1, 0.06, 0.08), body)
    wheels(b, w=w, length=length, tyre=tyre)
    ends(b, w=w, length=length, belt=belt)


def wheels(b: Builder, *, w: float, length: float, tyre: int) -> None:
    """Build four wheels."""
    rim = presets.metal(b)
    for x in (-1, 1):
        for y in (-0.62 * length, 0.62 * length):
            b.rod((x * (w - 0.2), y, 0.32), (x * (w + 0.02), y, 0.32), 0.32, tyre)
            b.rod((x * w, y, 0.32), (x * (w + 0.03), y, 0.32), 0.2, rim)


def ends(b: Builder, *, w: float, length: float, belt: float) -> None:
    """Build lamps, plates and bumpers."""
    r = b.rng
    lamp = b.material(mat.PLAIN, hsv(0.12, 0.1, 0.95), specular=1.0, emission=r.choice((0.0, 0.0, 2.0)))
    tail = b.material(mat.PLAIN, hsv(0.0, 0.9, 0.7), emission=r.choice((0.0, 0.0, 3.0)))
    plate, dark = presets.plain_white(b), presets.plain_dark(b)
    for x in (-w, w):
        b.puff((x * 0.72, -length * 0.97, belt * 0.75), (0.18, 0.06, 0.08), lamp)
        b.puff((x * 0.78, length * 0.97, belt * 0.8), (0.14, 0.06, 0.1), tail)
    for y in (-1, 1):
        b.box((0, y * (length + 0.005), 0.5), (0.26, 0.015, 0.06), plate)
        b.puff((0, y * length * 0.97, 0.32), (w * 0.92, 0.1, 0.1), dark, hard=True)


def ring(b: Builder, *, y: float, radius: float, thick: float, m: int) -> None:
    """Build a wheel's ring of short rods, upright along y."""
    points = [
        (0.0, y + radius * math.cos(k * math.pi / 6), radius + radius * math.sin(k * math.pi / 6))
        for k in range(13)
    ]
    for p, q in pairwise(points):
        b.limb(p, q, thick, m)


def two_wheeler(b: Builder, *, body: int, tyre: int) -> None:
    """Build a bicycle or a motorcycle."""
    r = b.rng
    steel, dark = presets.metal(b), presets.plain_dark(b)
    heavy = r.random() < 0.5
    radius, base = (0.31, 0.7) if heavy else (0.34, 0.52)
    for y in (-base, base):
        ring(b, y=y, radius=radius, thick=0.06 if heavy else 0.018, m=tyre)
        for k in range(3):
            a = k * math.pi / 3
            reach = (radius * math.cos(a), radius * math.sin(a))
            b.rod((0, y - reach[0], radius - reach[1]), (0, y + reach[0], radius + reach[1]), 0.006, steel)
    t = 0.035 if heavy else 0.018
    b.limb((0, -base, radius), (0, -base + 0.3, 1.0), t, steel)
    b.limb((-0.35, -base + 0.3, 1.05), (0.35, -base + 0.3, 1.05), 0.015, steel)
    b.limb((0, -base + 0.25, 0.85), (0, 0.05, 0.4), t, body)
    b.limb((0, -base + 0.25, 0.85), (0, 0.25, 0.85), t, body)
    b.limb((0, 0.05, 0.4), (0, base, radius), t, body)
    b.limb((0, 0.25, 0.85), (0, 0.05, 0.4), t, body)
    b.puff((0, 0.3, 0.92), (0.09, 0.16 if not heavy else 0.32, 0.06), dark)
    if heavy:
        b.puff((0, -0.12, 0.85), (0.13, 0.25, 0.14), body)
        b.box((0, -0.02, 0.42), (0.15, 0.2, 0.18), steel)
        b.rod((0.16, 0.1, 0.3), (0.18, 0.95, 0.36), 0.05, steel)
        b.ball((0, -base + 0.18, 0.92), (0.1, 0.1, 0.1), steel)


def truck(b: Builder, *, body: int, glass: int, tyre: int) -> None:
    """Build a truck or bus along y."""
    r = b.rng
    w, length, h = 1.2, r.uniform(2.8, 5.0), r.uniform(2.6, 3.3)
    load = r.choice((body, presets.gloss(b), presets.metal(b), presets.artwork(b, size=3.0)))
    b.box((0, 0.8, (0.6 + h) / 2), (w, length - 0.8, (h - 0.6) / 2), load)
    b.puff((0, -length + 0.8, 1.35), (w * 0.97, 1.0, 0.95), body, hard=True)
    b.box((0, -length - 0.17, 1.75), (w * 0.8, 0.02, 0.35), glass)
    for x in (-1, 1):
        b.box((x * (w + 0.005), -length + 0.8, 1.75), (0.02, 0.5, 0.3), glass)
        for y in (-0.75, 0.35, 0.7):
            b.rod((x * (w - 0.3), y * length, 0.48), (x * w, y * length, 0.48), 0.48, tyre)
