"""Cross-attention to a prompt that never changes, folded into thin matrices.

Marigold's UNet always attends to the empty prompt (Ke et al., CVPR 2024, section 3.1): L = 2 tokens, the same
at each step of each photo. With W_q, W_k, W_v, W_o the projections, x a position, p_l a token and h a head,

    logit_hl = (W_q x)_h . (W_k p_l)_h / sqrt(d) = a_hl . x,    out = sum_hl softmax_l(logit_h)_l b_hl + bias,

where a_hl and b_hl = W_o,h (W_v p_l)_h do not depend on x. So two C x C projections of each position become
two C x hL ones, and a prompt of a single token makes the whole layer a constant. Exact but for rounding.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor

from marigold_demo.network.cpu.forward_patch import ForwardPatch


def fold_constant_prompt(unet: Any, prompt: Tensor) -> None:
    """Let a UNet attend to a constant prompt [1, L, D], whatever prompt it is given."""
    for module in list(unet.modules()):
        if isinstance(module, Attention) and module.is_cross_attention and _is_plain(module):
            ConstantPrompt(module, prompt).install()


def _is_plain(attention: Any) -> bool:
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
