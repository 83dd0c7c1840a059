"""Indoor rooms: walls, openings, ceiling, furniture, light."""

import math

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic.animals import animal
from synthetic.builder import Builder, hsv, times
from synthetic.figures import person
from synthetic.furniture import FURNITURE, chair, sofa, table
from synthetic.interiors import ARRANGEMENTS
from synthetic.objects import clutter
from synthetic.openings import door, hang, opening, window
from synthetic.sky import E_DOWN, E_HORIZON, E_REACH, E_UP, E_ZENITH
from synthetic.views import View, look


def build_room(b: Builder) -> list[View]:
    """Build a furnished room and stand in it."""
    r = b.rng
    size = r.choice((0.9, 1.0, 1.2, 1.8))
    w, d, h = r.uniform(1.3, 2.6) * size, r.uniform(1.4, 3.0) * size, r.uniform(2.3, 3.2) + 0.6 * (size > 2)
    shell(b, w=w, d=d, h=h)
    furnish(b, w=w, d=d)
    light(b, w=w, d=d, h=h)
    return [stand(b, w=w, d=d, h=h) for _ in range(6)]


def shell(b: Builder, *, w: float, d: float, h: float) -> None:
    """Build floor, ceiling and four walls with windows, doors and pictures."""
    r = b.rng
    b.box((0, 0, -0.05), (w + 0.3, d + 0.3, 0.05), presets.floor(b))
    ceiling = presets.plain_white(b) if r.random() < 0.85 else presets.wood(b)
    b.box((0, 0, h + 0.05), (w + 0.3, d + 0.3, 0.05), ceiling)
    if r.random() < 0.25:
        for k in range(r.randint(2, 6)):
            b.box((0, -d + 2 * d * (k + 0.5) / 6, h - 0.06), (w, 0.06, 0.07), ceiling)
    skin, trim = presets.wall(b), presets.plain_white(b)
    for k, (half, depth) in enumerate(((w, d), (d, w), (w, d), (d, w))):
        with b.at((0, 0, 0), k * math.pi / 2), b.at((0, depth, 0)):
            side(b, half=half, h=h, skin=skin if r.random() < 0.75 else presets.wall(b), trim=trim)


def side(b: Builder, *, half: float, h: float, skin: int, trim: int) -> None:
    """Build one wall on the plane y = 0, seen from -y, with at most one opening and some pictures."""
    r = b.rng
    pick = r.random()
    if pick < 0.38:
        x, wide = r.uniform(-0.5, 0.5) * half, min(half * 0.45, r.uniform(0.4, 1.1))
        low, high = r.choice((0.05, 0.7, 0.9)), h - r.uniform(0.2, 0.7)
        opening(b, half=half, h=h, x=x, wide=wide, low=low, high=high, skin=skin)
        window(b, x=x, wide=wide, low=low, high=high, trim=trim)
    elif pick < 0.62:
        x, wide, high = r.uniform(-0.6, 0.6) * half, r.uniform(0.38, 0.6), r.uniform(1.95, 2.2)
        opening(b, half=half, h=h, x=x, wide=wide, low=0.0, high=high, skin=skin)
        door(b, x=x, wide=wide, high=high, trim=trim)
    else:
        b.box((0, 0.1, h / 2), (half + 0.2, 0.1, h / 2), skin)
        for _ in range(r.choice((0, 1, 1, 2, 4))):
            hang(b, x=r.uniform(-0.8, 0.8) * half, z=r.uniform(1.2, 1.9))
    if r.random() < 0.6:
        b.box((0, -0.01, 0.05), (half, 0.01, 0.05), trim)


def furnish(b: Builder, *, w: float, d: float) -> None:
    """Put furniture along the walls and in the middle, and clutter on the floor."""
    r = b.rng
    theme = r.choice(ARRANGEMENTS) if r.random() < 0.4 else None
    for k, (half, depth) in enumerate(((w, d), (d, w), (w, d), (d, w))):
        with b.at((0, 0, 0), k * math.pi / 2):
            if theme is not None and r.random() < 0.6:
                with b.at((r.uniform(-0.3, 0.3), depth, 0)):
                    theme(b, half * r.uniform(0.4, 0.75))
            else:
                along_wall(b, half=half, depth=depth)
    things = (table, table, chair, chair, sofa, *FURNITURE)
    for _ in range(int(r.choice((0, 1, 2, 3)) * w * d / 4)):
        with b.at((r.uniform(-w, w) * 0.6, r.uniform(-d, d) * 0.6, 0), r.uniform(0, 6.283)):
            r.choice(things)(b)
    for _ in range(r.choice((0, 0, 0, 0, 1, 2))):
        with b.at((r.uniform(-w, w) * 0.7, r.uniform(-d, d) * 0.7, 0), r.uniform(0, 6.283)):
            r.choice((person, person, animal))(b)
    if r.random() < 0.4:
        group(b, w=w, d=d)
    if r.random() < 0.4:
        turn = r.choice((0.0, 0.0, r.uniform(-0.5, 0.5)))
        rug = (r.uniform(0.6, 1.3), r.uniform(0.6, 1.3), 0.008)
        b.box((r.uniform(-0.5, 0.5), r.uniform(-0.5, 0.5), 0.005), rug, presets.carpet(b), turn=(turn, 0, 0))
    clutter(b, x=w, y=d, z=0, count=r.choice((0, 0, 2, 6)))


def along_wall(b: Builder, *, half: float, depth: float) -> None:
    """Put furniture side by side along a wall at y = depth."""
    r = b.rng
    x = -half + 0.5
    while x < half - 0.4:
        if r.random() < 0.85:
            with b.at((x, depth - 0.45, 0), r.gauss(0, 0.08)):
                r.choice(FURNITURE)(b)
        x += r.uniform(0.7, 1.6)


def group(b: Builder, *, w: float, d: float) -> None:
    """Put a table with chairs around it somewhere in the middle."""
    r = b.rng
    with b.at((r.uniform(-w, w) * 0.4, r.uniform(-d, d) * 0.4, 0), r.uniform(0, 3.1)):
        table(b)
        for k in range(4):
            if r.random() < 0.8:
                with (
                    b.at((0, 0, 0), k * math.pi / 2),
                    b.at((r.uniform(-0.2, 0.2), r.uniform(0.6, 1.0), 0), 0.2 * r.random()),
                ):
                    chair(b)


def light(b: Builder, *, w: float, d: float, h: float) -> None:
    """Set lamps, a sun through the windows, and the light that the walls throw back."""
    r = b.rng
    warm = hsv(r.gauss(0.1, 0.03), r.choice((0.05, 0.15, 0.4)), 1.0)
    power = r.uniform(1.0, 3.0) * max(1.0, w * d / 6)
    if r.random() < 0.4:
        toward = (r.uniform(-1, 1), r.uniform(-1, 1), r.uniform(0.25, 0.9))
        b.sun(toward, times(hsv(0.11, 0.15, 1.0), r.uniform(1.5, 6.0)))
    place = (r.uniform(-0.6, 0.6) * w, r.uniform(-0.6, 0.6) * d, h * r.uniform(0.75, 0.97))
    b.lamp(place, times(warm, power), r.choice((0.05, 0.2, 0.6)))
    if r.random() < 0.5:
        glow = b.material(mat.PLAIN, warm, emission=3.0)
        s = r.uniform(0.05, 0.25)
        if r.random() < 0.5:
            b.solid(1, place, (s, s, s * r.uniform(0.3, 1.0)), m=glow, shadow=False)
            b.solid(
                0,
                (place[0], place[1], (place[2] + h) / 2),
                (0.006, 0.006, (h - place[2]) / 2),
                m=glow,
                shadow=False,
            )
        else:
            b.solid(0, (place[0], place[1], h - 0.01), (s * 1.5, s, 0.015), m=glow, shadow=False)
    fill = r.uniform(0.15, 0.7)
    b.env[E_UP : E_UP + 3] = [fill * c for c in warm]
    b.env[E_DOWN : E_DOWN + 3] = [fill * r.uniform(0.4, 0.9) * c for c in warm]
    b.env[E_ZENITH : E_ZENITH + 3] = [0.6 * c for c in warm]
    b.env[E_HORIZON : E_HORIZON + 3] = [0.5 * c for c in warm]
    b.env[E_REACH] = r.uniform(0.6, 1.6)


def stand(b: Builder, *, w: float, d: float, h: float) -> View:
    """Choose a camera in the room: from a corner, across, along a wall, high, low, or at a thing close by."""
    r = b.rng
    place = (
        r.uniform(-0.85, 0.85) * w,
        r.uniform(-0.85, 0.85) * d,
        min(h - 0.3, max(0.4, r.gauss(1.35, 0.3))),
    )
    target = (r.uniform(-1, 1) * w, r.uniform(-1, 1) * d, r.uniform(0.1, 1.2))
    if r.random() < 0.6:  # stand back against a wall and look across
        place = (place[0], -0.9 * d * (1 if target[1] > 0 else -1), place[2])
    yaw, pitch = look(place, target)
    pitch = max(-55.0, min(35.0, pitch * r.uniform(0.5, 1.0) + r.gauss(0, r.choice((3, 3, 10)))))
    soft = r.random() < 0.15
    return View(
        place,
        yaw,
        pitch,
        r.gauss(0, r.choice((1.0, 1.0, 5.0, 15.0))),
        r.choice((r.uniform(50, 72), r.uniform(35, 100))),
        clearance=0.3,
        variety=r.choice((6, 14, 25)),
        focus=r.uniform(0.8, 4.0) if soft else None,
        aperture=r.uniform(3, 20) if soft else 0.0,
    )
