"""Multi-resolution noise, annealed with the timestep. Knows nothing of pictures.

Ke et al. 2024 (Marigold), section 3.3 and appendix: Gaussian pictures of several sizes, enlarged and summed,
with a strength that falls with the size and, annealed, with t/T.
"""

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
        generator: Source of the chances.
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


def annealed_noise(
    like: Tensor, t: Tensor, *, train_steps: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw noise [B, C, h, w] for timesteps t [B]: multi-resolution at t = T, white at t = 0."""
    return multi_resolution_noise(
        like, strength=STRENGTH * t.float().cpu() / train_steps, generator=generator
    )
