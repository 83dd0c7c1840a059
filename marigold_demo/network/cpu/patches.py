"""Layers that compute the same in another way: constant prompt, packed and folded convolutions, resnets.

**Constant prompt.** Marigold's UNet always attends to the empty prompt (Ke et al., CVPR 2024, section 3.1): L
= 2 tokens, the same at each step of each photo. With W_q, W_k, W_v, W_o the projections, x a position, p_l a
token and h a head,

    logit_hl = (W_q x)_h . (W_k p_l)_h / sqrt(d) = a_hl . x,    out = sum_hl softmax_l(logit_h)_l b_hl + bias,

where a_hl and b_hl = W_o,h (W_v p_l)_h do not depend on x. So two C x C projections of each position become
two C x hL ones, and a prompt of a single token makes the whole layer a constant. Exact but for rounding.

**Packed convolutions.** On a CPU torch lets oneDNN convolve, which brings the weights into an order of its
own at each call; maps of a few pixels it gives to a slower routine. On small maps that takes up to as long as
the multiplications. Here it is done once, beforehand, and what follows a convolution, a ReLU or a sum, is
done in the same pass. What is called are the operations that torch.compile puts into its own graphs.

**Folded upsampling.** After an enlargement by nearest neighbor a 3x3 filter sees each pixel of the small map
up to four times. For each of the four positions within a 2x2 block the weights that fall on one pixel are
added up beforehand: 16 multiplications per small pixel instead of 36, and the large map is never stored.
Exact but for rounding.

**One time step.** All rows of a batch are at the same step, so its embedding is projected once. A product of
one row is rounded otherwise than one of several: without this, a batch would differ from its photos alone.

**Fused residual blocks.** A residual block normalizes its map, applies SiLU, convolves it, all that twice,
and adds its input. As diffusers does it each of these steps writes the whole map into memory; at full size of
a photo that takes a fifth of the time on a CPU. Here a chunk of rows goes through all steps at once: only the
statistics of a normalization need the whole map beforehand.

The convolutions are Winograd's minimal filtering F(4x4, 3x3) as in Lavin and Gray, "Fast Algorithms for
Convolutional Neural Networks", CVPR 2016, equation 12: a tile of 4 x 4 results costs 36 multiplications
instead of 144,

    y = A^T [(G g G^T) * (B^T d B)] A,

with the filter g [3, 3], the tile d [6, 6] of the map, and B, G, A as they stand there. For all channels the
product in the middle is a matrix product for each of the 36 places. In float32 the result is exact to about
1e-5 of its range; in 16 bits too much would be lost.
"""

import math
import platform
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional

MOST_BYTES = 2**28  # of a network's weights, for they are held twice; large networks gain less than 3 %
# What follows a convolution: a name, numbers and a variant of oneDNN's.
NOTHING: tuple[str, list[float], str] = ("none", [], "")
RELU: tuple[str, list[float], str] = ("relu", [], "")
RELU6: tuple[str, list[float], str] = ("hardtanh", [0.0, 6.0], "")
POSITIONS = ((0, 0), (0, 1), (1, 0), (1, 1))  # within a block: row, column
SMALL_MAP = 20480  # numbers: a single map of no more is left to another routine than a batch (torch's Conv)
LEAST_UPSAMPLED = 64  # below that the copying costs more than the multiplications save (measured)


class ForwardPatch:
    """Replaces a method of one module by another way of computing the same, until it is removed.

    The module's weights stay as they are. What a patch computes from them when it is made is out of date
    after a change of them.

    Attributes:
        method: Name of the method.
        module: Whose method it is.
    """

    method = "forward"

    def __init__(self, module: Any) -> None:
        self.module = module

    def install(self) -> None:
        """Replace the method."""
        setattr(self.module, self.method, self)

    def to(self, target: torch.device | torch.dtype | str) -> None:
        """Move or cast what was computed beforehand, as the module is moved or cast."""

    def original(self, *args: Any, **named: Any) -> Tensor:
        """Call the method that was replaced."""
        result: Tensor = getattr(type(self.module), self.method)(self.module, *args, **named)
        return result


def patches_of(network: nn.Module) -> Iterator[ForwardPatch]:
    """Yield all patches of a network's modules."""
    for module in network.modules():
        yield from [value for value in vars(module).values() if isinstance(value, ForwardPatch)]


def remove_patches(network: nn.Module) -> None:
    """Remove all patches of a network."""
    for patch in list(patches_of(network)):
        vars(patch.module).pop(patch.method, None)


def fold_constant_prompt(unet: Any, prompt: Tensor) -> None:
    """Let a UNet attend to a constant prompt [1, L, D], whatever prompt it is given."""
    for module in list(unet.modules()):
        if isinstance(module, Attention) and module.is_cross_attention and _is_plain_attention(module):
            ConstantPrompt(module, prompt).install()


def _is_plain_attention(attention: Any) -> bool:
    """Return whether an attention does nothing but project, attend and project, as in Stable Diffusion."""
    extras = ("spatial_norm", "group_norm", "norm_q", "norm_k", "norm_cross", "added_kv_proj_dim")
    return (
        type(attention.processor) in (AttnProcessor, AttnProcessor2_0)
        and all(getattr(attention, name, None) is None for name in extras)
        and not attention.residual_connection
        and attention.rescale_output_factor == 1
    )


class ConstantPrompt(ForwardPatch):
    """What one layer of cross-attention does, with the prompt folded in.

    Attributes:
        keys: a of the formula above, [h L, C].
        key_bias: [h L] where W_q has a bias, else None.
        values: b of the formula above, [h L, C].
        bias: Bias of W_o, or the whole output where L is 1, [C].
    """

    def __init__(self, attention: Any, prompt: Tensor) -> None:
        super().__init__(attention)
        heads, scale = attention.heads, attention.scale
        with torch.no_grad():
            tokens = prompt[0].float()  # [L, D]
            key = _project(attention.to_k, tokens).reshape(len(tokens), heads, -1)  # [L, h, d]
            value = _project(attention.to_v, tokens).reshape(len(tokens), heads, -1)  # [L, h, d]
            query, out = attention.to_q, attention.to_out[0]
            query_weight = query.weight.float().reshape(heads, -1, query.in_features)  # [h, d, C]
            out_weight = out.weight.float().reshape(out.out_features, heads, -1)  # [C, h, d]
            keys = scale * torch.einsum("lhd,hdc->hlc", key, query_weight)  # [h, L, C]
            values = torch.einsum("lhd,chd->hlc", value, out_weight)  # [h, L, C]
            dtype = query.weight.dtype
            self.tokens = len(tokens)
            self.keys = keys.flatten(0, 1).to(dtype)
            self.key_bias = None
            if query.bias is not None:
                query_bias = query.bias.float().reshape(heads, -1)  # [h, d]
                self.key_bias = scale * torch.einsum("lhd,hd->hl", key, query_bias).flatten().to(dtype)
            self.values = values.flatten(0, 1).to(dtype)
            bias = torch.zeros_like(values[0, 0]) if out.bias is None else out.bias.float()
            self.bias = (bias + values.sum(dim=(0, 1)) if self.tokens == 1 else bias).to(dtype)

    def to(self, target: torch.device | torch.dtype | str) -> None:
        """Move or cast what was folded."""
        self.keys, self.values, self.bias = self.keys.to(target), self.values.to(target), self.bias.to(target)
        self.key_bias = None if self.key_bias is None else self.key_bias.to(target)

    def __call__(self, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        """Attend at hidden_states [B, T, C]; whatever prompt is passed along does not matter."""
        if self.tokens == 1:
            return self.bias.expand_as(hidden_states)
        seen = hidden_states.to(self.keys.dtype)  # it is not always that of the weights, see `precision`
        logits = torch.nn.functional.linear(seen, self.keys, self.key_bias)  # [B, T, h L]
        weights = logits.view(*logits.shape[:2], -1, self.tokens).softmax(dim=3).flatten(2)  # [B, T, h L]
        attended = torch.nn.functional.linear(weights, self.values.T, self.bias)  # [B, T, C]
        return attended.to(hidden_states.dtype)


def _project(linear: Any, tokens: Tensor) -> Tensor:
    bias = None if linear.bias is None else linear.bias.float()
    return torch.nn.functional.linear(tokens, linear.weight.float(), bias)


def share_time_step(unet: Any) -> None:
    """Project the embedding of the time step once for a whole batch, in a UNet that is given one step."""
    for name, module in list(unet.named_modules()):
        layer = name.rpartition(".")[2]
        is_first = layer == "time_emb_proj" or name.startswith("time_embedding.")
        if is_first and type(module) is nn.Linear and "forward" not in vars(module):
            OneRow(module).install()


class OneRow(ForwardPatch):
    """A layer whose input rows are all equal."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map equal rows [B, C] to equal rows [B, C']."""
        return self.original(x[:1]).expand(len(x), -1)


def pack_convolutions(network: nn.Module) -> None:
    """Let the convolutions of a small network in float32 work on weights in oneDNN's order.

    Networks that are large, in another format or on a machine without oneDNN for x86 are left as they are.
    """
    weights = list(network.parameters())
    small = sum(weight.nbytes for weight in weights) <= MOST_BYTES
    plain = {(weight.dtype, weight.device.type) for weight in weights} == {(torch.float32, "cpu")}
    if not (small and plain and can_pack()):
        return
    modules = list(network.modules())
    for module in modules:
        if (
            isinstance(module, nn.Conv2d)
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        ):
            PackedConv(module).install()
    for module in modules:
        if isinstance(module, AutoencoderTinyBlock) and isinstance(module.conv[1], nn.ReLU):
            FusedTinyBlock(module).install()


def can_pack() -> bool:
    """Return whether torch has oneDNN for x86 here."""
    there = hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    built: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and built and platform.machine() in ("x86_64", "AMD64")


class PackedConv(ForwardPatch):
    """What one convolution does, with packed weights; where its `relu6` is true, with that behind it."""

    method = "_conv_forward"

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.how = [[*module.padding], [*module.stride], [*module.dilation], module.groups]
        packed = module.weight.detach().to_mkldnn()
        self.weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(packed, *self.how, None)
        self.then = RELU6 if getattr(module, "relu6", False) else NOTHING

    def suits(self, x: Tensor) -> bool:
        """Return whether these are numbers that it can work on."""
        return x.dtype == self.module.weight.dtype == torch.float32 and not x.is_meta

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolve float32 [B, C, H, W] to [B, C', H', W']; other formats are left to the module."""
        return self.convolve(x, then=self.then) if self.suits(x) else self.original(x, weight, bias)

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


class FusedTinyBlock(ForwardPatch):
    """What one residual block of a tiny VAE does, in a pass for each of its three convolutions."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to [B, C', H, W]."""
        first, second, third = (vars(self.module.conv[place])[PackedConv.method] for place in (0, 2, 4))
        if not first.suits(x):
            return self.original(x)
        hidden = second.convolve(first.convolve(x, then=RELU), then=RELU)
        fused: Tensor = third.convolve_and_add(hidden, self.module.skip(x), then=RELU)
        return fused


def fold_upsampling(network: Any) -> None:
    """Let all wide enough upsamplers of a network work on small maps."""
    for module in list(network.modules()):
        if isinstance(module, Upsample2D) and _is_plain_upsampler(module):
            FoldedUpsampling(module).install()


def _is_plain_upsampler(module: Any) -> bool:
    """Return whether an upsampler does nothing but enlarge by nearest neighbor and convolve 3x3."""
    conv = getattr(module, "conv", None)
    return (
        type(module) is Upsample2D
        and bool(module.use_conv and module.interpolate)
        and module.norm is None
        and isinstance(conv, torch.nn.Conv2d)
        and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and conv.in_channels >= LEAST_UPSAMPLED
    )


class FoldedUpsampling(ForwardPatch):
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
            return self.original(hidden_states, output_size)
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
            for rows in _routines(padded):
                out[rows, :, below::2, right::2] = functional.conv2d(
                    padded[rows], weight, self.module.conv.bias
                )
        return out


def _routines(x: Tensor) -> list[slice]:
    """Split a batch so that torch convolves it by the routine that it takes for one map: small ones alone."""
    alone = len(x) > 1 and x[0].numel() <= SMALL_MAP
    return [slice(row, row + 1) for row in range(len(x))] if alone else [slice(None)]


def _add_up(weight: Tensor, *, dim: int) -> tuple[Tensor, Tensor]:
    """Add up the weights of a side of three that fall on the same pixel: first and second half of a block."""
    first, middle, last = weight.unbind(dim)
    return torch.stack([first, middle + last], dim), torch.stack([first + middle, last], dim)


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
