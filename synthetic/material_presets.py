"""Chance choices of materials as they occur in homes and streets: walls, woods, cloths, metals, leaves."""

from synthetic import materials as mat
from synthetic.builder import Builder, Color, hsv, times
from synthetic.pictures import GRAY, GROUND, NAMES


def any_color(b: Builder, *, vivid: float = 0.5) -> Color:
    """Return a random color; vivid 0 is grayish."""
    r = b.rng
    return hsv(r.random(), min(1.0, r.betavariate(1.2, 1.8) * (0.2 + vivid)), r.uniform(0.15, 0.95))


def calm_color(b: Builder, *, low: float = 0.5, high: float = 0.97) -> Color:
    """Return a wall-like color: light, warm or cool gray, or a pastel."""
    r = b.rng
    hue = r.choice((r.gauss(0.1, 0.04), r.gauss(0.1, 0.04), r.gauss(0.58, 0.08), r.random()))
    return hsv(hue, r.choice((0.03, 0.08, 0.15, 0.35)) * r.uniform(0.5, 1.4), r.uniform(low, high))


def wall(b: Builder) -> int:
    """Return a wall material."""
    r = b.rng
    c, pick = calm_color(b), r.random()
    if pick < 0.74:
        return b.material(mat.PLAIN, c, mottle=r.uniform(0.0, 0.2), scale=2.0)
    if pick < 0.78:
        return b.material(mat.STRIPES, c, calm_color(b), scale=r.uniform(2, 9), aspect=r.uniform(0.3, 1.5))
    if pick < 0.81:
        return b.material(mat.DOTS, c, calm_color(b), any_color(b), scale=r.uniform(2, 8), mottle=0.05)
    if pick < 0.83:
        return b.material(mat.ORNATE, c, calm_color(b), any_color(b, vivid=0.2), scale=r.uniform(0.6, 2.5))
    if pick < 0.89:
        return brick(b)
    if pick < 0.95:
        return b.material(
            mat.TILES,
            c,
            calm_color(b),
            calm_color(b),
            scale=r.uniform(3, 9),
            aspect=r.choice((1, 1, 2)),
            specular=0.4,
            gloss=60,
            contrast=0.3,
        )
    return picture(b, choices=GROUND, tint=c, size=r.uniform(0.6, 3.0))


def brick(b: Builder) -> int:
    """Return bricks or blocks."""
    r = b.rng
    hue = r.gauss(0.04, 0.02)
    return b.material(
        mat.TILES,
        hsv(hue, r.uniform(0.1, 0.7), r.uniform(0.3, 0.8)),
        hsv(hue + 0.02, 0.5, r.uniform(0.2, 0.7)),
        hsv(0.1, 0.1, r.uniform(0.3, 0.8)),
        scale=r.choice((13.0, 12.0, 5.0)),
        aspect=r.uniform(2.0, 3.4),
        contrast=1.0,
        bump=0.1,
        mottle=0.4,
    )


def wood(b: Builder, *, dark: float | None = None) -> int:
    """Return a wood, from pale birch to nearly black."""
    r = b.rng
    v = r.uniform(0.15, 0.85) if dark is None else dark
    hue = r.gauss(0.075, 0.018)
    first = hsv(hue, r.uniform(0.3, 0.75), v)
    return b.material(
        mat.WOOD,
        first,
        hsv(hue - 0.01, r.uniform(0.4, 0.8), v * r.uniform(0.5, 0.9)),
        scale=r.uniform(1.5, 4.0),
        aspect=r.uniform(1.5, 5.0),
        contrast=r.choice((0.0, 0.0, 0.6)),
        specular=r.choice((0.0, 0.15, 0.5)),
        gloss=r.uniform(10, 80),
        mirror=r.choice((0.0, 0.0, 0.1)),
        angle=r.choice((0.0, 1.5708)),
    )


def floor(b: Builder) -> int:
    """Return an indoor floor."""
    r = b.rng
    pick = r.random()
    if pick < 0.35:
        return parquet(b)
    if pick < 0.6:
        return carpet(b)
    if pick < 0.8:
        return b.material(
            mat.TILES,
            calm_color(b, low=0.2),
            calm_color(b, low=0.2),
            calm_color(b, low=0.2),
            scale=r.uniform(1.2, 5),
            aspect=r.choice((1.0, 1.0, 2.0)),
            contrast=r.uniform(0, 0.8),
            specular=0.4,
            gloss=r.uniform(20, 120),
            mirror=r.choice((0.0, 0.2, 0.5)),
        )
    if pick < 0.9:
        c = calm_color(b, low=0.2, high=0.8)
        return b.material(mat.ASPHALT, c, times(c, 0.6), scale=1.0, mottle=0.5, mirror=r.choice((0, 0.2)))
    if pick < 0.95:
        return b.material(
            mat.CHECKER, calm_color(b), calm_color(b, low=0.05, high=0.4), scale=r.uniform(1.5, 5)
        )
    return b.material(
        mat.MARBLE, calm_color(b), calm_color(b, low=0.2), scale=r.uniform(0.5, 2), specular=0.5, gloss=80
    )


def parquet(b: Builder) -> int:
    """Return boards, dull or polished."""
    r = b.rng
    v, hue = r.uniform(0.25, 0.8), r.gauss(0.075, 0.02)
    return b.material(
        mat.WOOD,
        hsv(hue, r.uniform(0.3, 0.75), v),
        hsv(hue, r.uniform(0.3, 0.7), v * 0.7),
        scale=r.uniform(1, 2.5),
        aspect=r.uniform(3, 7),
        contrast=r.uniform(0.2, 0.8),
        specular=r.choice((0.0, 0.3, 0.8)),
        gloss=r.uniform(15, 120),
        mirror=r.choice((0.0, 0.15, 0.4)),
        angle=r.choice((0.0, 1.5708, 0.7)),
    )


def carpet(b: Builder) -> int:
    """Return a carpet or rug."""
    r = b.rng
    c, pick = any_color(b, vivid=r.choice((0.0, 0.1, 0.4))), r.random()
    if pick < 0.6:
        return b.material(mat.FABRIC, c, times(c, r.uniform(0.4, 1.0)), scale=r.uniform(1, 12))
    if pick < 0.8:
        return b.material(mat.ORNATE, c, any_color(b), any_color(b), scale=r.uniform(0.6, 3.0))
    return b.material(
        mat.STRIPES, c, any_color(b), any_color(b), scale=r.uniform(1, 8), aspect=r.uniform(0.4, 1.5)
    )


def cloth(b: Builder, *, vivid: float = 0.4) -> int:
    """Return upholstery, curtain or clothing material."""
    r = b.rng
    c, pick = any_color(b, vivid=vivid), r.random()
    if pick < 0.6:
        return b.material(mat.FABRIC, c, times(c, r.uniform(0.6, 1.0)), scale=r.uniform(3, 25), bump=0.05)
    if pick < 0.72:
        return b.material(
            mat.STRIPES,
            c,
            any_color(b),
            any_color(b),
            scale=r.uniform(4, 30),
            aspect=r.uniform(0.3, 1.6),
            angle=r.choice((0.0, 1.5708, 0.6)),
        )
    if pick < 0.84:
        return b.material(mat.DOTS, c, any_color(b), any_color(b), scale=r.uniform(4, 25))
    if pick < 0.92:
        return b.material(mat.ORNATE, c, any_color(b), any_color(b), scale=r.uniform(1, 6))
    return b.material(
        mat.PLAIN,
        hsv(r.gauss(0.06, 0.03), r.uniform(0.2, 0.8), r.uniform(0.1, 0.8)),
        specular=0.25,
        gloss=15,
        mottle=0.3,
    )


def metal(b: Builder) -> int:
    """Return a metal or lacquer."""
    r = b.rng
    v = r.choice((0.08, 0.3, 0.6, 0.85))
    return b.material(
        mat.PLAIN,
        hsv(r.random(), r.choice((0.0, 0.03, 0.1)), v),
        specular=r.uniform(0.3, 1.5),
        gloss=r.uniform(15, 120),
        mirror=r.choice((0.0, 0.3, 0.6)),
        mottle=0.05,
    )


def gloss(b: Builder, *, vivid: float = 0.8) -> int:
    """Return plastic, glazed ceramic or lacquer."""
    r = b.rng
    c = r.choice((any_color(b, vivid=vivid), calm_color(b, low=0.7)))
    if r.random() < 0.3:
        return b.material(
            r.choice((mat.STRIPES, mat.DOTS, mat.MARBLE, mat.ORNATE, mat.PRINT)),
            c,
            any_color(b),
            any_color(b),
            scale=r.uniform(8, 50),
            specular=r.uniform(0.2, 1.0),
            gloss=r.uniform(20, 150),
            angle=r.choice((0, 1.5708)),
        )
    return b.material(
        mat.PLAIN,
        c,
        specular=r.uniform(0.1, 1.2),
        gloss=r.uniform(15, 150),
        mirror=r.choice((0, 0, 0.2)),
        mottle=0.08,
    )


def skin(b: Builder) -> int:
    """Return human skin."""
    r = b.rng
    v = r.uniform(0.3, 0.95)
    return b.material(
        mat.PLAIN, hsv(r.gauss(0.055, 0.012), r.uniform(0.3, 0.6), v), specular=0.12, gloss=12, mottle=0.2
    )


def picture(
    b: Builder,
    *,
    choices: tuple[int, ...] = tuple(range(len(NAMES))),
    tint: Color | None = None,
    size: float = 1.0,
) -> int:
    """Return a photographic texture whose tile is `size` meters; a tint colors gray ones."""
    r = b.rng
    index = r.choice(choices)
    color = times(tint or any_color(b), 2.0)
    return b.material(
        mat.PICTURE,
        color,
        scale=1.0 / size,
        picture=index,
        contrast=1.0 if index in GRAY and tint else 0.5 * r.random(),
        aspect=r.uniform(0.8, 1.3),
        angle=r.choice((0.0, 0.0, 1.5708, 3.1416)),
        mottle=0.1,
    )


def artwork(b: Builder, *, size: float) -> int:
    """Return what hangs in frames and lies about printed: a picture, a pattern or text."""
    r = b.rng
    if r.random() < 0.5:
        return picture(b, size=size * r.uniform(0.5, 2.0))
    return b.material(
        r.choice((mat.PRINT, mat.MARBLE, mat.FABRIC, mat.DOTS, mat.ORNATE, mat.COAT)),
        any_color(b),
        any_color(b),
        any_color(b),
        scale=r.uniform(2, 8) / size,
        aspect=r.uniform(0.5, 1.5),
    )


def plain_white(b: Builder) -> int:
    """Return white lacquer."""
    return b.plain(hsv(b.rng.gauss(0.1, 0.05), 0.04, b.rng.uniform(0.7, 0.95)), specular=0.2, mottle=0.05)


def plain_dark(b: Builder) -> int:
    """Return black plastic."""
    return b.plain(hsv(b.rng.random(), 0.1, b.rng.uniform(0.03, 0.2)), specular=0.5, gloss=40, mottle=0.1)
