"""Small photographic pictures for wallpapers, rugs, posters and bark.

They come from scikit-image (public domain and CC0) when it is installed; else noise stands in.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = 256
NAMES = (
    "brick.png",
    "grass.png",
    "gravel.png",
    "coffee.png",
    "rocket.jpg",
    "retina.jpg",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "coins.png",
    "page.png",
    "camera.png",
    "text.png",
    "color.png",
)
GROUND = (0, 1, 2)
GRAY = (0, 1, 2, 8, 9, 10, 11)


@lru_cache(maxsize=1)
def load_pictures() -> NDArray[np.float32]:
    """Return the pictures, linear, 0..1, [T, 256, 256, 3]."""
    spec = find_spec("skimage")
    folder = Path(spec.origin).parent / "data" if spec and spec.origin else None
    found = []
    for index, name in enumerate(NAMES):
        path = folder / name if folder else None
        rgb = _read(path) if path and path.is_file() else _clouds(index)
        found.append((rgb.astype(np.float32) / 255.0) ** 2.2)
    pictures = np.stack(found)  # [T, 256, 256, 3]
    pictures.setflags(write=False)
    return pictures


def _read(path: Path) -> NDArray[np.uint8]:
    """Return the middle square of a picture file as [256, 256, 3]."""
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    return np.asarray(
        rgb.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BOX)
    )


def _clouds(seed: int) -> NDArray[np.uint8]:
    """Return smooth color noise [256, 256, 3]."""
    rng = np.random.default_rng(seed)
    total = np.zeros((SIZE, SIZE, 3))
    for octave in (4, 16, 64, 256):
        noise = rng.integers(0, 256, (octave, octave, 3)).astype(np.uint8)
        total += np.asarray(Image.fromarray(noise).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return (total / 4).astype(np.uint8)
