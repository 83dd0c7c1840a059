"""Streets, squares, yards and roads, seen from a car or by hand."""

import math

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic import outdoor_materials as outdoor
from synthetic.animals import animal
from synthetic.builder import Builder, hsv
from synthetic.fields import COBBLES, HILLS
from synthetic.figures import person
from synthetic.monuments import MONUMENTS
from synthetic.outdoors import bench, building, fence, pole
from synthetic.plants import bush, hedge, tree
from synthetic.vehicles import car
from synthetic.views import View
from synthetic.weather import daylight


def build_street(b: Builder) -> list[View]:
    """Build a street along +y and stand in it."""
    r = b.rng
    daylight(b, fog=0.004)
    lane = r.uniform(2.6, 3.6)
    half = lane * r.choice((1, 1, 1, 1.5, 2))
    ground(b)
    road(b, half=half, lane=lane)
    pave = r.uniform(1.2, 4.0) if r.random() < 0.8 else 0.3
    for side in (-1, 1):
        edge(b, side=side, half=half, pave=pave)
    traffic(b, half=half, lane=lane)
    across(b, half=half)
    return [stand(b, half=half, pave=pave, lane=lane) for _ in range(4)]


def ground(b: Builder) -> None:
    """Lay the ground: outdoor.grass, earth or stone to the horizon."""
    r = b.rng
    b.box(
        (0, 200, -0.57),
        (900, 900, 0.5),
        outdoor.grass(b) if r.random() < 0.6 else outdoor.stone(b),
        shadow=False,
    )


def road(b: Builder, *, half: float, lane: float) -> None:
    """Lay the road with its markings."""
    r = b.rng
    v, pick = r.uniform(0.2, 0.6), r.random()
    if pick < 0.75:
        tar, patch = hsv(r.choice((0.1, 0.6)), 0.05, v), hsv(0.1, 0.05, v * 0.75)
        wet = r.choice((0.0, 0.0, 0.25))
        scale = r.uniform(0.2, 1)
        skin = b.material(
            mat.ASPHALT, tar, patch, scale=scale, mottle=0.4, mirror=wet, specular=0.15, gloss=10
        )
    elif pick < 0.9:
        first, second, joint = hsv(0.08, 0.1, v), hsv(0.08, 0.1, v * 1.3), hsv(0.1, 0.1, v * 0.5)
        scale, aspect = r.uniform(4, 8), r.choice((1.0, 2.0))
        skin = b.material(mat.TILES, first, second, joint, scale=scale, aspect=aspect, mottle=0.4)
    else:
        skin = presets.picture(b, choices=(2,), tint=hsv(0.08, 0.3, 0.6), size=2.0)
    b.box((0, 150, -0.56), (half, 400, 0.5), skin, shadow=False)
    if pick < 0.85:
        markings(b, half=half, lane=lane)


def markings(b: Builder, *, half: float, lane: float) -> None:
    """Paint lane lines, edge lines, a crossing and arrows."""
    r = b.rng
    fresh, worn = hsv(0.13, r.choice((0.02, 0.02, 0.6)), 0.9), hsv(0.1, 0.1, 0.6)
    line = b.material(mat.ASPHALT, fresh, worn, scale=2.0, contrast=2.0)
    z, lanes = -0.0595, max(1, round(2 * half / lane))
    for k in range(1, lanes):
        x = -half + 2 * half * k / lanes
        if r.random() < 0.3:
            b.box((x, 100, z), (0.07, 300, 0.002), line, shadow=False)
            continue
        start = r.uniform(-6, 0)
        for j in range(14):
            b.box((x, start + 7.0 * j, z), (0.07, 1.6, 0.002), line, shadow=False)
    for x in (-half + 0.25, half - 0.25):
        if r.random() < 0.5:
            b.box((x, 100, z), (0.06, 300, 0.002), line, shadow=False)
    if r.random() < 0.25:
        y = r.uniform(5, 25)
        for k in range(int(2 * half)):
            b.box((-half + 0.6 + k, y, z + 0.001), (0.25, 1.5, 0.002), line, shadow=False)
    for k in range(r.choice((0, 0, 0, 0, 3))):
        with b.at((-half + lane * (r.randrange(lanes) + 0.5), r.uniform(6, 30) + 9 * k, z + 0.001)):
            b.box((0, 0, 0), (0.08, 1.2, 0.002), line, shadow=False)
            for s in (-1, 1):
                b.box((0.18 * s, 0.8, 0), (0.07, 0.4, 0.002), line, turn=(s * 0.6, 0, 0), shadow=False)


def edge(b: Builder, *, side: int, half: float, pave: float) -> None:
    """Build one side of the street: kerb, pavement, parked cars, trees, poles, fronts."""
    r = b.rng
    stone = outdoor.stone(b)
    b.box((side * (half + 0.1), 150, -0.5), (0.1, 400, 0.52), stone, shadow=False)
    skin = b.material(
        mat.TILES,
        hsv(r.gauss(0.1, 0.03), r.uniform(0, 0.2), r.uniform(0.35, 0.8)),
        hsv(0.09, 0.06, r.uniform(0.35, 0.8)),
        hsv(0, 0, 0.3),
        scale=r.uniform(1.5, 4),
        contrast=0.2,
        mottle=0.4,
    )
    b.box((side * (half + 0.2 + pave / 2), 150, -0.5), (pave / 2, 400, 0.51), skin, shadow=False)
    rows(b, side=side, half=half, pave=pave)
    back = half + pave + r.choice((0.3, 1.0, 4.0, 10.0))
    pick = r.random()
    if pick < 0.6:
        terrace(b, side=side, at=back)
    if pick > 0.5:
        greenery(b, side=side, at=back)
    if r.random() < 0.3:
        with b.at((side * (half + pave + 0.3), r.uniform(5, 30), 0), side * math.pi / 2):
            fence(b, length=r.uniform(5, 40))


def rows(b: Builder, *, side: int, half: float, pave: float) -> None:
    """Put parked cars at the kerb; trees, poles, people and benches on the pavement."""
    r = b.rng
    if r.random() < 0.6:
        y = r.uniform(-2, 8)
        while y < 60:
            if r.random() < 0.75:
                with b.at((side * (half - 1.1), y, -0.06), (0 if side < 0 else math.pi) + r.gauss(0, 0.03)):
                    car(b)
            y += r.uniform(5, 8)
    step = r.choice((7, 12, 20))
    if r.random() < 0.5:
        for k in range(5):
            with b.at(
                (side * (half + 0.8), r.uniform(2, 6) + step * k, 0),
                r.uniform(0, 6),
                scale=r.uniform(0.6, 1.0),
            ):
                tree(b, blobs=16)
    for k in range(r.randint(0, 4)):
        with b.at((side * (half + 0.4), r.uniform(3, 15) + step * k, 0), 0.0 if side > 0 else math.pi):
            pole(b)
    for _ in range(r.choice((0, 0, 1, 3, 6))):
        with b.at((side * (half + 0.4 + r.random() * pave), r.uniform(2, 25), 0), r.uniform(0, 6.283)):
            person(b)
    if r.random() < 0.15:
        with b.at((side * (half + pave - 0.4), r.uniform(3, 12), 0), -side * math.pi / 2):
            bench(b)


def terrace(b: Builder, *, side: int, at: float) -> None:
    """Build a row of buildings facing the street."""
    r = b.rng
    y = r.uniform(-12, 4)
    gap = r.choice((0.0, 0.0, 3.0, 8.0))
    while y < 120:
        wide = r.uniform(6, 22)
        with b.at((side * (at + r.uniform(0, 0.5)), y + wide / 2, 0), -side * math.pi / 2):
            building(b, wide=wide, deep=r.uniform(6, 14), near=y < 30)
        y += wide + gap * r.uniform(0.5, 2)


def greenery(b: Builder, *, side: int, at: float) -> None:
    """Plant trees, bushes and hedges beside the street."""
    r = b.rng
    for _ in range(r.randint(3, 14)):
        with b.at((side * (at + r.uniform(0.5, 14)), r.uniform(1, 70), 0), r.uniform(0, 6)):
            tree(b, blobs=r.randint(8, 22))
    for _ in range(r.randint(0, 8)):
        with b.at((side * (at + r.uniform(0, 3)), r.uniform(2, 30), 0)):
            bush(b)
    if r.random() < 0.35:
        with b.at((side * at, r.uniform(5, 30), 0), math.pi / 2):
            hedge(b, length=r.uniform(5, 40), height=r.uniform(0.6, 2.2))


def traffic(b: Builder, *, half: float, lane: float) -> None:
    """Put moving cars and people on the road."""
    r = b.rng
    lanes = max(1, round(2 * half / lane))
    for _ in range(r.choice((0, 1, 2, 4, 6))):
        k = r.randrange(lanes)
        x = -half + lane * (k + 0.5)
        with b.at(
            (x + r.gauss(0, 0.2), r.uniform(6, 60), -0.06),
            (0.0 if k < lanes / 2 else math.pi) + r.gauss(0, 0.05),
        ):
            car(b)
    if r.random() < 0.2:
        with b.at((r.uniform(-half, half), r.uniform(5, 25), -0.06), r.uniform(0, 6.3)):
            r.choice((person, person, animal))(b)


def across(b: Builder, *, half: float) -> None:
    """Close the far end with buildings, trees, a bridge or hills."""
    r = b.rng
    pick = r.random()
    y = r.uniform(35, 140)
    if pick < 0.35:
        with b.at((r.uniform(-8, 8), y, 0)):
            building(b, wide=r.uniform(14, 40), deep=12)
    elif pick < 0.6:
        for _ in range(8):
            with b.at((r.uniform(-30, 30), y + r.uniform(-15, 15), 0), scale=r.uniform(0.8, 1.5)):
                tree(b, blobs=10)
    elif pick < 0.64:
        with b.at((r.uniform(-10, 10), y * 0.7, 0)):
            r.choice(MONUMENTS)(b)
    elif pick < 0.72:
        stone = outdoor.stone(b)
        b.box((0, y, 6.0), (60, 3, 0.8), stone)
        for x in (-half - 2, half + 2):
            b.box((x, y, 3), (0.8, 0.8, 3), stone)
    if r.random() < 0.5:
        hill = outdoor.leaves(b)
        for x in (-250, 0, 250):
            b.relief(
                (x + r.uniform(-80, 80), r.uniform(300, 500), 0),
                (r.uniform(150, 300), 100, r.uniform(20, 70)),
                hill,
                fields=(*HILLS, *COBBLES),
                span=-r.uniform(0.5, 1),
                shadow=False,
            )


def stand(b: Builder, *, half: float, pave: float, lane: float) -> View:
    """Choose a camera: in a car, or by hand from the road or the pavement, looking along or across."""
    r = b.rng
    if r.random() < 0.55:
        x = -half + lane * (r.randrange(max(1, round(2 * half / lane))) + 0.5)
        yaw = r.choice((r.gauss(0, 3), r.gauss(0, 40)))
        return View(
            (x, 0.0, r.uniform(1.3, 1.9)),
            yaw,
            r.gauss(-1, 2.5),
            r.gauss(0, 1),
            r.uniform(55, 90),
            clearance=2.0,
            variety=12,
        )
    x = r.choice((-1, 1)) * (half + pave * r.random())
    place = (x, 0.0, r.choice((r.uniform(1.3, 1.75), r.uniform(0.4, 5.0))))
    yaw = r.gauss(25 if x > 0 else -25, 35)
    return View(place, yaw, r.gauss(3, 7), r.gauss(0, 3), r.uniform(40, 80), clearance=1.0, variety=12)
