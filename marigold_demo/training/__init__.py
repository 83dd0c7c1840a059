"""TrainSettings: what somebody who trains may choose, with limits and defaults, and the three protocols."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from marigold_demo.errors import SettingsError
from marigold_demo.settings import check, option

Protocol = Literal["small", "paper", "e2e"]
Encoder = Literal["none", "lite0", "lite1", "lite2"]
Precision = Literal["float32", "bf16", "fp16"]
Optimizer = Literal["adam", "adamw", "adam8bit", "adamw8bit"]
Recompute = Literal["auto", "on", "off"]
Pictures = Literal["crops", "whole", "smooth"]
Noise = Literal["doubling", "original"]
Sky = Literal["far", "masked"]
Loss = Literal["full", "affine"]
Tracker = Literal["none", "tensorboard", "wandb"]
LARGEST_STEPS = 10_000_000


@dataclass(frozen=True)
class TrainSettings:
    """How a checkpoint is trained. Steps are optimizer steps; 0 leaves a stage out."""

    protocol: Protocol = option(
        "small",
        "Where all other settings begin: small: the embedded checkpoint, paper: Marigold v1-1, e2e: E2E-FT",
        choices=get_args(Protocol),
    )
    init: str = option(
        "tiny", "Start: 'tiny' (from scratch), or Stable Diffusion 2 or a Marigold by folder or hub name"
    )
    data: str = option(
        "scenes",
        "Pictures: 'scenes' (endless, drawn), or folders and tars as KIND:FOLDER:LIST.txt@SHARE joined by "
        "commas, KIND being pairs, hypersim or vkitti; list and share where wanted",
    )
    pictures: Pictures = option(
        "crops",
        "Crops, mirrored and disturbed; or whole, mirrored, one source in a batch, the photo reduced by "
        "nearest pixels (whole) or smoothly (smooth)",
        choices=get_args(Pictures),
    )
    out: str = option("runs/train", "Folder for the run; its checkpoint/ loads with --checkpoint")
    image_encoder: Encoder = option(
        "lite2", "Pretrained encoder beside the VAE; tiny only", choices=get_args(Encoder)
    )
    vae_steps: int = option(700, "Steps of the VAE; tiny only", limits=(0, LARGEST_STEPS))
    diffusion_steps: int = option(140, "Steps of the paper's diffusion training", limits=(0, LARGEST_STEPS))
    end_to_end_steps: int = option(4300, "Steps of end-to-end training after it", limits=(0, LARGEST_STEPS))
    noise: Noise = option(
        "doubling",
        "Levels of the diffusion's noise: each half as large as the one before, or at random (original)",
        choices=get_args(Noise),
    )
    loss: Loss = option(
        "full",
        "End to end: relative error, edges, sky and range (full), or E2E-FT's affine-invariant L1 (affine)",
        choices=get_args(Loss),
    )
    sky: Sky = option("far", "Sky is far, or left out of the losses", choices=get_args(Sky))
    batch: int = option(
        8,
        "Pictures that each process sees at once; a step sees batch x accumulate x processes",
        limits=(1, 4096),
    )
    accumulate: int = option(1, "Batches summed up before the weights move", limits=(1, 4096))
    lr: float | None = option(
        None, "Largest learning rate; unset: 3e-5, for tiny 5e-4", limits=(0, 1), optional=True
    )
    encoder_lr: float = option(
        0.0, "Learning rate of the image encoder, end to end; 0: frozen", limits=(0, 1)
    )
    decoder_lr: float = option(
        0.0, "Learning rate of the VAE's decoder, end to end; 0: frozen", limits=(0, 1)
    )
    optimizer: Optimizer = option(
        "adam",
        "Adam, also with 8 bits (bitsandbytes, CUDA); fused on CUDA",
        choices=get_args(Optimizer),
    )
    beta2: float = option(0.99, "Adam's second decay", limits=(0, 0.99999))
    weight_decay: float = option(0.0, "Weight decay", limits=(0, 1))
    largest_gradient: float = option(1.0, "Norm to which gradients are cut; 0: never", limits=(0, 1_000_000))
    warmup_steps: int = option(50, "Steps in which the learning rate rises", limits=(0, 1_000_000))
    decay_steps: int = option(
        0, "Step at which the learning rate has come down; 0: the last one", limits=(0, LARGEST_STEPS)
    )
    final_lr: float = option(0.02, "Learning rate at the end as a share of the largest", limits=(1e-6, 1))
    ema: float = option(
        0.998, "How much of the averaged weights stays at each step; 0: no average", limits=(0, 0.99999)
    )
    keep_init: float = option(
        0.0, "Share of the weights it started from in the result; not with tiny", limits=(0, 1)
    )
    shapes: str = option(
        "192x144,192x144,256x192,144x192,176x176,320x96,256x144,256x192",
        "Sizes of the pictures, WIDTHxHEIGHT joined by commas; a batch has one of them",
    )
    fresh: float = option(0.15, "Share of every batch that is a scene never seen before", limits=(0.01, 1))
    precision: Precision = option(
        "float32", "Number format of the networks' work", choices=get_args(Precision)
    )
    gradient_checkpointing: Recompute = option(
        "auto",
        "Less memory for a third more time: blocks are worked out twice; auto: in large networks",
        choices=get_args(Recompute),
    )
    save_every: int = option(
        100,
        "Steps from one saved state to the next, from which the same command goes on",
        limits=(1, 1_000_000),
    )
    checkpoint_every: int = option(
        500, "Steps from one numbered checkpoint to the next", limits=(1, 1_000_000)
    )
    keep_checkpoints: int = option(3, "Numbered checkpoints that stay, the newest ones", limits=(1, 1000))
    validate_every: int = option(500, "Steps from one validation to the next", limits=(1, 1_000_000))
    validation_batches: int = option(4, "Batches that are held out for validation", limits=(1, 1000))
    validate_on: str = option(
        "",
        "Folders of photos with known depth, joined by commas, as evaluate takes them: AbsRel and delta1 are"
        " measured on them and choose the best checkpoint; empty: the held-out batches do",
    )
    tracker: Tracker = option(
        "none", "Where else the log goes, a package to be installed", choices=get_args(Tracker)
    )
    workers: int = option(2, "Threads that prepare pictures", limits=(1, 64))
    seed: int = option(2024, "Start of all random numbers: weights, pictures, noise", limits=(0, 2**31 - 1))

    def __post_init__(self) -> None:
        check(self)
        for name in ("init", "data", "out"):
            if not getattr(self, name):
                raise SettingsError(f"{name} is empty; see --help for what it takes.")
        if self.keep_init and self.init == "tiny":
            raise SettingsError("keep_init mixes in the weights of init, and tiny has none; leave it at 0.")
        self.sizes  # noqa: B018  # checked here, read later

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """The shapes as (width, height) in pixels.

        Raises:
            SettingsError: A shape is not WIDTHxHEIGHT with both multiples of 8 and at least 32.
        """
        sizes = []
        for shape in self.shapes.split(","):
            match = re.fullmatch(r"\s*(\d+)x(\d+)\s*", shape)
            size = (int(match[1]), int(match[2])) if match else (0, 0)
            if min(size) < 32 or size[0] % 8 or size[1] % 8:
                raise SettingsError(
                    f"The shape {shape!r} is not WIDTHxHEIGHT with both multiples of 8 and at least 32."
                )
            sizes.append(size)
        return tuple(sizes)

    @property
    def peak_lr(self) -> float:
        """The largest learning rate of the UNet."""
        return self.lr if self.lr is not None else 5e-4 if self.init == "tiny" else 3e-5


# TrainSettings' defaults; Ke et al. 2024 as released for Marigold v1-1; Garcia et al. 2024.
PROTOCOLS: Mapping[str, TrainSettings] = MappingProxyType(
    {
        "small": TrainSettings(),
        "paper": TrainSettings(
            protocol="paper",
            init="stabilityai/stable-diffusion-2",
            data="hypersim:data/hypersim@0.9,vkitti:data/vkitti@0.1",
            pictures="whole",
            vae_steps=0,
            diffusion_steps=30_000,
            end_to_end_steps=0,
            noise="original",
            sky="masked",
            batch=2,
            accumulate=16,
            lr=3e-5,
            beta2=0.999,
            largest_gradient=0,
            warmup_steps=100,
            decay_steps=25_000,
            final_lr=0.01,
            ema=0,
            shapes="640x480",
        ),
        "e2e": TrainSettings(
            protocol="e2e",
            init="prs-eth/marigold-depth-v1-0",
            data="hypersim:data/hypersim@0.9,vkitti:data/vkitti@0.1",
            pictures="smooth",
            vae_steps=0,
            diffusion_steps=0,
            end_to_end_steps=20_000,
            loss="affine",
            sky="masked",
            batch=2,
            accumulate=16,
            lr=3e-5,
            optimizer="adamw",
            beta2=0.999,
            weight_decay=0.01,
            warmup_steps=100,
            final_lr=0.01,
            ema=0,
            shapes="640x480",
        ),
    }
)
