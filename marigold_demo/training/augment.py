"""Change samples as cameras do: crop, mirror, light, color, blur, noise, JPEG. Knows nothing of tensors."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from marigold_demo.training.sample import Sample

Light = NDArray[np.float32]
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
SMALLEST_CROP = 0.6


def crop_and_resize(sample: Sample, *, size: tuple[int, int], rng: np.random.Generator) -> Sample:
    """Cut a random box of the wanted shape out of a sample, resize it and mirror half of them.

    Args:
        sample: Of any size.
        size: Width and height in pixels.
        rng: Source of the chances.
    """
    height, width = sample.depth.shape
    largest = min(width / size[0], height / size[1])
    share = largest * rng.uniform(SMALLEST_CROP, 1.0)
    box_width, box_height = size[0] * share, size[1] * share
    left, top = rng.uniform(0, width - box_width), rng.uniform(0, height - box_height)
    return _cut(sample, (left, top, left + box_width, top + box_height), size=size, mirror=rng.random() < 0.5)


def _cut(
    sample: Sample, box: tuple[float, float, float, float], *, size: tuple[int, int], mirror: bool
) -> Sample:
    step = -1 if mirror else 1
    photo = Image.fromarray(sample.photo).resize(size, Image.Resampling.BICUBIC, box=box)
    columns = np.clip(
        np.linspace(box[0], box[2], size[0], endpoint=False).astype(int), 0, sample.depth.shape[1] - 1
    )
    rows = np.clip(
        np.linspace(box[1], box[3], size[1], endpoint=False).astype(int), 0, sample.depth.shape[0] - 1
    )
    grid = np.ix_(rows, columns[::step])
    return Sample(
        photo=np.ascontiguousarray(np.asarray(photo)[:, ::step]),
        depth=sample.depth[grid],
        valid=sample.valid[grid],
        sky=sample.sky[grid],
    )


def disturb(photo: NDArray[np.uint8], *, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change light, color and sharpness of a photo [H, W, 3] as other cameras and hours would."""
    light: Light = photo.astype(np.float32) / np.float32(255)  # [H, W, 3]
    light = _expose(light, rng=rng)
    if rng.random() < 0.3:
        light = light + rng.normal(0, rng.uniform(0.005, 0.05), size=light.shape).astype(np.float32)
    picture = Image.fromarray(np.round(np.clip(light, 0, 1) * 255).astype(np.uint8))
    if rng.random() < 0.25:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.4)))
    if rng.random() < 0.3:
        picture = _jpeg(picture, quality=int(rng.integers(25, 90)))
    return np.asarray(picture)


def _expose(light: Light, *, rng: np.random.Generator) -> Light:
    """Change white balance, saturation, contrast, brightness and gamma of light [H, W, 3] in 0..1."""
    grey = light @ LUMA  # [H, W]
    saturation = 0.0 if rng.random() < 0.08 else rng.uniform(0.5, 1.5)
    light = np.asarray(grey[..., None] + np.float32(saturation) * (light - grey[..., None]), np.float32)
    light = light * rng.uniform(0.85, 1.18, size=3).astype(np.float32)
    mean = np.float32(light.mean())
    light = mean + np.float32(rng.uniform(0.7, 1.35)) * (light - mean)
    light = np.clip(light * np.float32(rng.uniform(0.7, 1.3)), 0, 1)
    return np.power(light, np.float32(rng.uniform(0.7, 1.45)))


def _jpeg(picture: Image.Image, *, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
