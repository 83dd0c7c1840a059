"""Enlarging by two and convolving 3x3, as four 2x2 convolutions of the small map. Knows nothing of depth.

After an enlargement by nearest neighbor a 3x3 filter sees each pixel of the small map up to four times. For
each of the four positions within a 2x2 block the weights that fall on one pixel can be added up beforehand:
16 multiplications per small pixel instead of 36, and the large map is never stored. Exact but for rounding.
"""

from typing import Any

import torch
from diffusers.models.upsampling import Upsample2D
from torch import Tensor
from torch.nn import functional

from marigold_demo.network.stand_in import StandIn

POSITIONS = ((0, 0), (0, 1), (1, 0), (1, 1))  # within a block: row, column
LEAST_CHANNELS = 64  # below that the copying costs more than the multiplications save (measured)


def fold_upsampling(network: Any) -> None:
    """Let all wide enough upsamplers of a network work on small maps."""
    for module in list(network.modules()):
        if isinstance(module, Upsample2D) and _is_plain(module):
            FoldedUpsampling(module).put()


def _is_plain(module: Any) -> bool:
    """Tell whether an upsampler does nothing but enlarge by nearest neighbor and convolve 3x3."""
    conv = getattr(module, "conv", None)
    return (
        type(module) is Upsample2D
        and bool(module.use_conv and module.interpolate)
        and module.norm is None
        and isinstance(conv, torch.nn.Conv2d)
        and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and conv.in_channels >= LEAST_CHANNELS
    )


class FoldedUpsampling(StandIn):
    """What one upsampler does, with the weights added up.

    Attributes:
        filters: [C', C, 2, 2] each, for upper left, upper right, lower left and lower right of a block.
    """

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        weight = module.conv.weight.detach()
        self.filters = [
            part.to(weight.dtype).contiguous(memory_format=torch.channels_last)
            for half in _add_up(weight.float(), dim=2)
            for part in _add_up(half, dim=3)
        ]

    def to(self, target: torch.device | torch.dtype | str) -> None:
        """Move or cast the filters."""
        self.filters = [part.to(target) for part in self.filters]

    def __call__(self, hidden_states: Tensor, output_size: Any = None, *_: Any, **__: Any) -> Tensor:
        """Enlarge [B, C, h, w] to [B, C', 2h, 2w]; other sizes are left to the upsampler itself."""
        batch, height, width = len(hidden_states), *hidden_states.shape[2:]
        if output_size is not None and tuple(output_size) != (2 * height, 2 * width):
            return self.as_ever(hidden_states, output_size)
        out = torch.empty(
            (batch, len(self.filters[0]), 2 * height, 2 * width),
            dtype=hidden_states.dtype,
            device=hidden_states.device,
            memory_format=torch.channels_last,
        )
        # Its format is not always that of the weights, see `precision`.
        small = hidden_states.to(self.filters[0].dtype)
        for (below, right), weight in zip(POSITIONS, self.filters, strict=True):
            padded = functional.pad(small, (1 - right, right, 1 - below, below))
            out[:, :, below::2, right::2] = functional.conv2d(padded, weight, self.module.conv.bias)
        return out


def _add_up(weight: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """Add up the weights of a side of three that fall on the same pixel: first and second half of a block."""
    first, middle, last = weight.unbind(dim)
    return torch.stack([first, middle + last], dim), torch.stack([first + middle, last], dim)
