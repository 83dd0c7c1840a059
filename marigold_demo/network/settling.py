"""What makes the networks of a pipeline fast once training is over, and its undoing. Knows nothing of photos.

Everything is exact but for rounding and leaves the weights what they are.
"""

from typing import Any

import torch
from torch import Tensor

from marigold_demo.network.constant_prompt import fold_prompt, move_prompt, unfold_prompt
from marigold_demo.network.precision import fold_precision, unfold_precision
from marigold_demo.network.residual_bands import fold_residuals, unfold_residuals
from marigold_demo.network.upsampling import fold_upsampling, move_upsampling, unfold_upsampling


def settle(unet: Any, vae: Any, *, prompt: Tensor, device: str) -> None:
    """Fold constants in and lay weights out for convolutions, for predictions on a device."""
    for network in (unet, vae):
        network.requires_grad_(False).eval()
        network.to(memory_format=torch.channels_last)
    fold_prompt(unet, prompt)
    if device != "cpu":  # on GPUs the rest has not been measured
        return
    if next(unet.parameters()).dtype == torch.bfloat16:
        fold_precision(unet)
    for network in (unet, vae):
        fold_upsampling(network)
        fold_residuals(network)


def unsettle(unet: Any, vae: Any) -> None:
    """Let networks work as diffusers made them."""
    unfold_prompt(unet)
    unfold_precision(unet)
    for network in (unet, vae):
        unfold_residuals(network)
        unfold_upsampling(network)
        network.to(memory_format=torch.contiguous_format)


def move(unet: Any, vae: Any, target: torch.device | torch.dtype | str) -> None:
    """Bring what was folded to the device or number format that the networks went to."""
    move_prompt(unet, target)
    for network in (unet, vae):
        move_upsampling(network, target)
