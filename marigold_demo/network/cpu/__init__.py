"""What makes the networks of a pipeline fast once training is over, and its undoing.

Everything is exact but for rounding and leaves the weights as they are. In bfloat16 on a CPU only the matrix
products are faster: attention is not (measured), and the rest takes no time. So a UNet hands on float32
between its products there; on GPUs, where that would cost time, nothing is done.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from marigold_demo.network.cpu.patches import (
    ForwardPatch,
    fold_constant_prompt,
    fold_upsampling,
    fuse_resnets,
    pack_convolutions,
    patches_of,
    remove_patches,
    share_time_step,
)

PRODUCTS = (nn.Conv2d, nn.Linear)
NORMS = (nn.GroupNorm, nn.LayerNorm)


def optimize(pipeline: Any, device: str) -> None:
    """Freeze the networks of a DepthPipeline and make them fast for predictions on a device.

    Args:
        pipeline: Its `networks`, its `unet`, which attends to its `empty_prompt` [1, L, D] alone.
        device: Where the networks will run; they are moved there afterwards.
    """
    networks, unet = pipeline.networks, pipeline.unet
    for network in networks:
        network.requires_grad_(False).eval()
        network.to(memory_format=torch.channels_last)
    fold_constant_prompt(unet, pipeline.empty_prompt)
    if device != "cpu":  # on GPUs the rest has not been measured
        return
    if next(unet.parameters()).dtype == torch.bfloat16:
        keep_float32_between_products(unet)
    share_time_step(unet)
    for network in networks:
        pack_convolutions(network)
        fold_upsampling(network)
        fuse_resnets(network)


def restore(networks: Sequence[Any]) -> None:
    """Undo `optimize`, but for the frozen weights."""
    for network in networks:
        remove_patches(network)
        network.to(memory_format=torch.contiguous_format)


def move(networks: Sequence[Any], target: torch.device | torch.dtype | str) -> None:
    """Move networks with their patches to a device, or cast them to a number format."""
    for network in networks:
        torch.nn.Module.to(network, target)  # diffusers' own `to` warns of each cast
        for patch in patches_of(network):
            patch.to(target)


def keep_float32_between_products(network: nn.Module) -> None:
    """Round only the inputs of matrix products; all between them is float32."""
    for module in list(network.modules()):
        if "forward" in vars(module):
            continue
        if type(module) in PRODUCTS:
            FloatResult(module).install()
        elif isinstance(module, NORMS):
            FloatNorm(module).install()


class FloatResult(ForwardPatch):
    """A layer with a product in the number format of its weights, whatever comes in, and a float32 result."""

    def __call__(self, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        """Round the input, multiply, return float32."""
        return self.original(x.to(self.module.weight.dtype), *rest, **named).float()


class FloatNorm(ForwardPatch):
    """A normalization in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.norm = copy.deepcopy(module).float()

    def to(self, target: torch.device | torch.dtype | str) -> None:
        """Move to a device; the number format stays."""
        if not isinstance(target, torch.dtype):
            self.norm.to(target)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalize [B, C, H, W] or [B, T, C]."""
        normal: Tensor = self.norm(x.float())
        return normal
