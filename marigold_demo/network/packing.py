"""Convolutions of small networks with their weights in oneDNN's own order. Knows nothing of depth.

On a CPU torch lets oneDNN convolve, which brings the weights into an order of its own at each call; maps of a
few pixels it gives to a slower routine. On small maps that takes up to as long as the multiplications. Here
it is done once, beforehand. What is called are the operations that torch.compile puts into its own graphs.
"""

import platform
from typing import Any

import torch
from torch import Tensor, nn

from marigold_demo.network.stand_in import StandIn

MOST_BYTES = 2**28  # of a network's weights, for they are held twice; large networks gain less than 3 %


def fold_packing(network: nn.Module) -> None:
    """Let the convolutions of a small network in float32 work on weights in oneDNN's order.

    Networks that are large, in another format or on a machine without oneDNN for x86 work as ever.
    """
    weights = list(network.parameters())
    small = sum(weight.nbytes for weight in weights) <= MOST_BYTES
    plain = {(weight.dtype, weight.device.type) for weight in weights} == {(torch.float32, "cpu")}
    if not (small and plain and _can_pack()):
        return
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and module.padding != "same":
            PackedConv(module).put()


def _can_pack() -> bool:
    there = hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and built and platform.machine() in ("x86_64", "AMD64")


class PackedConv(StandIn):
    """What one convolution does, with packed weights."""

    place = "_conv_forward"

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.how = [[*module.padding], [*module.stride], [*module.dilation], module.groups]
        packed = module.weight.detach().to_mkldnn()
        self.weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(packed, *self.how, None)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve float32 [B, C, H, W] to [B, C', H', W']; other formats go the usual way."""
        if x.dtype != torch.float32 or weight.dtype != torch.float32 or x.is_meta:
            return self.as_ever(x, weight, bias)
        convolved: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, bias, *self.how, "none", [], ""
        )
        return convolved
