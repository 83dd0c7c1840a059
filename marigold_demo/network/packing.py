"""Convolutions of small networks with their weights in oneDNN's own order. Knows nothing of depth.

On a CPU torch lets oneDNN convolve, which brings the weights into an order of its own at each call; maps of a
few pixels it gives to a slower routine. On small maps that takes up to as long as the multiplications. Here
it is done once, beforehand, and what follows a convolution, a ReLU or a sum, is done in the same pass. What
is called are the operations that torch.compile puts into its own graphs.
"""

import platform
from typing import Any

import torch
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import Tensor, nn

from marigold_demo.network.stand_in import StandIn

MOST_BYTES = 2**28  # of a network's weights, for they are held twice; large networks gain less than 3 %

# What follows a convolution: a name, numbers and a variant of oneDNN's.
NOTHING: tuple[str, list[float], str] = ("none", [], "")
RELU: tuple[str, list[float], str] = ("relu", [], "")
RELU6: tuple[str, list[float], str] = ("hardtanh", [0.0, 6.0], "")


def fold_packing(network: nn.Module) -> None:
    """Let the convolutions of a small network in float32 work on weights in oneDNN's order.

    Networks that are large, in another format or on a machine without oneDNN for x86 work as ever.
    """
    weights = list(network.parameters())
    small = sum(weight.nbytes for weight in weights) <= MOST_BYTES
    plain = {(weight.dtype, weight.device.type) for weight in weights} == {(torch.float32, "cpu")}
    if not (small and plain and _can_pack()):
        return
    modules = list(network.modules())
    for module in modules:
        if (
            isinstance(module, nn.Conv2d)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        ):
            PackedConv(module).put()
    for module in modules:
        if isinstance(module, AutoencoderTinyBlock) and isinstance(module.conv[1], nn.ReLU):
            FusedTinyBlock(module).put()


def _can_pack() -> bool:
    there = hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and built and platform.machine() in ("x86_64", "AMD64")


class PackedConv(StandIn):
    """What one convolution does, with packed weights; where its `relu6` is true, with that behind it."""

    place = "_conv_forward"

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.how = [[*module.padding], [*module.stride], [*module.dilation], module.groups]
        packed = module.weight.detach().to_mkldnn()
        self.weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(packed, *self.how, None)
        self.then = RELU6 if getattr(module, "relu6", False) else NOTHING

    def suits(self, x: Tensor) -> bool:
        """Tell whether these are numbers that it can work on."""
        return x.dtype == self.module.weight.dtype == torch.float32 and not x.is_meta

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve float32 [B, C, H, W] to [B, C', H', W']; other formats go the usual way."""
        return self.convolve(x, then=self.then) if self.suits(x) else self.as_ever(x, weight, bias)

    def convolve(self, x: Tensor, *, then: tuple[str, list[float], str]) -> Tensor:
        """Convolve, and do what follows."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.module.bias, *self.how, *then
        )
        return result

    def convolve_and_add(self, x: Tensor, other: Tensor, *, then: tuple[str, list[float], str]) -> Tensor:
        """Convolve, add another map, and do what follows."""
        result: Tensor = torch.ops.mkldnn._convolution_pointwise.binary(
            x, other, self.weight, self.module.bias, *self.how, "add", 1.0, *then
        )
        return result


class FusedTinyBlock(StandIn):
    """What one residual block of a tiny VAE does, in a pass for each of its three convolutions."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C', H, W]."""
        first, second, third = (vars(self.module.conv[place])[PackedConv.place] for place in (0, 2, 4))
        if not first.suits(x):
            return self.as_ever(x)
        hidden = second.convolve(first.convolve(x, then=RELU), then=RELU)
        fused: Tensor = third.convolve_and_add(hidden, self.module.skip(x), then=RELU)
        return fused
