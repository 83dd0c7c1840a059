"""Layers that compute the same in another way: a constant prompt, packed convolutions, folded upsampling.

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
"""

import platform
from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
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
