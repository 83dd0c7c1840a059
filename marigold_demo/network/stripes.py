"""A VAE worked through in stripes of rows: the same numbers in less memory. Knows nothing of depth.

Tiles of a picture that go through the whole network one by one show seams, because each has normalisation
statistics of its own. Here every layer goes through its map stripe by stripe instead: a convolution sees the
rows it needs beyond its stripe, and the statistics of a normalisation are those of the whole map. So the
result is exact but for rounding; what is saved are the copies of the map between a layer's steps. On a GPU
the maps themselves can be kept in the host's memory, so that only stripes are on the card.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from marigold_demo.network.depth_head import MeanConv
from marigold_demo.network.residual_bands import ResidualBands, affine

ROWS = 64  # of a stripe; even, so that halving keeps them apart
HALO = {AutoencoderTinyBlock: 3, Upsample2D: 2, Downsample2D: 2, MeanConv: 1}  # rows seen beyond a stripe
SCALE = {Upsample2D: 2.0, Downsample2D: 0.5}


@contextmanager
def in_stripes(network: nn.Module, *, keep: torch.device | None = None) -> Iterator[None]:
    """Let the layers of a VAE's encoder or decoder work in stripes meanwhile.

    Args:
        network: Of diffusers' blocks; others work as ever.
        keep: Where maps are kept between layers; None: where the network is.
    """
    changed: dict[nn.Module, Any] = {}
    for module in list(network.modules()):
        striped = _striped_forward(module, keep=keep)
        if striped is not None:
            changed[module] = vars(module).get("forward")
            module.forward = striped
    try:
        yield
    finally:
        for module, forward in changed.items():
            vars(module).pop("forward")
            if forward is not None:  # it was another's, see `stand_in`
                module.forward = forward


def _striped_forward(module: Any, *, keep: torch.device | None) -> Callable[..., Tensor] | None:
    kind = type(module)
    forward = module.forward
    if isinstance(forward, ResidualBands) and forward.in_float32:
        return None  # its bands are thinner than stripes
    if kind is ResnetBlock2D and _is_plain(module):
        return partial(_resnet, module, keep=keep)
    if kind not in HALO:
        return None

    def run(x: Tensor, *rest: Any, **named: Any) -> Tensor:
        return _by_rows(
            lambda part: forward(part, *rest, **named),
            x,
            halo=HALO[kind],
            scale=SCALE.get(kind, 1.0),
            keep=keep,
            device=next(module.parameters()).device,
        )

    return run


def _is_plain(block: Any) -> bool:
    """Tell whether a residual block is one of a VAE: without time and without resizing."""
    return block.time_emb_proj is None and block.upsample is None and block.downsample is None


def _resnet(block: Any, x: Tensor, *_: Any, keep: torch.device | None, **__: Any) -> Tensor:
    """Compute a residual block of the map x [B, C, H, W] -> [B, C', H, W]."""
    rows = partial(_by_rows, halo=1, scale=1.0, keep=keep, device=block.conv1.weight.device)
    normal = _normaliser(block.norm1, x)
    hidden = rows(lambda part: block.conv1(block.nonlinearity(normal(part))), x)  # [B, C', H, W]
    normal_again = _normaliser(block.norm2, hidden)

    def second(both: Tensor) -> Tensor:
        came, part = torch.split(both, [x.shape[1], hidden.shape[1]], dim=1)
        residual = came if block.conv_shortcut is None else block.conv_shortcut(came)
        refined = block.conv2(block.dropout(block.nonlinearity(normal_again(part))))
        return (residual + refined) / block.output_scale_factor  # type: ignore[no-any-return]

    return rows(second, x, hidden)


def _by_rows(
    run: Callable[[Tensor], Tensor],
    *maps: Tensor,
    halo: int,
    scale: float,
    keep: torch.device | None,
    device: torch.device,
) -> Tensor:
    """Run a layer over maps [B, C, H, W] stripe by stripe; several maps are seen as one with all channels."""
    height = maps[0].shape[2]
    whole: Tensor | None = None
    for top in range(0, height, ROWS):
        bottom = min(top + ROWS, height)
        first, last = max(0, top - halo), min(height, bottom + halo)
        seen = [part[:, :, first:last].to(device) for part in maps]
        result = run(torch.cat(seen, dim=1) if len(seen) > 1 else seen[0])
        if whole is None:
            shape = (*result.shape[:2], int(height * scale), result.shape[3])
            whole = torch.empty(shape, dtype=result.dtype, device=keep or device)
            if device.type == "cpu":
                whole = whole.to(memory_format=torch.channels_last)
        inside = slice(int((top - first) * scale), int((bottom - first) * scale))
        whole[:, :, int(top * scale) : int(bottom * scale)] = result[:, :, inside]
    if whole is None:
        raise ValueError("a map without rows")
    return whole


def _normaliser(norm: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what a GroupNorm does to a part of the map x [B, C, H, W], with the statistics of all of it."""
    batch, channels, height, width = x.shape
    device = norm.weight.device
    sums = torch.zeros(2, batch, channels, dtype=torch.float64, device=device)
    for top in range(0, height, ROWS):
        part = x[:, :, top : top + ROWS].to(device).double()
        sums += torch.stack([part.sum(dim=(2, 3)), part.square().sum(dim=(2, 3))])
    gain, shift = (
        values[:, :, None, None] for values in affine(norm, sums, pixels=height * width)
    )  # [B, C, 1, 1]
    return lambda part: torch.addcmul(shift, part.float(), gain).to(part.dtype)
