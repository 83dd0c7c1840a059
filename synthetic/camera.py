"""From linear radiance to the file a camera would write: lens blur, exposure, tone, noise, sharpening, JPEG.

Knows depth only to blur by it; never changes it.
"""

import io
import math
import random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synthetic.compiled import compiled
from synthetic.noise import hash2
from synthetic.views import View


def photograph(
    image: NDArray[np.float32], depth: NDArray[np.float64], view: View, *, rng: random.Random
) -> NDArray[np.uint8]:
    """Return the photo [H, W, 3] that a camera makes of radiance [H, W, 3] and z-depth [H, W].

    Exposure, white balance, noise, sharpness and compression are drawn from rng.
    """
    width = image.shape[1]
    if view.focus is not None and view.aperture > 0.0:
        image = lens_blur(image, depth, view.focus, view.aperture * width / 1000.0, 0.028 * width)
    image = soften(image, rng.choice((-0.3, 0.0, 0.2, 0.4, 0.7, 1.0)))
    photo = develop(image, *develop_settings(image, rng))
    if rng.random() < 0.7:
        photo = compress(photo, quality=rng.randint(55, 96))
    return photo


class Film(NamedTuple):
    """How radiance becomes a picture: see `develop`."""

    gain: float
    vignette: float
    contrast: float
    gamma: float
    saturation: float
    read_noise: float
    shot_noise: float


def develop_settings(image: NDArray[np.float32], rng: random.Random) -> tuple[NDArray[np.float64], Film, int]:
    """Return white balance [3], film and noise seed, as an automatic camera might choose them."""
    middle, high = brightness(image)
    gain = 0.5 * rng.lognormvariate(0.0, 0.3) * (0.35 / (middle + 1e-4)) ** 0.6 * (0.8 / (high + 1e-4)) ** 0.4
    warmth, tint = rng.gauss(0.0, 0.08), rng.gauss(0.0, 0.03)
    noisy = rng.random() < 0.6
    film = Film(
        gain=gain,
        vignette=rng.choice((0.0, 0.05, 0.15, 0.4)) * rng.random(),
        contrast=rng.uniform(-0.2, 0.7),
        gamma=rng.uniform(1.9, 2.5),
        saturation=rng.uniform(0.7, 1.3),
        read_noise=rng.uniform(0.0, 0.012) if noisy else 0.0,
        shot_noise=rng.uniform(0.0, 0.06) if noisy else 0.002,
    )
    return np.array((1.0 + warmth, 1.0 + tint, 1.0 - warmth)), film, rng.getrandbits(30)


def compress(photo: NDArray[np.uint8], *, quality: int) -> NDArray[np.uint8]:
    """Return the photo [H, W, 3] as it comes back from a JPEG file."""
    data = io.BytesIO()
    Image.fromarray(photo).save(data, "JPEG", quality=quality)
    with Image.open(data) as picture:
        return np.asarray(picture)


@compiled
def lens_blur(
    image: NDArray[np.float32], depth: NDArray[np.float64], focus: float, strength: float, limit: float
) -> NDArray[np.float32]:
    """Return radiance [H, W, 3] blurred by a disc of |1/depth - 1/focus| * strength pixels, at most limit.

    What is sharp in front does not bleed into the blur behind it.
    """
    height, width = depth.shape
    result = np.empty_like(image)
    for y in range(height):
        for x in range(width):
            own = min(limit, abs(1.0 / depth[y, x] - 1.0 / focus) * strength)
            r, g, b, total = image[y, x, 0] * 1.0, image[y, x, 1] * 1.0, image[y, x, 2] * 1.0, 1.0
            turn = 6.2832 * hash2(x, y, 5)
            reach = max(own, min(limit, own + 2.5))
            taps = min(28, int(7.0 + 2.5 * reach)) if reach > 0.6 else 0
            for k in range(taps):
                q = reach * math.sqrt((k + 0.5) / taps)
                j = int(y + 0.5 + q * math.sin(turn + 2.39996 * k))
                i = int(x + 0.5 + q * math.cos(turn + 2.39996 * k))
                if j < 0 or i < 0 or j >= height or i >= width:
                    continue
                other = min(limit, abs(1.0 / depth[j, i] - 1.0 / focus) * strength)
                if depth[j, i] > depth[y, x]:
                    other = min(other, own)
                weight = min(1.0, max(0.0, other - q + 0.4))
                r, g, b = (
                    r + weight * image[j, i, 0],
                    g + weight * image[j, i, 1],
                    b + weight * image[j, i, 2],
                )
                total += weight
            result[y, x, 0], result[y, x, 1], result[y, x, 2] = r / total, g / total, b / total
    return result


@compiled
def soften(image: NDArray[np.float32], amount: float) -> NDArray[np.float32]:
    """Return the image [H, W, 3] blended with its 3x3 binomial blur by amount 0..1 (negative sharpens)."""
    height, width = image.shape[0], image.shape[1]
    result = np.empty_like(image)
    for y in range(height):
        up, down = max(0, y - 1), min(height - 1, y + 1)
        for x in range(width):
            left, right = max(0, x - 1), min(width - 1, x + 1)
            for c in range(3):
                blur = 0.25 * image[y, x, c]
                blur += 0.125 * (image[up, x, c] + image[down, x, c] + image[y, left, c] + image[y, right, c])
                blur += 0.0625 * (
                    image[up, left, c] + image[up, right, c] + image[down, left, c] + image[down, right, c]
                )
                result[y, x, c] = image[y, x, c] * (1.0 - amount) + blur * amount
    return result


def brightness(image: NDArray[np.float32]) -> tuple[float, float]:
    """Return the middle and the 90 % quantile of luminance over every fourth row and column."""
    values = np.sort((image[::4, ::4] @ np.array((0.3, 0.6, 0.1), np.float32)).ravel())
    return float(values[values.size // 2]), float(values[int(values.size * 0.9)])


@compiled
def develop(
    image: NDArray[np.float32], white: NDArray[np.float64], film: Film, seed: int
) -> NDArray[np.uint8]:
    """Return the picture uint8 [H, W, 3] of radiance [H, W, 3] with white balance [3]."""
    height, width = image.shape[0], image.shape[1]
    result = np.empty((height, width, 3), np.uint8)
    curve = film_curve(film.gamma)
    rgb = np.empty(3)
    for y in range(height):
        for x in range(width):
            du, dv = 2.0 * x / width - 1.0, 2.0 * y / height - 1.0
            fall = film.gain / (1.0 + film.vignette * (du * du + dv * dv))
            common = hash2(x, y, seed) - 0.5
            for c in range(3):
                value = max(0.0, image[y, x, c] * fall * white[c])
                grain = common + hash2(x, y, seed + 1 + c) - 0.5
                value += grain * (film.read_noise + film.shot_noise * math.sqrt(value))
                place = min(1023.0, max(0.0, value * 512.0))
                k = int(place)
                rgb[c] = curve[k] + (place - k) * (curve[k + 1] - curve[k])
            gray = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]
            for c in range(3):
                value = gray + film.saturation * (rgb[c] - gray)
                value += film.contrast * (value - 0.5) * value * (1.0 - value) * 4.0
                result[y, x, c] = int(255.0 * min(1.0, max(0.0, value)) + 0.5)
    return result


@compiled
def film_curve(gamma: float) -> NDArray[np.float64]:
    """Return gamma with rolled-off highlights for exposures of 0 to 2, [1025]."""
    curve = np.empty(1025)
    for k in range(1025):
        value = k / 512.0
        value = value if value < 0.6 else 0.6 + 0.4 * (1.0 - math.exp(-(value - 0.6) / 0.4))
        curve[k] = value ** (1.0 / gamma)
    return curve
