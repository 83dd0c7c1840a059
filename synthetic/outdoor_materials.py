"""Materials of the open air: leaves, grass, stone, earth."""

from synthetic import material_presets as presets
from synthetic import materials as mat
from synthetic.builder import Builder, hsv, times


def leaves(b: Builder) -> int:
    """Return foliage."""
    r = b.rng
    hue = r.choice((r.gauss(0.26, 0.04), r.gauss(0.26, 0.04), r.gauss(0.12, 0.05)))
    v = r.uniform(0.25, 0.7)
    return b.material(
        mat.FOLIAGE,
        hsv(hue, r.uniform(0.4, 0.8), v * 0.5),
        hsv(hue - 0.03, r.uniform(0.4, 0.8), v),
        hsv(hue + 0.02, 0.6, v * 0.5),
        scale=r.uniform(3, 8),
        bump=0.5,
    )


def stone(b: Builder) -> int:
    """Return rock, concrete or plaster."""
    r = b.rng
    c = hsv(r.choice((r.gauss(0.09, 0.03), 0.6)), r.uniform(0.0, 0.3), r.uniform(0.3, 0.9))
    return b.material(
        r.choice((mat.PLAIN, mat.ASPHALT, mat.MARBLE, mat.FABRIC)),
        c,
        times(c, 0.7),
        scale=r.uniform(2, 8),
        bump=r.uniform(0, 0.4),
        mottle=0.6,
        contrast=0.3,
    )


def grass(b: Builder) -> int:
    """Return a lawn or meadow."""
    r = b.rng
    if r.random() < 0.4:
        return presets.picture(
            b,
            choices=(1,),
            tint=hsv(r.gauss(0.24, 0.04), r.uniform(0.3, 0.8), r.uniform(0.4, 0.9)),
            size=r.uniform(0.7, 3.0),
        )
    hue = r.gauss(0.22, 0.05)
    return b.material(
        mat.FOLIAGE,
        hsv(hue, 0.6, 0.35),
        hsv(hue, 0.6, 0.6),
        hsv(hue - 0.08, 0.5, 0.5),
        scale=r.uniform(1.5, 5),
        bump=0.3,
        mottle=0.5,
    )


def bark(b: Builder) -> int:
    """Return tree bark."""
    r = b.rng
    c = hsv(r.gauss(0.08, 0.02), r.uniform(0.1, 0.5), r.uniform(0.15, 0.6))
    return b.material(mat.FABRIC, c, times(c, 0.4), scale=9, bump=0.4, mottle=0.6)
