"""LeReS: affine-invariant depth by a ResNet or ResNeXt encoder and a decoder that fuses its four stages.

Yin et al., "Learning to Recover 3D Scene Shape from a Single Image", CVPR 2021. Written from the paper; names
and shapes of the weights are those of the published `res50.pth` and `res101.pth`. Those weights are under a
research license of Adobe, without commercial use or redistribution: they do not come with this program, and
are never downloaded by themselves.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from marigold_demo.errors import CheckpointError
from marigold_demo.network.checkpoint_files import CONFIG, LERES_FILES
from marigold_demo.network.weights import READ_ERRORS

WEIGHTS = "model.safetensors"
TERMS = "The weights of LeReS are under a research license of Adobe: no commercial use."
PREFIXES = ("module.", "depth_model.")
FUSED = 256  # channels in the decoder


@dataclass(frozen=True)
class Encoder:
    """Sizes of an encoder.

    Attributes:
        blocks: How many each of the four stages has.
        width: Channels within the blocks of the first stage; each stage doubles it.
        groups: Of their 3x3 convolutions.
        channels: Of the first stage's output; each stage doubles it.
    """

    blocks: tuple[int, int, int, int]
    width: int
    groups: int = 1
    channels: int = 256


ENCODERS = {
    "resnet50": Encoder((3, 4, 6, 3), width=64),
    "resnext101": Encoder((3, 4, 23, 3), width=256, groups=32),
}


class LeReS(nn.Module):
    """Maps rgb [N, 3, h, w] (as for ImageNet, sides multiples of 32) to depth; larger is farther."""

    def __init__(self, encoder: str = "resnet50") -> None:
        """Make the network for one of ENCODERS, with random weights."""
        super().__init__()
        sizes = ENCODERS[encoder]
        self.encoder_modules = nn.ModuleDict({"encoder": _Stages(sizes)})
        self.decoder_modules = _Decoder([sizes.channels * 2**stage for stage in range(4)])

    def forward(self, rgb: Tensor) -> SimpleNamespace:
        """Return an object whose `predicted_depth` is [N, h, w]."""
        return SimpleNamespace(
            predicted_depth=self.decoder_modules(self.encoder_modules["encoder"](rgb))[:, 0]
        )


class _Stages(nn.Module):
    """Encoder: [N, 3, h, w] to four maps at 1/4, 1/8, 1/16 and 1/32 of the size."""

    def __init__(self, sizes: Encoder) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        before = 64
        for stage, count in enumerate(sizes.blocks):
            width, after = sizes.width * 2**stage, sizes.channels * 2**stage
            blocks = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                blocks.append(_Bottleneck(before, width, after, stride=stride, groups=sizes.groups))
                before = after
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        maps = []
        for stage in range(4):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            maps.append(x)
        return maps


class _Bottleneck(nn.Module):
    """Residual block (He et al., CVPR 2016; Xie et al., CVPR 2017); the 3x3 convolution has the stride."""

    def __init__(self, before: int, width: int, after: int, *, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, after, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(after)
        self.downsample: nn.Module | None = None
        if before != after or stride > 1:
            projection = nn.Conv2d(before, after, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        inner = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(inner)))))
        return torch.relu(inner + (x if self.downsample is None else self.downsample(x)))


class _Residual(nn.Module):
    """A 3x3 convolution to other channels, and a residual branch behind it."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv_branch = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))  # the sum is with what the branch sees
        return torch.relu(x + self.conv_branch(x))


class _Fusion(nn.Module):
    """Adds a stage of the encoder to what comes from below, at twice the size."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.ftb1, self.ftb2 = _Residual(before, FUSED), _Residual(FUSED, FUSED)

    def forward(self, stage: Tensor, below: Tensor) -> Tensor:
        return _twice(self.ftb2(self.ftb1(stage) + below))


class _Decoder(nn.Module):
    """Four maps to depth [N, 1, h, w]."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        deepest = 2 * FUSED
        self.conv = _Residual(channels[3], deepest)
        self.conv1 = nn.Conv2d(deepest, FUSED, 3, padding=1)
        self.ffm2, self.ffm1, self.ffm0 = (_Fusion(channels[stage]) for stage in (2, 1, 0))
        last = nn.Sequential(
            nn.Conv2d(FUSED, FUSED // 2, 3, padding=1),
            nn.BatchNorm2d(FUSED // 2),
            nn.ReLU(),
            nn.Conv2d(FUSED // 2, 1, 3, padding=1),
        )
        self.outconv = nn.ModuleDict({"adapt_conv": last})

    def forward(self, maps: list[Tensor]) -> Tensor:
        below = _twice(self.conv1(self.conv(maps[3])))
        below = self.ffm0(maps[0], self.ffm1(maps[1], self.ffm2(maps[2], below)))
        return _twice(self.outconv["adapt_conv"](below))


def _twice(x: Tensor) -> Tensor:
    return nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def read_leres(folder: Path, config: Mapping[str, Any], *, name: str) -> LeReS:
    """Read the network of a folder onto the CPU, from safetensors or else from the published file.

    The published file is read without running code, once: safetensors are put beside it where possible.

    Raises:
        CheckpointError: The weights are damaged, or of another encoder.
    """
    encoder = config.get("encoder")
    if encoder not in ENCODERS:
        raise CheckpointError(
            f"{CONFIG} of {name} has {str(encoder)[:40]} in encoder; it must be {' or '.join(ENCODERS)}."
        )
    converted = (folder / WEIGHTS).is_file()
    file = WEIGHTS if converted else next(f for f, kind in LERES_FILES.items() if kind == encoder)
    try:
        weights = load_file(folder / file) if converted else _published(folder / file)
        with torch.device("meta"):
            network = LeReS(encoder)
        network.load_state_dict(weights, assign=True)
    except (*READ_ERRORS, EOFError, UnpicklingError) as error:
        raise CheckpointError(
            f"{file} of {name} is damaged, or not of a LeReS with {encoder}; download it again."
        ) from error
    if not converted:
        with suppress(OSError):  # a folder that cannot be written to: it is read as it is each time
            save_file(weights, folder / WEIGHTS)
            (folder / CONFIG).write_text(json.dumps({"model_type": "leres", "encoder": encoder}) + "\n")
    return network.eval()


def _published(path: Path) -> dict[str, Tensor]:
    """Return the weights of `res50.pth` or `res101.pth` by the names of our network."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    weights: dict[str, Tensor] = {}
    for key, value in stored.get("depth_model", stored).items():
        for prefix in PREFIXES:
            key = key.removeprefix(prefix)
        weights[key] = value.contiguous()
    return weights
