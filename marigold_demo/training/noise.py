"""Multi-resolution noise (Ke et al. 2024, section 3.3), white towards t = 0."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

STRENGTH = 0.9
MOST_LEVELS = 10


def multi_resolution_noise(
    like: Tensor, *, strength: Tensor | float = STRENGTH, generator: torch.Generator | None = None
) -> Tensor:
    """Draw noise [B, C, h, w] of unit variance with more low frequencies than white noise has.

    Args:
        like: A tensor of the shape wanted.
        strength: Weight of each coarser level relative to the one before, 0 (white) to 1; one number or [B].
        generator: Random generator.
    """
    batch, channels, height, width = like.shape
    power = torch.as_tensor(strength, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(batch, 1, 1, 1)
    noise = torch.zeros(batch, channels, height, width)
    variance = torch.zeros(batch, 1, 1, 1)
    for level in range(MOST_LEVELS):
        size = (max(1, height // 2**level), max(1, width // 2**level))
        coarse = torch.randn(batch, channels, *size, generator=generator)
        enlarged = functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
        weight = power**level
        noise += weight * enlarged
        variance += weight**2 * _variance_of_enlarged(size, (height, width))
        if min(size) == 1:
            break
    return (noise / variance.sqrt()).to(like.device)  # [B, C, h, w]


def _variance_of_enlarged(size: tuple[int, int], target: tuple[int, int]) -> float:
    """Return the mean variance of white noise of one size after bilinear enlargement to another."""
    return _line_variance(size[0], target[0]) * _line_variance(size[1], target[1])


def _line_variance(length: int, target: int) -> float:
    lines = torch.eye(length).unsqueeze(1)  # [length, 1, length], one unit impulse a row
    weights = functional.interpolate(
        lines, size=target, mode="linear", align_corners=False
    )  # [length, 1, target]
    return float(weights.square().sum(dim=0).mean())


def original_noise(
    like: Tensor, *, strength: Tensor | float = STRENGTH, generator: torch.Generator | None = None
) -> Tensor:
    """Draw noise as the released trainer of Marigold does ("original" strategy, Ke et al. 2024, section 3.3).

    Onto white noise comes one more level of full size, then levels that shrink by 2 to 4 (drawn anew) to the
    power of the level; the sum is divided by its standard deviation over the whole batch.

    Args:
        like: A tensor of the shape wanted [B, C, h, w].
        strength: Weight of each level relative to the one before; one number or [B].
        generator: Random generator.
    """
    batch, channels, height, width = like.shape
    power = torch.as_tensor(strength, dtype=torch.float32).reshape(-1, 1, 1, 1)
    noise = torch.randn(batch, channels, height, width, generator=generator)
    size = (height, width)
    for level in range(MOST_LEVELS):
        shrink = (2 + 2 * float(torch.rand(1, generator=generator))) ** level
        size = (max(1, int(size[0] / shrink)), max(1, int(size[1] / shrink)))
        coarse = torch.randn(batch, channels, *size, generator=generator)
        noise += power**level * functional.interpolate(coarse, size=(height, width), mode="bilinear")
        if min(size) == 1:
            break
    return (noise / noise.std()).to(like.device)  # [B, C, h, w]


NOISES: Mapping[str, Callable[..., Tensor]] = {"doubling": multi_resolution_noise, "original": original_noise}


def annealed_noise(
    like: Tensor,
    t: Tensor,
    *,
    train_steps: int,
    kind: str = "doubling",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw noise [B, C, h, w] for timesteps t [B]: multi-resolution at t = T, nearly white at t = 0."""
    return NOISES[kind](like, strength=STRENGTH * t.float().cpu() / train_steps, generator=generator)
