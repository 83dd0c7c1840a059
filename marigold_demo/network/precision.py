"""A UNet whose matrix products are in bfloat16 and all else in float32. Knows nothing of depth.

On a CPU only the products are faster in bfloat16: attention is not (measured), and the rest takes no time. To
round what lies between them would be an error without a gain. On GPUs, where it would cost, nothing is done.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from marigold_demo.network.stand_in import StandIn

PRODUCTS = (nn.Conv2d, nn.Linear)
NORMS = (nn.GroupNorm, nn.LayerNorm)


def fold_precision(network: nn.Module) -> None:
    """Let a network in 16 bits hand on float32 between its products."""
    for module in list(network.modules()):
        if "forward" in vars(module):
            continue
        if type(module) in PRODUCTS:
            FloatResult(module).put()
        elif isinstance(module, NORMS):
            FloatNorm(module).put()


class FloatResult(StandIn):
    """What one layer does: the product in the format of its weights, whatever comes in, and float32 out."""

    def __call__(self, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        """Round, multiply, hand on."""
        return self.as_ever(x.to(self.module.weight.dtype), *rest, **named).float()


class FloatNorm(StandIn):
    """What one normalisation does, in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.norm = copy.deepcopy(module).float()

    def to(self, target: torch.device | torch.dtype | str) -> None:
        """Move to a device; the number format stays."""
        if not isinstance(target, torch.dtype):
            self.norm.to(target)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise [B, C, H, W] or [B, T, C]."""
        normal: Tensor = self.norm(x.float())
        return normal
