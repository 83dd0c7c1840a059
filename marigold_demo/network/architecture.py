"""The shape of Stable Diffusion 2 as a Marigold, known before any of it is downloaded. Holds no weights."""

from typing import Any

UNET: dict[str, Any] = {
    "sample_size": 96,
    "in_channels": 8,
    "out_channels": 4,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
TINY_VAE: dict[str, Any] = {"_class_name": "AutoencoderTiny"}  # TAESD: the class's defaults
RESOLUTION = 768
