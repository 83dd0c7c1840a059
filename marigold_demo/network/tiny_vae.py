"""A pipeline with a tiny VAE in place of its own: drafts in a fraction of the time.

At one step the VAE of Stable Diffusion costs several times as much as the UNet. TAESD is an AutoencoderTiny
distilled from it. It reads and writes the same latents *after* scaling, so its own scaling factor is 1, and
the mean of its three colors is depth as before.
"""

from pathlib import Path

from diffusers import AutoencoderTiny

from marigold_demo.depth import Run
from marigold_demo.errors import CheckpointError, SettingsError
from marigold_demo.network.hub import cached, fetch_files
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.network.weight_files import read_json
from marigold_demo.network.weights import read_network

TINY_VAE_FOLDER = "draft_vae"  # a folder beside vae/, where a checkpoint has a tiny VAE of its own
TAESD = "madebyollin/taesd"  # for all that use the latents of Stable Diffusion 1 and 2
TAESD_FILES = ["config.json", "diffusion_pytorch_model.safetensors"]
TAESD_BYTES = 9_800_000
LATENT_SCALE = 0.18215  # by which these latents are known


def has_tiny_vae(pipeline: DepthPipeline) -> bool:
    """Return whether the checkpoint's own VAE is a tiny one, so that its depth is a draft already."""
    return isinstance(pipeline.vae, AutoencoderTiny)


def folder_has_tiny_vae(checkpoint: Path) -> bool:
    """Return the same for a checkpoint folder."""
    config = read_json(checkpoint / "vae" / "config.json", name=checkpoint.name)
    return config.get("_class_name") == "AutoencoderTiny"


def check_latents(pipeline: DepthPipeline, *, name: str) -> None:
    """Check that the latents of a checkpoint are those of Stable Diffusion.

    Raises:
        SettingsError: They are of another kind.
    """
    config = pipeline.vae.config
    if config.latent_channels != 4 or abs(float(config.scaling_factor) - LATENT_SCALE) > 1e-6:
        raise SettingsError(
            f"quality is draft, but {name} has latents of its own that no draft is known for; set it to full."
        )


def find_tiny_vae(checkpoint: Path) -> Path | None:
    """Return the folder of the tiny VAE for a checkpoint folder if it is on this machine."""
    own = checkpoint / TINY_VAE_FOLDER
    if own.is_dir():
        return own
    folders = [cached(TAESD, file=file) for file in TAESD_FILES]
    return folders[0] if all(folders) else None


def tiny_vae_folder(checkpoint: Path, run: Run) -> Path:
    """Download the tiny VAE for a checkpoint folder where it is not here yet, and return its folder.

    Raises:
        CheckpointError: It is not here and the hub cannot be reached.
    """
    here = find_tiny_vae(checkpoint)
    if here is not None:
        return here
    try:
        return fetch_files(TAESD, choose=lambda *_: TAESD_FILES, run=run)
    except CheckpointError as error:
        raise CheckpointError(
            f"Draft quality needs {TAESD}, which is not on this machine and could not be downloaded; set "
            "quality to full, or connect to the internet once."
        ) from error


def with_tiny_vae(pipeline: DepthPipeline, folder: Path) -> DepthPipeline:
    """Return a pipeline that shares the UNet, but encodes and decodes with the tiny VAE of a folder.

    Raises:
        CheckpointError: The folder is incomplete or damaged.
    """
    draft = DepthPipeline(
        unet=pipeline.unet,
        vae=read_network(AutoencoderTiny, folder, name=TAESD, dtype=pipeline.dtype),
        scheduler=pipeline.scheduler,
        empty_prompt=pipeline.empty_prompt,
        defaults=pipeline.defaults,
        image_encoder=pipeline.image_encoder,
    )
    return draft.optimize(pipeline.device.type).to(pipeline.device)
