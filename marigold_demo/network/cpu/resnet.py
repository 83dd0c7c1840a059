"""Fused residual blocks: normalization, SiLU and 3x3 convolution in chunks of rows, which stay in the caches.

A residual block normalizes its map, applies SiLU, convolves it, all that twice, and adds its input. As
diffusers does it each of these steps writes the whole map into memory; at full size of a photo that takes a
fifth of the time on a CPU. Here a chunk of rows goes through all steps at once: only the statistics of a
normalization need the whole map beforehand.

The convolutions are Winograd's minimal filtering F(4x4, 3x3) as in Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016, equation 12: a tile of 4 x 4 results costs 36 multiplications
instead of 144,

    y = A^T [(G g G^T) * (B^T d B)] A,

with the filter g [3, 3], the tile d [6, 6] of the map, and B, G, A as they stand there. For all channels the
product in the middle is a matrix product for each of the 36 places. In float32 the result is exact to about
1e-5 of its range; in 16 bits too much would be lost.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional

from marigold_demo.network.cpu.patches import ForwardPatch

LEAST_CHANNELS = 128  # below that the additions cost more than the multiplications save (measured)
MOST_FILTERS = 960 * 320  # above that maps are small, and transforming the filters takes too long (measured)
LEAST_PIXELS = 1536  # of a map; below that transforming the filters takes longer than it saves (measured)
CHUNK_VALUES = 2**18  # of a map, looked at together for its statistics


def fuse_resnets(network: nn.Module) -> None:
    """Let all suitable residual blocks of a network work in chunks of rows.

    Only for float32 on a CPU, without gradients; in other number formats they are left as they are. The
    weights stay as they are, and are read at each call.
    """
    for module in network.modules():
        if isinstance(module, ResnetBlock2D) and _suits(module):
            FusedResnet(module).install()


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


class FusedResnet(ForwardPatch):
    """What one residual block does, in chunks of rows."""

    @property
    def in_float32(self) -> bool:
        """Return whether the block's weights are of the one format that this is for."""
        return bool(self.module.conv1.weight.dtype == torch.float32)

    def __call__(self, x: Tensor, temb: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
        """Map x [B, C, H, W], and the embedding of the time [B, D] where it is used, to [B, C', H, W]."""
        block = self.module
        small = x.shape[2] * x.shape[3] < LEAST_PIXELS
        if small or x.dtype != torch.float32 or not self.in_float32 or x.is_meta:  # `cost` counts whole maps
            return self.original(x, temb)
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
        for part in torch.split(x, max(1, CHUNK_VALUES // x[0].numel())):
            sums += _sums(part)
        bias = block.conv1.bias if shift is None else block.conv1.bias + shift
        hidden = out  # in the same memory, each chunk makes room for its result
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
        chunk = slice(top, min(top + rows, height))
        convolution.convolve(out[chunk])
        yield chunk


def _sums(chunk: Tensor) -> Tensor:
    """Add up values and squares of each channel of a chunk [n, W, C]: float64 [2, C]."""
    return torch.stack([chunk.sum(dim=(0, 1)), (chunk * chunk).sum(dim=(0, 1))]).double()


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


TILES = 192  # at a time: their maps stay in the caches, their matrix products are large enough (measured)
SIDE, SEEN = 4, 6  # results and pixels of a tile, along each side

_G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]


class Winograd:
    """A 3x3 convolution of maps of one size, stride 1, zeros beyond the edge, chunk by chunk.

    Attributes:
        rows: Of a chunk.
        seen: float32 [rows + 2, 4, W' / 4 + 1, C]; whoever calls writes a chunk of the map here by way of
            `columns`, with the row above and the row below it. W' is the width in whole tiles; columns that
            are four apart lie side by side, so that all tiles are worked on in long runs.
        columns: For each fourth of the columns of the map, where it begins and the part of `seen` for it
            [rows + 2, n, C].
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, height: int, width: int) -> None:
        """Transform the filters.

        Args:
            weight: Filters, float32 [C', C, 3, 3].
            bias: float32 [C'].
            height: Of the map.
            width: Of the map.
        """
        outputs, inputs = weight.shape[:2]
        across = -(-width // SIDE)  # tiles
        down = min(max(1, TILES // across), -(-height // SIDE))
        # Tiles in a block; all blocks of a chunk are about alike.
        self._across = -(-across // -(-across // TILES))
        self.rows = SIDE * down
        place = torch.kron(*[torch.tensor(_G, device=weight.device)] * 2)  # [36, 9]
        flat = weight.permute(0, 2, 3, 1).reshape(outputs, 9, inputs)  # [C', 9, C]
        self._filters = torch.matmul(place, flat).permute(1, 2, 0)  # [36, C, C']
        self._bias = bias

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, device=weight.device)

        self.seen = empty(self.rows + 2, SIDE, across + 1, inputs).zero_()  # column 0 is left of the map
        self.columns = [
            (left, self.seen[:, (left + 1) % SIDE, (left + 1) // SIDE :][:, : -(-(width - left) // SIDE)])
            for left in range(min(SIDE, width))
        ]
        self._out = empty(self.rows, SIDE * across, outputs)
        block = down * self._across
        self._half = empty(SEEN * SIDE * (block + down) * inputs)
        self._tiles, self._products = empty(SEEN**2 * block * inputs), empty(SEEN**2 * block * outputs)
        self._half_out = empty(SIDE * SEEN * block * outputs)
        largest = max(self._half.numel(), self._tiles.numel(), self._products.numel()) // SEEN
        self._scratch = empty(2, largest)

    def convolve(self, out: Tensor) -> None:
        """Convolve the chunk in `seen` to out [n, W, C'], its first n rows, contiguous."""
        whole = self._out if out.shape != self._out.shape else out
        for left in range(0, self.seen.shape[2] - 1, self._across):
            right = min(left + self._across, self.seen.shape[2] - 1)
            self._convolve(self.seen[:, :, left : right + 1], whole[:, SIDE * left : SIDE * right])
        if whole is not out:
            out.copy_(whole[: out.shape[0], : out.shape[1]])

    def _convolve(self, seen: Tensor, out: Tensor) -> None:
        """Convolve a block of tiles."""
        inputs, outputs = seen.shape[3], out.shape[2]
        down, across = out.shape[0] // SIDE, out.shape[1] // SIDE
        half = _shaped(self._half, SEEN, down, SIDE, across + 1, inputs)  # B^T d
        tiles = _shaped(self._tiles, SEEN, SEEN, down, across, inputs)  # B^T d B
        products = _shaped(self._products, SEEN, SEEN, down, across, outputs)
        half_out = _shaped(self._half_out, SIDE, SEEN, down, across, outputs)  # A^T [...]
        rows = [seen[k : k + SIDE * (down - 1) + 1 : SIDE] for k in range(SEEN)]
        self._seen_by_filters(rows, half.unbind(0))  # [down, 4, across + 1, C] each
        columns = [half[:, :, k % SIDE, k // SIDE : k // SIDE + across] for k in range(SEEN)]
        self._seen_by_filters(columns, tiles.unbind(1))  # [6, down, across, C] each
        places = SEEN * SEEN
        torch.bmm(tiles.view(places, -1, inputs), self._filters, out=products.view(places, -1, outputs))
        products[1, 1] += self._bias  # this place goes into each of the 4 x 4 results once
        self._results(products.unbind(0), half_out.unbind(0))
        split = out.view(down, SIDE, across, SIDE, outputs).permute(3, 1, 0, 2, 4)  # [4, 4, down, across, C']
        self._results(half_out.unbind(1), split.unbind(0))

    def _seen_by_filters(self, d: Sequence[Tensor], out: Sequence[Tensor]) -> None:
        """Multiply six slices by B^T."""
        a, b = self._temporary(d[0])
        torch.sub(d[4], d[2], alpha=4, out=a)
        torch.sub(d[3], d[1], alpha=4, out=b)
        torch.add(a, b, out=out[1])
        torch.sub(a, b, out=out[2])
        torch.sub(d[4], d[2], out=a)
        torch.sub(d[3], d[1], out=b)
        torch.add(a, b, alpha=2, out=out[3])
        torch.sub(a, b, alpha=2, out=out[4])
        torch.sub(d[0], d[2], out=out[0])
        torch.add(a, out[0], alpha=4, out=out[0])
        torch.sub(d[5], d[3], out=out[5])
        torch.sub(out[5], b, alpha=4, out=out[5])

    def _results(self, m: Sequence[Tensor], out: Sequence[Tensor]) -> None:
        """Multiply six slices by A^T, four are left."""
        a, b = self._temporary(m[0])
        torch.add(m[1], m[2], out=a)
        torch.add(m[3], m[4], out=b)
        torch.add(a, b, alpha=4, out=out[2])
        torch.add(a.add_(b), m[0], out=out[0])
        torch.sub(m[1], m[2], out=a)
        torch.sub(m[3], m[4], out=b)
        torch.add(a, b, alpha=2, out=out[1])
        torch.add(a.add_(b, alpha=8), m[5], out=out[3])

    def _temporary(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return _shaped(self._scratch[0], *like.shape), _shaped(self._scratch[1], *like.shape)


def _shaped(buffer: Tensor, *shape: int) -> Tensor:
    return buffer[: math.prod(shape)].view(shape)
