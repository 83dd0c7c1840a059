"""Open country: meadows, hills, mountains, water, woods, monuments."""

from synthetic import materials as mat
from synthetic import outdoor_materials as outdoor
from synthetic.animals import animal
from synthetic.builder import Builder, hsv
from synthetic.fields import COBBLES, HILLS, MOUNTAINS, ROUGH
from synthetic.figures import person, statue
from synthetic.monuments import MONUMENTS
from synthetic.outdoors import building, fence
from synthetic.plants import bush, tree, tuft
from synthetic.views import View
from synthetic.weather import daylight


def build_landscape(b: Builder) -> list[View]:
    """Build open country and stand in it, on the ground or on a height."""
    r = b.rng
    daylight(b, fog=0.0012)
    meadow = r.choice((outdoor.grass, outdoor.grass, outdoor.stone))(b)
    b.box((0, 200, -0.5), (3000, 3000, 0.5), meadow, shadow=False)
    rolling(b, meadow=meadow)
    if r.random() < 0.4:
        water(b)
    mountains(b)
    groves(b)
    rocks(b)
    works(b)
    high = r.choice((r.uniform(1.2, 1.8), r.uniform(1.2, 1.8), r.uniform(3, 20)))
    return [stand(b, high=high) for _ in range(5)]


def stand(b: Builder, *, high: float) -> View:
    """Choose a camera that looks over the country."""
    r = b.rng
    yaw, pitch = r.gauss(0, 30), r.gauss(-1, 5) - (7 if high > 3 else 0)
    return View((0, 0, high), yaw, pitch, r.gauss(0, 2), r.uniform(35, 80), clearance=0.8, variety=10)


def works(b: Builder) -> None:
    """Put grass tufts, people, animals, houses, monuments and fences into the country."""
    r = b.rng
    leaf = outdoor.leaves(b)
    for _ in range(r.choice((0, 6, 15))):
        with b.at((r.gauss(0, 2), r.uniform(1, 6), 0)):
            tuft(b, blades=6, height=r.uniform(0.1, 0.6), leaf=leaf)
    for thing in r.choices((person, animal, statue, bush), k=r.choice((0, 0, 1, 3))):
        with b.at((r.uniform(-5, 5), r.uniform(4, 20), 0), r.uniform(0, 6)):
            thing(b)
    if r.random() < 0.3:
        with b.at((r.uniform(-20, 20), r.uniform(15, 60), 0), r.uniform(-0.6, 0.6)):
            building(b, wide=r.uniform(8, 30), deep=10, near=True)
    if r.random() < 0.4:
        with b.at((r.uniform(-12, 12), r.uniform(12, 45), 0), r.uniform(-0.7, 0.7)):
            r.choice(MONUMENTS)(b)
    if r.random() < 0.2:
        with b.at((0, r.uniform(4, 12), 0), r.gauss(0, 0.4)):
            fence(b, length=40)


def groves(b: Builder) -> None:
    """Plant single trees and bushes, and groves of them."""
    r = b.rng
    for _ in range(r.randint(1, 4)):
        y, spread = 5 + 110 * r.random() ** 2, r.uniform(2, 14)
        x = r.uniform(-0.9, 0.9) * (y + 3)
        for _ in range(r.choice((1, 4, 9))):
            with b.at(
                (x + r.gauss(0, spread), y + r.gauss(0, spread), 0),
                r.uniform(0, 6),
                scale=r.uniform(0.6, 1.3),
            ):
                r.choice((tree, tree, bush))(b)


def water(b: Builder) -> None:
    """Lay a lake or a river."""
    r = b.rng
    skin = b.material(
        mat.FABRIC,
        hsv(0.55, 0.4, 0.25),
        hsv(0.5, 0.4, 0.35),
        scale=0.5,
        mirror=0.9,
        specular=1.0,
        gloss=60,
        bump=0.08,
        mottle=0.1,
    )
    y = r.uniform(8, 60)
    x = r.uniform(-30, 30)
    b.rod((x, y * 2, -0.4), (x, y * 2, 0.05), y * 1.6, skin, flat=r.uniform(0.4, 1.2))


def rolling(b: Builder, *, meadow: int) -> None:
    """Make the near ground uneven, and raise hills and slopes in the middle distance."""
    r = b.rng
    tall = r.choice((0.15, 0.4, 1.2))
    b.relief(
        (0, 30, 0.0),
        (45, 45, tall),
        meadow,
        fields=(*HILLS, *ROUGH),
        span=r.choice((-1.0, -0.5)),
        shadow=False,
    )
    for _ in range(r.choice((0, 1, 2))):
        y = r.uniform(40, 160)
        cover = meadow if r.random() < 0.5 else outdoor.leaves(b)
        kind = r.choice((HILLS, ROUGH, COBBLES))
        b.relief(
            (r.uniform(-0.8, 0.8) * y, y, 0),
            (y * r.uniform(0.4, 1), y * r.uniform(0.3, 0.6), y * r.uniform(0.05, 0.35)),
            cover,
            fields=kind,
            span=-r.uniform(0.4, 1),
            turn=(r.uniform(-0.5, 0.5), 0, 0),
            shadow=False,
        )


def mountains(b: Builder) -> None:
    """Raise far hills and peaks."""
    r = b.rng
    for far in r.sample((200.0, 350.0, 650.0), r.randint(0, 2)):
        stone = r.choice((outdoor.leaves, outdoor.stone, outdoor.grass))(b)
        tall = far * r.uniform(0.06, 0.3)
        for x in (-0.6, 0.6):
            place = (far * (x + r.uniform(-0.3, 0.3)), far * r.uniform(0.9, 1.2), tall * 0.6)
            half = (far * r.uniform(0.6, 1.1), far * r.uniform(0.25, 0.4), tall)
            b.relief(
                place,
                half,
                stone,
                fields=r.choice((MOUNTAINS, MOUNTAINS, HILLS)),
                span=-r.uniform(0.4, 1.0),
                turn=(r.uniform(-0.4, 0.4), 0, 0),
                shadow=False,
            )


def rocks(b: Builder) -> None:
    """Scatter boulders."""
    r = b.rng
    stone = outdoor.stone(b)
    for _ in range(r.choice((0, 0, 5, 15))):
        y = 2 + 30 * r.random() ** 2
        s = r.uniform(0.1, 1.5)
        b.puff(
            (r.uniform(-1, 1) * (y + 2), y, s * 0.2),
            (s, s * r.uniform(0.6, 1.2), s * r.uniform(0.4, 0.9)),
            stone,
            turn=(r.uniform(0, 6), r.uniform(-0.5, 0.5), r.uniform(-0.5, 0.5)),
        )
