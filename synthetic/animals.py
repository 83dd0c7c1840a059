"""Four-legged animals from rounded cones, nose towards -y, on z = 0."""

from itertools import pairwise

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic.builder import Builder, hsv


def animal(b: Builder) -> None:
    """Build a dog, cat, cow, horse or tiger of 0.6 to 1.6 m by its proportions, standing or lying."""
    r = b.rng
    coat = coat_material(b)
    under = coat if r.random() < 0.5 else coat_material(b)
    length, girth = r.uniform(0.5, 1.0), r.uniform(0.14, 0.24)
    leg = 0.0 if r.random() < 0.3 else r.uniform(0.25, 0.6)
    back = leg + girth
    start, end = (0, length * 0.4, back), (0, -length * 0.35, back + r.uniform(-0.03, 0.06))
    belly = girth * r.uniform(0.85, 1.05)
    b.limb(start, end, belly, coat, tip=girth * r.uniform(0.9, 1.15), flat=r.uniform(0.75, 1.0))
    for y in (0.38 * length, -0.36 * length):
        for x in (-girth, girth):
            if leg == 0.0:
                folded_leg(b, x=x, y=y, girth=girth, coat=coat, under=under)
            else:
                standing_leg(b, x=x, y=y, leg=leg, coat=coat, under=under)
    skull = (r.uniform(-0.15, 0.15), -length * 0.45 - r.uniform(0.05, 0.3), back + r.uniform(0.1, 0.45))
    b.limb((0, -length * 0.36, back + girth * 0.2), skull, girth * 0.7, coat, tip=girth * 0.5)
    with b.at(skull, r.gauss(0, 0.6), pitch=r.gauss(-0.05, 0.2)):
        muzzle(b, s=girth * r.uniform(0.6, 0.85), coat=coat, under=under, dark=presets.plain_dark(b))
    tail = [(0.0, length * 0.4 + girth * 0.7, back + girth * 0.3)]
    for _ in range(3):
        px, py, pz = tail[-1]
        tail.append(
            (px + r.uniform(-0.1, 0.1), py + r.uniform(0, 0.14), max(0.05, pz + r.uniform(-0.15, 0.1)))
        )
    for p, q in pairwise(tail):
        b.limb(p, q, girth * 0.16, coat, tip=girth * 0.13)


def folded_leg(b: Builder, *, x: float, y: float, girth: float, coat: int, under: int) -> None:
    """Build the leg of a lying animal; x is the girth to its side."""
    b.limb((x * 0.8, y, girth * 0.7), (x * 1.3, y - 0.12, 0.09), 0.09, coat)
    b.limb((x * 1.3, y - 0.1, 0.07), (x * 1.1, y - 0.38, 0.05), 0.055, under)


def standing_leg(b: Builder, *, x: float, y: float, leg: float, coat: int, under: int) -> None:
    """Build the leg of a standing animal; x is the girth to its side."""
    girth = abs(x)
    foot = (x * 0.75, y + b.rng.uniform(-0.1, 0.1), 0.03)
    knee = (x * 0.72, (y + foot[1]) / 2 + (0.06 if y > 0 else -0.06), leg * 0.55)
    b.limb((x * 0.65, y, leg + girth * 0.8), knee, girth * 0.42, coat, tip=girth * 0.26)
    b.limb(knee, foot, girth * 0.26, under, tip=girth * 0.2)
    b.ball((foot[0], foot[1] - 0.03, 0.025), (girth * 0.26, girth * 0.34, 0.035), under)


def coat_material(b: Builder) -> int:
    """Return fur: plain, spotted or striped."""
    r = b.rng
    hue = r.gauss(0.08, 0.02)
    first = hsv(hue, r.choice((0.05, 0.3, 0.6)), r.choice((0.1, 0.4, 0.7, 0.95)))
    second = hsv(hue, r.uniform(0.1, 0.5), r.choice((0.05, 0.2, 0.9)))
    return b.material(
        mat.COAT,
        first,
        second,
        first,
        scale=r.uniform(2, 9),
        contrast=r.choice((0.1, 0.2, 1.0)),
        bump=0.3,
        aspect=r.choice((1.0, 0.2, 3.0)),
    )


def muzzle(b: Builder, *, s: float, coat: int, under: int, dark: int) -> None:
    """Build an animal's head of radius s at the origin."""
    r = b.rng
    nose = r.uniform(0.5, 1.5)
    b.ball((0, 0, 0), (s, s * 1.05, s * 0.95), coat)
    b.limb(
        (0, -s * 0.5, -s * 0.2),
        (0, -s * (0.9 + nose * 0.6), -s * 0.35),
        s * 0.6,
        under,
        tip=s * r.uniform(0.3, 0.5),
    )
    tip = -s * (0.9 + nose * 0.6) - s * 0.35
    b.ball((0, tip, -s * 0.22), (s * 0.17, s * 0.12, s * 0.12), dark)
    pointed = r.random() < 0.6
    for x in (-1, 1):
        b.ball((x * s * 0.42, -s * 0.85, s * 0.22), (s * 0.13, s * 0.1, s * 0.13), dark)
        if pointed:
            b.rod(
                (x * s * 0.6, 0.1 * s, s * 0.6),
                (x * s * 0.8, 0.15 * s, s * 1.45),
                s * 0.35,
                coat,
                tip=0.03 * s,
                flat=0.5,
            )
        else:
            b.ball((x * s * 1.0, 0, s * 0.25), (s * 0.2, s * 0.38, s * 0.65), under, turn=(0, 0, x * 0.4))
