"""Residual blocks worked through band by band, which stays in the caches. Knows nothing of depth.

A residual block normalises its map, bends it (SiLU), convolves it, all that twice, and adds what came in. As
diffusers does it each of these steps writes the whole map into memory; at full size of a photo that takes a
fifth of the time on a CPU. Here a band of rows goes through all steps at once: only the statistics of a
normalisation need the whole map beforehand. The convolutions are those of `winograd`.
"""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

from marigold_demo.network.stand_in import StandIn
from marigold_demo.network.winograd import SIDE, Winograd

LEAST_CHANNELS = 128  # below that the additions cost more than the multiplications save (measured)
MOST_FILTERS = 960 * 320  # above that maps are small, and transforming the filters takes too long (measured)
LEAST_PIXELS = 1536  # of a map; below that transforming the filters takes longer than it saves (measured)
BAND_VALUES = 2**18  # of a map, looked at together for its statistics


def fold_residuals(network: nn.Module) -> None:
    """Let all suitable residual blocks of a network work in bands.

    Only for float32 on a CPU, without gradients; with other numbers they work as ever. The weights stay as
    they are, and are looked at anew in each call.
    """
    for module in network.modules():
        if isinstance(module, ResnetBlock2D) and _suits(module):
            ResidualBands(module).put()


def _suits(block: Any) -> bool:
    convs, norms = (block.conv1, block.conv2), (block.norm1, block.norm2)
    plain = block.upsample is None and block.downsample is None and isinstance(block.nonlinearity, nn.SiLU)
    return (
        plain
        and (block.time_emb_proj is None or block.time_embedding_norm == "default")
        and all(isinstance(norm, nn.GroupNorm) for norm in norms)
        and all(min(conv.weight.shape[:2]) >= LEAST_CHANNELS for conv in convs)
        and all(conv.in_channels * conv.out_channels <= MOST_FILTERS for conv in convs)
        and (block.conv_shortcut is None or block.conv_shortcut.kernel_size == (1, 1))
    )


class ResidualBands(StandIn):
    """What one residual block does, in bands."""

    @property
    def in_float32(self) -> bool:
        """Tell whether the block's weights are of the one format that bands are for."""
        return bool(self.module.conv1.weight.dtype == torch.float32)

    def __call__(self, x: Tensor, temb: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        """Map x [B, C, H, W], and the embedding of the time [B, D] where it is used, to [B, C', H, W]."""
        block = self.module
        small = x.shape[2] * x.shape[3] < LEAST_PIXELS
        if small or x.dtype != torch.float32 or not self.in_float32 or x.is_meta:  # `cost` counts whole maps
            return self.as_ever(x, temb)
        shifts = [None] * len(x)
        if block.time_emb_proj is not None and temb is not None:
            shifts = block.time_emb_proj(temb if block.skip_time_act else functional.silu(temb))  # [B, C']
        shape = (len(x), block.conv2.out_channels, *x.shape[2:])
        out = torch.empty(shape, device=x.device, memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
        for member, shift, result in zip(_rows_first(x), shifts, _rows_first(out), strict=True):
            self._run(member, shift=shift, out=result)
        return out

    def _run(self, x: Tensor, *, shift: Tensor | None, out: Tensor) -> None:
        """Map x [H, W, C] to out [H, W, C']; the shift [C'] is added to what is between the convolutions."""
        block, pixels = self.module, x.shape[0] * x.shape[1]
        sums = x.new_zeros(2, x.shape[2], dtype=torch.float64)
        for part in torch.split(x, max(1, BAND_VALUES // x[0].numel())):
            sums += _sums(part)
        bias = block.conv1.bias if shift is None else block.conv1.bias + shift
        hidden = out  # in the same memory, each band makes room for its result
        normal = affine(block.norm1, sums, pixels=pixels)
        sums = sums.new_zeros(2, hidden.shape[2])
        for rows in _convolve(block.conv1.weight, bias, x, normal=normal, out=hidden):
            sums += _sums(hidden[rows])
        normal = affine(block.norm2, sums, pixels=pixels)
        for rows in _convolve(block.conv2.weight, block.conv2.bias, hidden, normal=normal, out=out):
            came, shortcut = x[rows], block.conv_shortcut
            if shortcut is not None:
                came = functional.linear(came, shortcut.weight[:, :, 0, 0], shortcut.bias)
            out[rows] += came
        if block.output_scale_factor != 1:
            out /= block.output_scale_factor


def _rows_first(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1)


def _convolve(
    weight: Tensor, bias: Tensor, x: Tensor, *, normal: tuple[Tensor, Tensor], out: Tensor
) -> Iterator[slice]:
    """Convolve SiLU(gain x + shift), for x [H, W, C], to out [H, W, C'], and yield the rows that are done.

    A row of x has been seen before out is written there, so both may be the same map.
    """
    height, width = x.shape[:2]
    gain, shift = normal
    convolution = Winograd(weight, bias, height=height, width=width)
    seen, rows = convolution.seen, convolution.rows
    done = 0  # rows of x in `seen` so far
    for top in range(0, height, rows):
        if top > 0:
            seen[:2] = seen[rows:].clone()
        last = min(height, top + rows + 1)
        new = slice(done - top + 1, last - top + 1)
        for left, part in convolution.columns:
            torch.addcmul(shift, x[done:last, left::SIDE], gain, out=part[new])
        functional.silu(seen[new], inplace=True)
        seen[last - top + 1 :] = 0  # below the map
        done = last
        band = slice(top, min(top + rows, height))
        convolution.convolve(out[band])
        yield band


def _sums(band: Tensor) -> Tensor:
    """Add up values and squares of each channel of a band [n, W, C]: float64 [2, C]."""
    return torch.stack([band.sum(dim=(0, 1)), (band * band).sum(dim=(0, 1))]).double()


def affine(norm: nn.GroupNorm, sums: Tensor, *, pixels: int) -> tuple[Tensor, Tensor]:
    """Return gain and shift, float32 [..., C], that do what a GroupNorm does to maps.

    Args:
        norm: With weight and bias.
        sums: Of the values and of the squares of each channel, float64 [2, ..., C].
        pixels: Of a map.
    """
    each = sums.shape[-1] // norm.num_groups
    mean, square = sums.unfold(-1, each, each).mean(dim=-1) / pixels  # [..., G] each
    rate = (square - mean * mean + norm.eps).rsqrt()
    gain = norm.weight.double() * rate.repeat_interleave(each, dim=-1)
    shift = norm.bias.double() - gain * mean.repeat_interleave(each, dim=-1)
    return gain.float(), shift.float()
