"""A whole Marigold at toy width, of the real classes with seeded random weights."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    LCMScheduler,
    MarigoldDepthPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.network.plan import CheckpointDefaults

BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "v_prediction",
}
TRAILING = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
SCHEDULERS = {
    "trailing": lambda: DDIMScheduler(**BETAS, **TRAILING),
    "trailing_plain": lambda: DDIMScheduler(**BETAS, timestep_spacing="trailing"),
    "leading": lambda: DDIMScheduler(**BETAS, timestep_spacing="leading"),
    "lcm": lambda: LCMScheduler(**BETAS),
}
STEPS, RESOLUTION = 2, 64
PROMPT_WIDTH = 32


def make_unet(*, in_channels: int = 8) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(32, 64),
        layers_per_block=2,
        sample_size=32,
        in_channels=in_channels,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=PROMPT_WIDTH,
    ).eval()


def make_vae(*, levels: int = 4) -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16)[:levels],
        norm_num_groups=4,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
    ).eval()


def make_tiny_vae() -> AutoencoderTiny:
    torch.manual_seed(1)
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    ).eval()


def make_text_encoder() -> CLIPTextModel:
    torch.manual_seed(2)
    return CLIPTextModel(
        CLIPTextConfig(
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
            hidden_size=PROMPT_WIDTH,
            intermediate_size=37,
            num_attention_heads=4,
            num_hidden_layers=2,
            vocab_size=3,
        )
    ).eval()


def make_parts(*, scheduler: str = "trailing", tiny_vae: bool = False) -> dict[str, Any]:
    return {
        "unet": make_unet(),
        "vae": make_tiny_vae() if tiny_vae else make_vae(),
        "scheduler": SCHEDULERS[scheduler](),
        "text_encoder": make_text_encoder(),
        "tokenizer": CLIPTokenizer(model_max_length=77),
    }


def make_reference(**choices: Any) -> MarigoldDepthPipeline:
    """Return diffusers' own pipeline over the parts."""
    reference = MarigoldDepthPipeline(
        **make_parts(**choices),
        prediction_type="depth",
        default_denoising_steps=STEPS,
        default_processing_resolution=RESOLUTION,
    )
    reference.set_progress_bar_config(disable=True)
    return reference


def make_pipeline(**choices: Any) -> DepthPipeline:
    """Return our pipeline over the same parts."""
    parts = make_parts(**choices)
    with torch.no_grad():
        ids = parts["tokenizer"]("", padding="do_not_pad", return_tensors="pt").input_ids
        empty_prompt = parts["text_encoder"](ids)[0].clone()
    return DepthPipeline(
        unet=parts["unet"],
        vae=parts["vae"],
        scheduler=parts["scheduler"],
        empty_prompt=empty_prompt,
        defaults=CheckpointDefaults(steps=STEPS, resolution=RESOLUTION),
    )
