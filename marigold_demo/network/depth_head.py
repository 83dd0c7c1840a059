"""The decoder of a VAE, its last convolution folded to the mean channel.

Marigold reads depth as the mean of the three decoded color channels (Ke et al., CVPR 2024, section 3.2). Both
the mean and everything behind the last convolution are linear, so averaging that convolution's filters first
gives the same number and never holds the three channels in memory.
"""

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn import functional


class MeanConv(nn.Module):
    """A convolution whose output is the mean over another one's output channels, computed in float32.

    The filters are averaged at each call, so it follows the other one through training, casts and moves.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, C, PH, PW] to float32 [B, 1, PH, PW]."""
        weight = self.conv.weight.float().mean(dim=0, keepdim=True)  # [1, C, 3, 3]
        bias = None if self.conv.bias is None else self.conv.bias.float().mean(dim=0, keepdim=True)  # [1]
        return functional.conv2d(
            features.float(), weight, bias, stride=self.conv.stride, padding=self.conv.padding
        )


def depth_decoder(decoder: Any) -> Any:
    """Return a decoder [B, 4, h, w] -> [B, 1, PH, PW] that shares all weights with the given one.

    Args:
        decoder: The `decoder` of an AutoencoderKL or an AutoencoderTiny.
    """
    shared = copy.copy(decoder)
    shared._modules = dict(decoder._modules)  # own table of the same submodules
    if hasattr(decoder, "conv_out"):  # AutoencoderKL
        shared.conv_out = MeanConv(decoder.conv_out)
    else:  # AutoencoderTiny
        layers = list(decoder.layers)
        shared.layers = nn.Sequential(*layers[:-1], MeanConv(layers[-1]))
    return shared
