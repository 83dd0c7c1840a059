"""People, busts and statues from rounded cones, facing -y, on z = 0."""

import math

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic import outdoor_materials as outdoor
from synthetic.animals import animal
from synthetic.builder import Builder, hsv, times


def hair_material(b: Builder) -> int:
    """Return hair: black, brown, blond, gray or red."""
    r = b.rng
    v = r.choice((0.06, 0.12, 0.25, 0.5, 0.7))
    c = hsv(r.gauss(0.08, 0.02), r.uniform(0.1, 0.6), v)
    return b.material(
        mat.WOOD,
        c,
        times(c, 0.5),
        scale=8,
        contrast=0,
        specular=0.3,
        gloss=10,
        angle=1.5708,
        bump=0.2,
    )


def head(b: Builder, *, skin: int, hair: int | None) -> None:
    """Build a head of 0.24 m with its chin near z = 0."""
    r = b.rng
    dark = presets.plain_dark(b)
    b.ball((0, 0, 0.14), (0.075, 0.095, 0.115), skin)
    b.ball((0, -0.03, 0.06), (0.055, 0.065, 0.06), skin)
    b.limb((0, -0.09, 0.13), (0, -0.105, 0.1), 0.01, skin, tip=0.016)
    b.limb((-0.02, -0.088, 0.055), (0.02, -0.088, 0.055), 0.008, b.plain(hsv(0.0, 0.5, r.uniform(0.3, 0.7))))
    white = presets.plain_white(b)
    for x in (-1, 1):
        b.ball((x * 0.03, -0.082, 0.145), (0.014, 0.01, 0.009), white)
        b.ball((x * 0.03, -0.09, 0.145), (0.007, 0.005, 0.007), dark)
        b.ball((x * 0.078, 0.0, 0.13), (0.012, 0.022, 0.033), skin)
        b.limb((x * 0.018, -0.086, 0.168), (x * 0.045, -0.078, 0.168), 0.005, dark if hair is None else hair)
    if hair is None:
        return
    pick = r.random()
    b.ball((0, 0.02, 0.175), (0.088, 0.098, 0.09), hair)
    if pick < 0.4:
        b.limb((0, 0.05, 0.16), (0, 0.06, -0.02 - 0.15 * r.random()), 0.085, hair, tip=0.07)
        for x in (-1, 1):
            b.limb((x * 0.07, 0.01, 0.17), (x * 0.075, 0.0, -0.05), 0.03, hair, tip=0.02)
    elif pick < 0.6:
        hat = presets.cloth(b, vivid=0.8)
        b.ball((0, 0.0, 0.19), (0.095, 0.11, 0.085), hat)
        b.rod((0, -0.03, 0.185), (0, -0.03, 0.2), r.choice((0.1, 0.18)), hat)
    elif pick < 0.85:
        for _ in range(8):
            a = r.uniform(0, 6.283)
            b.ball(
                (0.06 * math.cos(a), 0.02 + 0.06 * math.sin(a), 0.2 + r.uniform(0, 0.05)),
                (0.045, 0.045, 0.04),
                hair,
            )


def person(b: Builder, *, seated: bool = False) -> None:
    """Build a person of about 1.7 m, standing, walking or seated (hips at 0.45 m)."""
    r = b.rng
    skin, top, legs = presets.skin(b), presets.cloth(b, vivid=0.7), presets.cloth(b, vivid=0.3)
    shoes = presets.plain_dark(b)
    child = r.random() < 0.12
    with b.at((0, 0, 0), scale=0.65 if child else r.uniform(0.92, 1.06)):
        hip = 0.5 if seated else 0.95
        wide = r.uniform(0.9, 1.3)
        lean = r.uniform(-0.1, 0.06)
        neck = (0, lean, hip + 0.55)
        b.limb((0, 0, hip + 0.02), (0, lean * 0.6, hip + 0.3), 0.13 * wide, top, tip=0.15 * wide, flat=0.7)
        b.limb((0, lean * 0.6, hip + 0.3), (0, lean, hip + 0.42), 0.15 * wide, top, tip=0.12 * wide, flat=0.8)
        b.limb((-0.13 * wide, lean, hip + 0.46), (0.13 * wide, lean, hip + 0.46), 0.07, top)
        b.limb((0, lean, hip + 0.45), neck, 0.06, skin)
        stride = r.uniform(0, 0.3)
        skirt = r.random() < 0.15 and not seated
        if skirt:
            b.rod((0, 0, hip + 0.1), (0, 0, r.uniform(0.3, 0.6)), 0.13, top, tip=0.28)
        for x, swing in ((-1, stride), (1, -stride)):
            hip_at = (x * 0.09 * wide, 0.0, hip)
            if seated:
                knee = (x * r.uniform(0.1, 0.2), -0.42, hip + 0.03)
                foot = (knee[0], -0.42 + r.uniform(-0.2, 0.15), 0.06)
            else:
                knee = (x * 0.1, -swing * 0.5 - 0.03, 0.5)
                foot = (x * 0.1, -swing + 0.05 * abs(swing), 0.07)
            b.limb(hip_at, knee, 0.09 * wide, skin if skirt else legs, tip=0.06)
            b.limb(knee, foot, 0.06, skin if skirt else legs, tip=0.045)
            b.limb((foot[0], foot[1] + 0.03, 0.04), (foot[0], foot[1] - 0.14, 0.035), 0.045, shoes, tip=0.035)
            arm(b, x=x * 0.17 * wide, y=lean, z=hip + 0.46, top=top, skin=skin)
        with b.at(
            (0, lean - 0.01, hip + 0.57), r.gauss(0, 0.4), pitch=r.gauss(0, 0.15), roll=r.gauss(0, 0.1)
        ):
            head(b, skin=skin, hair=hair_material(b) if r.random() < 0.93 else None)
        if r.random() < 0.15 and not seated:
            b.puff((0, 0.2, hip + 0.28), (0.15, 0.1, 0.22), presets.cloth(b, vivid=0.9))


def arm(b: Builder, *, x: float, y: float, z: float, top: int, skin: int) -> None:
    """Build an arm from the shoulder, at rest, bent or raised."""
    r = b.rng
    side = 1 if x > 0 else -1
    a, bend = r.choice((r.uniform(-0.3, 0.3), r.uniform(-0.3, 0.3), r.uniform(0.3, 2.8))), r.uniform(0.0, 1.8)
    out = r.uniform(0.05, 0.5)
    elbow = (
        x + side * 0.28 * math.sin(out) * 0.6,
        y - 0.28 * math.sin(a),
        z - 0.28 * math.cos(a) * math.cos(out),
    )
    hand = (
        elbow[0] - side * 0.1 * bend * r.random(),
        elbow[1] - 0.25 * math.sin(a + bend),
        elbow[2] - 0.25 * math.cos(a + bend),
    )
    b.limb((x, y, z), elbow, 0.055, top, tip=0.045)
    b.limb(elbow, hand, 0.044, top if r.random() < 0.6 else skin, tip=0.032)
    b.ball((hand[0], hand[1] - 0.03 * math.sin(a + bend), hand[2] - 0.04), (0.035, 0.045, 0.055), skin)


def statue(b: Builder) -> None:
    """Build a figure or an animal of one stone or metal on a plinth."""
    r = b.rng
    first = len(b.rows)
    h = r.choice((0.0, 0.3, 1.0))
    with b.at((0, 0, h)):
        pick = r.random()
        if pick < 0.45:
            person(b, seated=r.random() < 0.4)
        elif pick < 0.7:
            animal(b)
        else:
            bust(b)
    skin = outdoor.stone(b) if r.random() < 0.7 else presets.metal(b)
    for k in range(first, len(b.rows)):
        row = list(b.rows[k])
        row[2] = skin
        b.rows[k] = tuple(row)
    if h > 0:
        b.box((0, 0, h / 2), (0.35, 0.35, h / 2), outdoor.stone(b))
        b.box((0, 0, h - 0.04), (0.4, 0.4, 0.04), skin)


def bust(b: Builder) -> None:
    """Build a head with shoulders whose middle is at z = 0.45."""
    r = b.rng
    skin, top = presets.skin(b), presets.cloth(b, vivid=0.7)
    wide = r.uniform(0.9, 1.2)
    b.limb((0, 0.02, -0.2), (0, 0, 0.22), 0.19 * wide, top, tip=0.16 * wide, flat=0.7)
    b.limb((-0.17 * wide, 0.02, 0.22), (0.17 * wide, 0.02, 0.22), 0.09, top)
    for x in (-1, 1):
        b.limb(
            (x * 0.24 * wide, 0.03, 0.2), (x * 0.3 * wide, r.uniform(-0.2, 0.05), -0.15), 0.08, top, tip=0.06
        )
    b.limb((0, 0, 0.25), (0, -0.01, 0.4), 0.062, skin)
    with b.at((0, -0.01, 0.36), r.gauss(0, 0.5), pitch=r.gauss(0, 0.15), roll=r.gauss(0, 0.12)):
        head(b, skin=skin, hair=hair_material(b) if r.random() < 0.93 else None)
