"""Batches by number: the same number gives the same batch, so that a run can go on where it stopped.

Knows nothing of networks.
"""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marigold_demo.training.augment import crop_and_resize, disturb
from marigold_demo.training.data import Mixture
from marigold_demo.training.sample import Sample, normalise_depth


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
class Recipe:
    """How batches are made.

    Attributes:
        data: The sources.
        size: Pictures in a batch.
        shapes: Widths and heights; each batch has one of them.
        fresh: Share of a batch taken from endless sources that was never seen before.
        seed: Start of all chances.
        augment: Whether photos are disturbed.
    """

    data: Mixture
    size: int
    shapes: tuple[tuple[int, int], ...]
    fresh: float
    seed: int
    augment: bool = True


def make_batch(recipe: Recipe, number: int) -> Batch:
    """Make batch `number` of a recipe."""
    rng = np.random.default_rng((recipe.seed, number))
    shape = recipe.shapes[int(rng.integers(len(recipe.shapes)))]
    samples = []
    for place in range(recipe.size):
        sample = _pick(recipe, number * recipe.size + place, rng=rng)
        sample = crop_and_resize(sample, size=shape, rng=rng)
        samples.append((disturb(sample.photo, rng=rng) if recipe.augment else sample.photo, sample))
    return _stack(samples)


def _pick(recipe: Recipe, number: int, *, rng: np.random.Generator) -> Sample:
    """Take a sample: from a folder any, from an endless source a new one or one met before."""
    source = recipe.data.sources[recipe.data.choose(rng)]
    if source.count is not None:
        return source.read(int(rng.integers(source.count)))
    newest = int(number * recipe.fresh)
    is_new = int((number + 1) * recipe.fresh) > newest or newest == 0
    return source.read(newest if is_new else int(rng.integers(newest)))


def _stack(samples: list[tuple[NDArray[Any], Sample]]) -> Batch:
    photos = np.stack([photo for photo, _ in samples])  # [B, PH, PW, 3]
    return Batch(
        photo=torch.from_numpy(photos).permute(0, 3, 1, 2).float().div(127.5).sub(1),
        normal_depth=_plane([normalise_depth(sample) for _, sample in samples]),
        depth=_plane([sample.depth for _, sample in samples]),
        valid=_plane([sample.valid for _, sample in samples]),
        sky=_plane([sample.sky for _, sample in samples]),
    )


def _plane(maps: list[NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.stack(maps)).unsqueeze(1)  # [B, 1, PH, PW]


def batches_from(recipe: Recipe, numbers: Iterator[int], *, workers: int) -> Generator[Batch, None, None]:
    """Yield the batches of these numbers, prepared ahead on threads; close it to stop them."""
    with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
        waiting = deque(
            pool.submit(make_batch, recipe, number) for number in islice(numbers, 2 * workers + 2)
        )
        try:
            while waiting:
                done = waiting.popleft()
                waiting.extend(pool.submit(make_batch, recipe, number) for number in islice(numbers, 1))
                yield done.result()
        finally:
            for future in waiting:
                future.cancel()
