"""Daylight: sky, sun, clouds and haze of a time of day and a weather."""

import math

from synthetic.builder import Builder, hsv, times
from synthetic.sky import (
    E_CLOUD,
    E_CLOUD_SCALE,
    E_DOWN,
    E_FOG,
    E_FOG_COLOR,
    E_GROUND,
    E_HORIZON,
    E_REACH,
    E_SEED,
    E_SUN,
    E_SUN_GLOW,
    E_UP,
    E_ZENITH,
)


def daylight(b: Builder, *, fog: float = 0.0) -> None:
    """Set sky, sun and haze: clear, cloudy, evening or overcast; fog is the usual haze per meter."""
    r = b.rng
    pick = r.random()
    overcast, evening = pick < 0.25, 0.25 <= pick < 0.34
    if overcast:
        zenith, horizon = hsv(0.6, 0.05, r.uniform(0.75, 0.97)), hsv(0.6, 0.03, r.uniform(0.88, 1.0))
        power, up = r.uniform(0.0, 0.4), r.uniform(0.3, 1.3)
    elif evening:
        zenith, horizon = hsv(0.6, 0.5, r.uniform(0.3, 0.7)), hsv(r.uniform(0.03, 0.12), 0.5, 0.95)
        power, up = r.uniform(0.4, 1.4), r.uniform(0.1, 0.35)
    else:
        zenith = hsv(r.gauss(0.6, 0.02), r.uniform(0.3, 0.75), r.uniform(0.6, 0.95))
        horizon = hsv(0.58, r.uniform(0.05, 0.3), 0.97)
        power, up = r.uniform(0.8, 2.4), r.uniform(0.3, 1.3)
    a = r.gauss(-1.571, 0.9) if r.random() < 0.6 else r.uniform(0, 6.283)  # mostly from behind the camera
    n = math.sqrt(1 + up * up)
    sun = (math.cos(a) / n, math.sin(a) / n, up / n)
    b.sun(sun, times(hsv(0.1, 0.45 if evening else 0.12, 1.0), power), radius=0.02)
    env, fill = b.env, r.uniform(0.8, 1.8)
    env[E_ZENITH : E_ZENITH + 3], env[E_HORIZON : E_HORIZON + 3] = zenith, horizon
    env[E_UP : E_UP + 3] = [fill * (0.6 * z + 0.4 * h) for z, h in zip(zenith, horizon, strict=True)]
    env[E_DOWN : E_DOWN + 3] = times(hsv(0.1, 0.2, 0.8), fill * 0.35)
    env[E_FOG] = fog * r.choice((0.2, 0.6, 1.0, 3.0))
    env[E_FOG_COLOR : E_FOG_COLOR + 3] = [0.5 * h + 0.2 * z for z, h in zip(zenith, horizon, strict=True)]
    env[E_GROUND : E_GROUND + 3] = times(horizon, 0.5)
    env[E_REACH] = r.uniform(1.5, 4.0)
    env[E_SUN : E_SUN + 3] = sun
    env[E_SUN_GLOW] = 0.0 if overcast else 1.0
    env[E_CLOUD], env[E_CLOUD_SCALE] = (
        r.choice((0.0, r.uniform(0.3, 0.6), r.uniform(0.4, 0.9))),
        r.uniform(0.3, 1.2),
    )
    env[E_SEED] = r.randrange(10000)
