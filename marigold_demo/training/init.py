"""What training starts from: toy networks, Stable Diffusion 2 or a Marigold. Knows nothing of losses."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn

from marigold_demo.errors import CheckpointError
from marigold_demo.network.checkpoint import open_pipeline
from marigold_demo.network.defaults import Defaults
from marigold_demo.network.empty_prompt import encode_empty_prompt
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.training.tiny import load_published_encoder, make_scheduler, make_tiny
from marigold_demo.training.train_settings import TrainSettings

SD_RESOLUTION = 768
SD_STEPS = 4


def open_init(settings: TrainSettings) -> DepthPipeline:
    """Make or load the pipeline that training starts from, in float32 on the CPU.

    Raises:
        CheckpointError: The folder is neither a Stable Diffusion 2 nor a Marigold checkpoint.
        SettingsError: The package of the image encoder is not installed.
    """
    if settings.init == "tiny":
        return make_tiny(image_encoder=load_published_encoder(settings.image_encoder), seed=settings.seed)
    folder = Path(settings.init)
    if _is_stable_diffusion(folder):
        return from_stable_diffusion(folder)
    return open_pipeline(settings.init, dtype=torch.float32)


def _is_stable_diffusion(folder: Path) -> bool:
    config = folder / "unet" / "config.json"
    return config.is_file() and UNet2DConditionModel.load_config(config)["in_channels"] == 4


def from_stable_diffusion(folder: Path) -> DepthPipeline:
    """Make a Marigold of a Stable Diffusion folder: its UNet sees two latents instead of one.

    Raises:
        CheckpointError: A part is missing or damaged.
    """
    try:
        unet = UNet2DConditionModel.from_pretrained(
            folder / "unet", local_files_only=True, torch_dtype=torch.float32
        )
        vae = AutoencoderKL.from_pretrained(folder / "vae", local_files_only=True, torch_dtype=torch.float32)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} is not a whole Stable Diffusion folder ({error}); "
            "it needs unet, vae, text_encoder and tokenizer."
        ) from error
    double_input(unet)
    return DepthPipeline(
        unet=unet,
        vae=vae,
        scheduler=make_scheduler(),
        empty_prompt=encode_empty_prompt(folder, name=str(folder)),
        defaults=Defaults(steps=SD_STEPS, resolution=SD_RESOLUTION),
    )


def double_input(unet: Any) -> None:
    """Let a UNet of C input channels take 2 C, weights duplicated and halved (Ke et al. 2024, section 3.2).

    Fed the same latent twice it gives what it gave before.
    """
    old: Any = unet.conv_in
    new = nn.Conv2d(
        2 * old.in_channels, old.out_channels, old.kernel_size, stride=old.stride, padding=old.padding
    )
    with torch.no_grad():
        new.weight.copy_(old.weight.repeat(1, 2, 1, 1) / 2)
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=2 * old.in_channels)
