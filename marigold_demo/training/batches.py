"""Batches by number, cropped and disturbed as other cameras would: the same number gives the same batch.

So a run that was interrupted goes on with the pictures it would have seen.
"""

import io
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from marigold_demo.training import Pictures
from marigold_demo.training.data import FolderSource, Mixture, Sample, Source

Light = NDArray[np.float32]
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
SMALLEST_CROP = 0.6
LARGEST_STEP = 1.1  # ratio of the depths of neighbors that are still one surface
QUANTILES = (0.02, 0.98)  # of depth, which go to -1 and 1


def crop_and_resize(sample: Sample, *, size: tuple[int, int], rng: np.random.Generator) -> Sample:
    """Cut a random box of the wanted shape out of a sample, resize it and mirror half of them.

    Args:
        sample: Of any size.
        size: Width and height in pixels.
        rng: Random generator.
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
    height, width = sample.depth.shape
    columns = _centers(box[0], box[2], size[0])[::step]
    rows = _centers(box[1], box[3], size[1])
    grid = np.ix_(_nearest(rows, height), _nearest(columns, width))
    return Sample(
        photo=np.ascontiguousarray(np.asarray(photo)[:, ::step]),
        depth=_depth_between(sample, rows, columns, nearest=grid),
        valid=sample.valid[grid],
        sky=sample.sky[grid],
    )


def _centers(start: float, end: float, count: int) -> NDArray[np.float64]:
    """Return where the centers of `count` pixels from start to end lie: 0 is the center of the first one."""
    return start + (np.arange(count) + 0.5) * (end - start) / count - 0.5


def _nearest(places: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    return np.clip(np.floor(places + 0.5).astype(np.intp), 0, count - 1)


def _depth_between(
    sample: Sample, rows: NDArray[np.float64], columns: NDArray[np.float64], *, nearest: Any
) -> NDArray[np.float32]:
    """Interpolate depth at places [rows, columns] within a surface; at a jump take the nearest pixel's."""
    height, width = sample.depth.shape
    top, left = (
        np.clip(np.floor(x).astype(np.intp), 0, n - 1) for x, n in ((rows, height), (columns, width))
    )
    down, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    v = np.clip(rows - top, 0, 1).astype(np.float32)[:, None]
    u = np.clip(columns - left, 0, 1).astype(np.float32)[None]
    corners = [np.ix_(y, x) for y in (top, down) for x in (left, right)]
    a, b, c, d = (sample.depth[corner] for corner in corners)  # each [rows, columns]
    known = np.logical_and.reduce([sample.valid[corner] for corner in corners])
    smallest = np.minimum(np.minimum(a, b), np.minimum(c, d))
    is_surface = known & (np.maximum(np.maximum(a, b), np.maximum(c, d)) < LARGEST_STEP * smallest)
    between: NDArray[np.float32] = (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d)
    return np.where(is_surface, between, sample.depth[nearest])


def whole_picture(sample: Sample, *, size: tuple[int, int], smooth: bool, rng: np.random.Generator) -> Sample:
    """Resize a whole sample and mirror half of them: depth by nearest pixels, the photo so or smoothly."""
    mirror = rng.random() < 0.5
    step = -1 if mirror else 1
    height, width = sample.depth.shape
    columns = _nearest(_centers(0, width, size[0])[::step], width)
    grid = np.ix_(_nearest(_centers(0, height, size[1]), height), columns)
    photo = sample.photo[grid]
    if smooth:
        resized = Image.fromarray(sample.photo).resize(size, Image.Resampling.BILINEAR)
        photo = np.ascontiguousarray(np.asarray(resized)[:, ::step])
    return Sample(photo=photo, depth=sample.depth[grid], valid=sample.valid[grid], sky=sample.sky[grid])


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
    gray = light @ LUMA  # [H, W]
    saturation = 0.0 if rng.random() < 0.08 else rng.uniform(0.5, 1.5)
    light = np.asarray(gray[..., None] + np.float32(saturation) * (light - gray[..., None]), np.float32)
    light = light * rng.uniform(0.85, 1.18, size=3).astype(np.float32)
    mean = np.float32(light.mean())
    light = mean + np.float32(rng.uniform(0.7, 1.35)) * (light - mean)
    light = np.clip(light * np.float32(rng.uniform(0.7, 1.3)), 0, 1)
    return np.power(light, np.float32(rng.uniform(0.7, 1.45)))


def _jpeg(picture: Image.Image, *, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def normalize_depth(sample: Sample) -> NDArray[np.float32]:
    """Map depth to [-1, 1], its 2 % and 98 % quantiles to the ends (Ke et al. 2024, eq. (5)).

    Sky becomes 1. Unknown pixels become the mean of the known ones, so that the VAE has something to encode.

    Returns:
        float32 [H, W] in [-1, 1]; zeros where nothing is known.
    """
    known = sample.depth[sample.valid]
    if not known.size:
        return np.where(sample.sky, np.float32(1), np.float32(0))
    near, far = np.quantile(known, QUANTILES)
    scale = 2 / max(float(far - near), 1e-6 * max(abs(float(far)), 1e-6))
    normal = np.clip((sample.depth - np.float32(near)) * np.float32(scale) - 1, -1, 1)  # [H, W]
    normal = np.where(sample.valid, normal, normal[sample.valid].mean())
    return np.where(sample.sky, 1, normal).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Batch:
    """Photos with depth.

    Attributes:
        photo: float32 [B, 3, PH, PW] in [-1, 1].
        normal_depth: float32 [B, 1, PH, PW] in [-1, 1], sky 1.
        depth: float32 [B, 1, PH, PW] > 0 in the source's unit.
        valid: bool [B, 1, PH, PW]; never sky.
        sky: bool [B, 1, PH, PW].
    """

    photo: Tensor
    normal_depth: Tensor
    depth: Tensor
    valid: Tensor
    sky: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on a device."""
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True)
class BatchPlan:
    """How batches are made.

    Attributes:
        data: The sources.
        size: Pictures in a batch.
        shapes: Widths and heights; each batch has one of them.
        fresh: Share of a batch taken from endless sources that was never seen before.
        seed: Start of all random numbers.
        augment: Whether photos are disturbed.
        pictures: Random crops, or whole pictures of one source in each batch (see TrainSettings).
    """

    data: Mixture
    size: int
    shapes: tuple[tuple[int, int], ...]
    fresh: float
    seed: int
    augment: bool = True
    pictures: Pictures = "crops"


def make_batch(plan: BatchPlan, number: int) -> Batch:
    """Make batch `number` of a plan."""
    rng = np.random.default_rng((plan.seed, number))
    shape = plan.shapes[int(rng.integers(len(plan.shapes)))]
    samples = []
    if plan.pictures != "crops":
        source, smooth = plan.data.sources[plan.data.choose(rng)], plan.pictures == "smooth"
        shape = getattr(source, "whole", None) or shape
        for place in range(plan.size):
            sample = _pick(plan, source, number * plan.size + place, rng=rng)
            sample = whole_picture(sample, size=shape, smooth=smooth, rng=rng)
            samples.append((sample.photo, sample))
        return _stack(samples)
    for place in range(plan.size):
        source = plan.data.sources[plan.data.choose(rng)]
        sample = _pick(plan, source, number * plan.size + place, rng=rng)
        sample = crop_and_resize(sample, size=shape, rng=rng)
        samples.append((disturb(sample.photo, rng=rng) if plan.augment else sample.photo, sample))
    return _stack(samples)


def _pick(plan: BatchPlan, source: Source, number: int, *, rng: np.random.Generator) -> Sample:
    """Take a sample: of a folder each once before any twice, of an endless source a new one or one met."""
    if isinstance(source, FolderSource):
        return source.draw(number, seed=plan.seed, rng=rng)
    newest = int(number * plan.fresh)
    is_new = int((number + 1) * plan.fresh) > newest or newest == 0
    return source.read(newest if is_new else int(rng.integers(newest)))


def _stack(samples: list[tuple[NDArray[Any], Sample]]) -> Batch:
    photos = np.stack([photo for photo, _ in samples])  # [B, PH, PW, 3]
    return Batch(
        photo=torch.from_numpy(photos).permute(0, 3, 1, 2).float().div(127.5).sub(1),
        normal_depth=_plane([normalize_depth(sample) for _, sample in samples]),
        depth=_plane([sample.depth for _, sample in samples]),
        valid=_plane([sample.valid for _, sample in samples]),
        sky=_plane([sample.sky for _, sample in samples]),
    )


def _plane(maps: list[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(maps)).unsqueeze(1)  # [B, 1, PH, PW]


def batches_from(plan: BatchPlan, numbers: Iterator[int], *, workers: int) -> Generator[Batch, None, None]:
    """Yield the batches of these numbers, prepared ahead on threads; close it to stop them."""
    with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
        waiting = deque(pool.submit(make_batch, plan, number) for number in islice(numbers, 2 * workers + 2))
        try:
            while waiting:
                done = waiting.popleft()
                waiting.extend(pool.submit(make_batch, plan, number) for number in islice(numbers, 1))
                yield done.result()
        finally:
            for future in waiting:
                future.cancel()
