"""What makes the networks of a pipeline fast once training is over, and its undoing. Knows nothing of photos.

Everything is exact but for rounding and leaves the weights what they are.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from marigold_demo.network.constant_prompt import fold_prompt
from marigold_demo.network.packing import fold_packing
from marigold_demo.network.precision import fold_precision
from marigold_demo.network.residual_bands import fold_residuals
from marigold_demo.network.stand_in import stand_ins, take_off
from marigold_demo.network.upsampling import fold_upsampling


def settle(networks: Sequence[Any], *, unet: Any, prompt: Tensor, device: str) -> None:
    """Fold constants in and lay weights out for convolutions, for predictions on a device.

    Args:
        networks: All of a pipeline, the UNet among them.
        unet: The one that attends to the prompt.
        prompt: Embedding [1, L, D] that never changes.
        device: Where they will work.
    """
    for network in networks:
        network.requires_grad_(False).eval()
        network.to(memory_format=torch.channels_last)
    fold_prompt(unet, prompt)
    if device != "cpu":  # on GPUs the rest has not been measured
        return
    if next(unet.parameters()).dtype == torch.bfloat16:
        fold_precision(unet)
    for network in networks:
        fold_packing(network)
        fold_upsampling(network)
        fold_residuals(network)


def unsettle(networks: Sequence[Any]) -> None:
    """Let networks work as they were made."""
    for network in networks:
        take_off(network)
        network.to(memory_format=torch.contiguous_format)


def move(networks: Sequence[Any], target: torch.device | torch.dtype | str) -> None:
    """Bring networks, and what was folded for them, to a device or number format."""
    for network in networks:
        torch.nn.Module.to(network, target)  # diffusers' own `to` warns of each cast
        for stand_in in stand_ins(network):
            stand_in.to(target)
