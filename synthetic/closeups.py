"""One subject close to the camera before a far background, as phones take them."""

import math
from collections.abc import Callable

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic import outdoor_materials as outdoor
from synthetic.animals import animal
from synthetic.builder import Builder, hsv
from synthetic.fields import COBBLES, ROUGH
from synthetic.figures import bust, person, statue
from synthetic.furniture import FURNITURE, chair, sofa
from synthetic.monuments import playground, rotunda, temple
from synthetic.objects import (
    board,
    bottle,
    bowl,
    clutter,
    contraption,
    fruit,
    mug,
    teddy,
    vase_of_flowers,
)
from synthetic.outdoors import building, fence
from synthetic.plants import bush, flower, hedge, tree, tuft
from synthetic.rooms import light, shell
from synthetic.vehicles import car, two_wheeler
from synthetic.views import View, look
from synthetic.weather import daylight


def seated_person(b: Builder) -> None:
    """Build a person on a seat."""
    b.puff((0, 0.1, 0.22), (0.3, 0.3, 0.22), presets.cloth(b), hard=True)
    person(b, seated=True)


def flowers(b: Builder) -> None:
    """Build blossoms and leaves on stems, one of them in front."""
    r = b.rng
    leaf, size = outdoor.leaves(b), r.uniform(0.03, 0.07)
    for k in range(r.randint(1, 9)):
        x, y, z = (
            (0.0, 0.0, 0.3) if k == 0 else (r.gauss(0, 0.14), r.uniform(-0.05, 0.6), 0.3 + r.gauss(0, 0.09))
        )
        with b.at((x, y, z), r.gauss(0, 0.5), pitch=r.gauss(0.3, 0.4)):
            flower(b, size=size)
        b.rod((x, y + 0.02, z), (x + r.gauss(0, 0.03), y + 0.05, 0), 0.003, leaf)
    for _ in range(6):
        with b.at((r.gauss(0, 0.3), r.uniform(0, 0.7), 0)):
            tuft(b, blades=7, height=r.uniform(0.15, 0.4), leaf=leaf)


def bike(b: Builder) -> None:
    """Build a bicycle or motorcycle, seen from the side."""
    with b.at((0, 0, 0), 1.571):
        two_wheeler(b, body=presets.metal(b), tyre=presets.plain_dark(b))


def heap(b: Builder) -> None:
    """Build a pile of one kind of fruit or pebbles filling the picture."""
    r = b.rng
    hue, s, tall = r.random(), r.uniform(0.03, 0.06), r.uniform(0.8, 1.6)
    skin = b.material(
        mat.FABRIC,
        hsv(hue, r.uniform(0.2, 0.9), 0.7),
        hsv(hue + 0.04, 0.7, 0.5),
        scale=30,
        specular=0.4,
        gloss=30,
        bump=0.1,
    )
    slope = r.uniform(0.2, 1.2)
    b.box(
        (0, 3 * s, 3 * s * slope - s),
        (9 * s, 8 * s, 0.3 * s),
        outdoor.stone(b),
        turn=(0, math.atan(slope), 0),
    )
    for _ in range(90):
        x, y = r.uniform(-6, 6) * s, r.uniform(-2, 9) * s
        place, half = (x, y, y * slope + s * r.uniform(0, 1.2)), (s, s * r.uniform(0.9, 1.1), s * tall)
        b.ball(place, half, skin, turn=(r.uniform(0, 6.3), r.uniform(-1.5, 1.5), 0))


# Weight, subject, height of its middle, distance at which it fills the picture at 55 degrees.
SUBJECTS: tuple[tuple[float, Callable[[Builder], None], float, float], ...] = (
    (3.0, bust, 0.2, 1.1),
    (2.5, person, 0.95, 2.6),
    (1.2, seated_person, 0.6, 2.0),
    (3.5, animal, 0.4, 1.6),
    (1.6, statue, 0.7, 2.2),
    (1.8, flowers, 0.28, 0.45),
    (0.7, heap, 0.12, 0.5),
    (0.7, fruit, 0.05, 0.3),
    (0.8, mug, 0.05, 0.28),
    (0.8, bottle, 0.12, 0.5),
    (0.8, vase_of_flowers, 0.2, 0.7),
    (0.7, teddy, 0.18, 0.6),
    (0.6, bowl, 0.05, 0.4),
    (0.7, bush, 0.5, 2.0),
    (0.7, car, 0.7, 4.5),
    (0.9, bike, 0.6, 1.9),
    (1.0, contraption, 0.08, 0.35),
    (1.0, board, 0.03, 0.4),
    (1.0, playground, 1.0, 3.0),
    (0.5, rotunda, 4.0, 26.0),
    (0.6, temple, 3.0, 14.0),
    (1.0, chair, 0.5, 1.4),
    (0.7, sofa, 0.5, 2.2),
)


def build_closeup(b: Builder) -> list[View]:
    """Build a subject at the origin with something far behind it."""
    r = b.rng
    _, subject, middle, reach = r.choices(SUBJECTS, [s[0] for s in SUBJECTS])[0]
    small = reach < 0.8 and subject is not flowers
    turned = r.gauss(0, 0.7) if r.random() < 0.6 else r.uniform(0, 6.283)
    with b.at((0, 0, 0), turned):
        subject(b)
    lift = 0.0
    if small or (subject is bust):
        lift = support(b, small=small)
    for _ in range(r.choice((0, 0, 1, 3))):
        with b.at((r.gauss(0, 1.2) * reach, r.uniform(0.3, 2.5) * reach, 0), r.uniform(0, 6.3)):
            subject(b)
    if r.random() < (0.55 if reach < 2.5 else 0.0):
        indoors(b, floor=-lift, reach=reach)
    else:
        outside(b, floor=-lift)
    return [frame(b, middle=middle, reach=reach, floor=-lift) for _ in range(4)]


def support(b: Builder, *, small: bool) -> float:
    """Build the table or nothing below the subject, and return its height."""
    r = b.rng
    if not small:
        b.limb((0, 0, -1.0), (0, 0.02, -0.2), 0.19, presets.cloth(b))
        return 1.15
    top = r.choice((presets.wood, presets.wood, outdoor.stone, presets.cloth, presets.plain_white))(b)
    w, d = r.uniform(0.4, 1.2), r.uniform(0.3, 0.8)
    b.box((0, d * 0.4, -0.02), (w, d, 0.02), top)
    clutter(b, x=w, y=d, z=0, count=r.choice((0, 1, 4)))
    return r.choice((0.45, 0.75, 0.9))


def indoors(b: Builder, *, floor: float, reach: float) -> None:
    """Put a furnished room around the subject, the camera inside."""
    r = b.rng
    w, d, h = r.uniform(1.6, 4), r.uniform(1.0, 4), r.uniform(2.4, 3.2)
    behind = 3.0 * reach + 0.5
    with b.at((0, 0, floor), r.gauss(0, 0.35)), b.at((r.uniform(-1, 1), (2 * d + reach - behind) / 2, 0)):
        shell(b, w=w + reach, d=d + (reach + behind) / 2, h=h)
        light(b, w=w, d=d, h=h)
    with b.at((0, 0, floor), r.gauss(0, 0.2)):
        for _ in range(r.choice((0, 2, 5, 9))):
            with b.at((r.uniform(-w, w), reach * 0.7 + 0.5 + r.uniform(0, 2 * d), 0), r.gauss(0, 0.7)):
                r.choice((*FURNITURE, person))(b)


def outside(b: Builder, *, floor: float) -> None:
    """Put a garden, a park, a street or a bare wall behind the subject."""
    r = b.rng
    daylight(b, fog=0.004)
    with b.at((0, 0, floor)):
        b.box(
            (0, 100, -0.5),
            (400, 400, 0.5),
            r.choice((outdoor.grass, outdoor.grass, outdoor.stone))(b),
            shadow=False,
        )
        pick, far = r.random(), r.choice((1.5, 3.0, 6.0, 15.0)) * r.uniform(0.8, 1.6)
        if pick < 0.2:
            with b.at((0, far, 0), r.gauss(0, 0.3)):
                building(b, wide=far * 3 + 8, deep=8, near=True)
        elif pick < 0.3:
            with b.at((0, far * 0.6, 0), r.gauss(0, 0.3)):
                hedge(b, length=far * 3 + 5, height=r.uniform(1, 3))
        elif pick < 0.4:
            with b.at((0, far * 0.6, 0), r.gauss(0, 0.3)):
                fence(b, length=far * 3 + 5)
        for _ in range(r.randint(3, 22)):
            y = far * r.uniform(0.9, 3.5)
            with b.at((r.uniform(-1, 1) * (y + 3), y, 0), r.uniform(0, 6)):
                r.choice((tree, tree, bush, bush, person, car))(b)
        if r.random() < 0.4:
            greens = outdoor.leaves(b)
            for _ in range(5):
                b.relief(
                    (r.gauss(0, 1) * far, far * r.uniform(1.5, 4), 0),
                    (far * 2, far * 0.3, far * r.uniform(0.3, 1.5)),
                    greens,
                    fields=(*COBBLES, *ROUGH),
                    span=-0.8,
                    shadow=False,
                )
        if r.random() < 0.3:
            b.relief(
                (0, 4, 0),
                (9, 9, r.choice((0.1, 0.3))),
                outdoor.grass(b),
                fields=ROUGH,
                span=-0.8,
                shadow=False,
            )


def frame(b: Builder, *, middle: float, reach: float, floor: float) -> View:
    """Choose a camera so near that the subject fills a fifth of the picture or more."""
    r = b.rng
    fov = r.uniform(35, 75)
    far = reach * r.uniform(0.75, 1.9) * 27.0 / fov * 2.0**0.3
    tilt = math.radians(r.choice((r.gauss(5, 8), r.gauss(5, 8), r.gauss(35, 15))))
    a = r.gauss(0, 0.35)
    eye = (
        far * math.cos(tilt) * math.sin(a),
        -far * math.cos(tilt) * math.cos(a),
        middle + far * math.sin(tilt),
    )
    eye = (eye[0], eye[1], max(eye[2], floor + 0.1))
    yaw, pitch = look(eye, (0, 0, middle))
    blur = r.random() < 0.5
    return View(
        eye,
        yaw + r.gauss(0, 0.16) * fov,
        pitch + r.gauss(0.05, 0.12) * fov,
        r.gauss(0, 4),
        fov,
        clearance=0.35 * far,
        focus=far if blur else None,
        aperture=r.uniform(4, 30) * far if blur else 0.0,
    )
