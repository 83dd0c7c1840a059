"""A checkpoint folder in diffusers' layout <-> DepthPipeline on the CPU, with its own VAE or a tiny one.

The layout: `model_index.json`, `unet/`, `vae/`, `scheduler/` and either `text_encoder/` with `tokenizer/` or
`empty_prompt.safetensors`; `image_encoder/` is optional. Only safetensors are read, and no code that comes
with a checkpoint is ever run.

At one step the VAE of Stable Diffusion costs several times as much as the UNet. TAESD, an AutoencoderTiny
distilled from it, makes drafts in a fraction of the time. It reads and writes the same latents *after*
scaling, so its own scaling factor is 1, and the mean of its three colors is depth as before.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, LCMScheduler, UNet2DConditionModel
from safetensors.torch import save_file

from marigold_demo.catalog import find
from marigold_demo.depth import Run
from marigold_demo.errors import CheckpointError, SettingsError
from marigold_demo.network.checkpoint_files import (
    EMPTY_PROMPT,
    INDEX,
    LAYOUT,
    SCHEDULER,
    cached,
    describe,
    read_json,
    write_sums,
)
from marigold_demo.network.hub import fetch_files
from marigold_demo.network.image_encoder import EfficientNetLite
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.network.plan import CheckpointDefaults, make_scheduler
from marigold_demo.network.weights import (
    INSTEAD,
    READ_ERRORS,
    check_kind,
    check_scheduler,
    check_unet,
    index_number,
    read_config,
    read_empty_prompt,
    read_network,
    scheduler_kind,
)

VAES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
# DDPM is the training's; its config says all that DDIM needs to know.
SCHEDULERS = {"DDIMScheduler": DDIMScheduler, "LCMScheduler": LCMScheduler, "DDPMScheduler": DDIMScheduler}
_END_TO_END = re.compile(r"(?<![a-z0-9])(?:e2e|end-?(?:2|to)-?end)(?![a-z0-9])")
# Files above 10 MB are a burden to Git and its hosts; a large network would be 100 files.
SHARD_BYTES, LARGEST_SHARDED_BYTES = 9_900_000, 2**27
LATENT_SIDE = 16  # pixels of the latents with which the fit of the networks is tried
TINY_VAE_FOLDER = "draft_vae"  # a folder beside vae/, where a checkpoint has a tiny VAE of its own
TAESD = "madebyollin/taesd"  # for all that use the latents of Stable Diffusion 1 and 2
TAESD_FILES = ["config.json", "diffusion_pytorch_model.safetensors"]
TAESD_BYTES = 9_800_000
LATENT_SCALE = 0.18215  # by which these latents are known


def read_pipeline(folder: Path, *, name: str, dtype: torch.dtype = torch.float32) -> DepthPipeline:
    """Read a checkpoint folder onto the CPU.

    Args:
        folder: A folder in diffusers' layout.
        name: What the visitor calls it, for messages and for what the catalog knows of it.
        dtype: Number format of the networks.

    Raises:
        CheckpointError: A part is missing, damaged or of the wrong kind.
    """
    sketch = sketch_pipeline(folder, name=name)  # refuses what cannot be run before memory is taken
    if find(name) is None:
        _check_fit(sketch, name=name)
    image_encoder = None
    if sketch.image_encoder is not None:
        image_encoder = read_network(EfficientNetLite, folder / "image_encoder", name=name, dtype=dtype)
    pipeline = DepthPipeline(
        unet=read_network(UNet2DConditionModel, folder / "unet", name=name, dtype=dtype),
        vae=read_network(type(sketch.vae), folder / "vae", name=name, dtype=dtype),
        scheduler=sketch.scheduler,
        empty_prompt=read_empty_prompt(folder, name=name).to(dtype),
        defaults=sketch.defaults,
        image_encoder=image_encoder,
    )
    if pipeline.empty_prompt.shape[-1] != pipeline.unet.config.cross_attention_dim:
        raise CheckpointError(
            f"The text encoder of {name} does not fit its UNet; take both from one checkpoint."
        )
    return pipeline


def sketch_pipeline(folder: Path, *, name: str) -> DepthPipeline:
    """Build the pipeline of a checkpoint folder without its weights, on torch's device "meta".

    Raises:
        CheckpointError: A config is missing, damaged or of the wrong kind.
    """
    index = _read_index(folder, name=name)
    scheduler = _read_scheduler(folder, index=index, name=name)
    unet = read_config(folder / "unet", name=name)
    check_unet(unet, name=name)
    parts: dict[str, tuple[Any, dict[str, Any]]] = {"unet": (UNet2DConditionModel, unet)}
    for part, kinds in (("vae", VAES), ("image_encoder", {"EfficientNetLite": EfficientNetLite})):
        if part == "vae" or (folder / part).is_dir():
            config = read_config(folder / part, name=name)
            parts[part] = (_kind(config, kinds, part=part, name=name), config)
    try:
        with torch.device("meta"):
            networks = {part: kind.from_config(config).eval() for part, (kind, config) in parts.items()}
            prompt = torch.empty(1, 2, networks["unet"].config.cross_attention_dim)
        pipeline = DepthPipeline(
            **networks,
            scheduler=scheduler,
            empty_prompt=prompt,
            defaults=_defaults(index, folder, scheduler=scheduler, name=name),
        )
    except READ_ERRORS as error:
        raise CheckpointError(f"A config of {name} is damaged; download the checkpoint again.") from error
    _check_channels(pipeline, name=name)
    return pipeline


def save_pipeline(pipeline: DepthPipeline, folder: Path | str) -> None:
    """Write a checkpoint folder that `read_pipeline` reads back; it replaces a folder of that name.

    Everything is written beside it first and renamed at the end, so a broken-off save leaves the old one.
    """
    with replaced_at_the_end(Path(folder)) as fresh:
        _write(pipeline, fresh)


@contextmanager
def replaced_at_the_end(folder: Path) -> Iterator[Path]:
    """Give the name of a folder that is to be written; it takes the place of `folder` if nothing fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        yield fresh
        old = folder.with_name(f".{folder.name}.{uuid4().hex}.old")
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write(pipeline: DepthPipeline, folder: Path) -> None:
    _save_in_shards(pipeline.unet, folder / "unet")
    pipeline.vae.save_pretrained(folder / "vae", safe_serialization=True)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    if pipeline.image_encoder is not None:
        pipeline.image_encoder.save_pretrained(folder / "image_encoder", safe_serialization=True)  # type: ignore[operator]
    for part in ("unet", "vae", "image_encoder"):
        if (folder / part).is_dir():
            _clean_config(getattr(pipeline, part), folder / part / "config.json")
    save_file(
        {"empty_prompt": pipeline.empty_prompt.detach().float().cpu().contiguous()}, folder / EMPTY_PROMPT
    )
    defaults = pipeline.defaults
    index: dict[str, Any] = {
        "_class_name": "MarigoldDepthPipeline",
        "_diffusers_version": diffusers.__version__,
        "default_denoising_steps": defaults.steps,
        "default_processing_resolution": defaults.resolution,
        "default_ensemble_size": defaults.ensemble,
        "same_pixels": defaults.same_pixels,
        "prediction_type": defaults.prediction_type,
        "scale_invariant": True,
        "shift_invariant": True,
        "start_latent": defaults.start,
        "outlines": defaults.outlines,
        "unet": ["diffusers", type(pipeline.unet).__name__],
        "vae": ["diffusers", type(pipeline.vae).__name__],
        "scheduler": ["diffusers", type(pipeline.scheduler).__name__],
        "text_encoder": [None, None],
        "tokenizer": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    mode = (folder / "model_index.json").stat().st_mode
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(mode)  # safetensors lets the owner alone read them
    write_sums(folder)


def _save_in_shards(network: Any, folder: Path) -> None:
    """Write a network of moderate size in files of at most SHARD_BYTES, with diffusers' index of them."""
    size_bytes = sum(weight.numel() * weight.element_size() for weight in network.state_dict().values())
    limit = {"max_shard_size": SHARD_BYTES} if size_bytes <= LARGEST_SHARDED_BYTES else {}
    network.save_pretrained(folder, safe_serialization=True, **limit)


def _clean_config(network: Any, path: Path) -> None:
    """Take out of a config the folder it came from, and what an AutoencoderTiny would warn of."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    if isinstance(network, AutoencoderTiny):
        config.pop("block_out_channels", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def _read_index(folder: Path, *, name: str) -> dict[str, Any]:
    if not (folder / INDEX).is_file() and not (folder / INDEX).is_symlink():
        raise CheckpointError(
            f"{name} is not a Marigold checkpoint: {INDEX} is missing, {describe(folder, name=name)}. "
            f"Give {LAYOUT}."
        )
    if not (folder / "scheduler").is_dir() and not (folder / "unet").is_dir():
        raise CheckpointError(
            f"{name} is not laid out as a checkpoint: {describe(folder, name=name)}. Give {LAYOUT}."
        )
    index = read_json(folder / INDEX, name=name)
    check_kind(index, name=name)
    return index


def _read_scheduler(folder: Path, *, index: dict[str, Any], name: str) -> Any:
    config = read_json(folder / "scheduler" / SCHEDULER, name=name)
    kind = scheduler_kind(config, index, known=list(SCHEDULERS), name=name)
    check_scheduler(config, name=name)
    try:
        scheduler = SCHEDULERS[kind].from_config(config)
        sound = bool(((scheduler.alphas_cumprod >= 0) & (scheduler.alphas_cumprod <= 1)).all())
        if sound:
            make_scheduler(scheduler, steps=1)
            return scheduler
    except (*READ_ERRORS, SettingsError) as error:
        raise CheckpointError(
            f"scheduler/{SCHEDULER} of {name} is damaged; download the checkpoint again."
        ) from error
    raise CheckpointError(
        f"scheduler/{SCHEDULER} of {name} gives noise that is no number; download it again."
    )


def _kind(config: dict[str, Any], kinds: dict[str, Any], *, part: str, name: str) -> Any:
    listed = config.get("architectures")  # as transformers write it
    kind = str(config.get("_class_name") or (listed[0] if isinstance(listed, list) and listed else None))
    if kind not in kinds:
        raise CheckpointError(
            f"{part} of {name} is of the kind {kind[:60]}; only {' and '.join(kinds)} are known here."
        )
    return kinds[kind]


def _check_channels(pipeline: DepthPipeline, *, name: str) -> None:
    unet, image_encoder, latent = pipeline.unet, pipeline.image_encoder, pipeline.vae.config.latent_channels
    wanted = 2 * latent + (image_encoder.out_channels if image_encoder is not None else 0)
    if unet.config.in_channels != wanted or unet.config.out_channels != latent:
        raise CheckpointError(
            f"{name} is not a Marigold depth checkpoint: its UNet maps {unet.config.in_channels} to "
            f"{unet.config.out_channels} channels where {wanted} to {latent} are expected; {INSTEAD}."
        )


def _check_fit(sketch: DepthPipeline, *, name: str) -> None:
    """Run the networks without weights once, so that what does not fit shows before the weights are read.

    Raises:
        CheckpointError: They do not fit together, or ask for more than a photo.
    """
    side = LATENT_SIDE * sketch.vae_scale_factor
    try:
        with torch.no_grad(), torch.device("meta"):
            rgb, t = torch.empty(1, 3, side, side), torch.empty((), dtype=torch.int64)
            seen = [sketch.encode_image(rgb)] * 2
            if sketch.image_encoder is not None:
                seen.append(sketch.image_encoder(rgb))
            prompt = sketch.empty_prompt
            (noise,) = sketch.unet(torch.cat(seen, dim=1), t, encoder_hidden_states=prompt, return_dict=False)
            sketch.decode_depth(noise)
    except READ_ERRORS as error:
        raise CheckpointError(
            f"The networks of {name} do not fit together or ask for more than a photo; {INSTEAD}."
        ) from error


def _defaults(index: dict[str, Any], folder: Path, *, scheduler: Any, name: str) -> CheckpointDefaults:
    """Read what the checkpoint says; older ones leave it out."""
    few = isinstance(scheduler, LCMScheduler) or scheduler.config.get("timestep_spacing") == "trailing"
    steps = index_number(index, "default_denoising_steps", setting="steps", name=name)
    resolution = index_number(index, "default_processing_resolution", setting="resolution", name=name)
    ensemble = index_number(index, "default_ensemble_size", setting="ensemble", name=name)
    zeros = _starts_from_zeros(index, folder, scheduler=scheduler, steps=steps, name=name)
    return CheckpointDefaults(
        steps=steps or (1 if zeros else 4 if few else 10),
        resolution=768 if resolution is None else resolution,
        start="zeros" if zeros else "noise",
        outlines="photo" if index.get("outlines") == "photo" else "network",
        same_pixels=index.get("same_pixels") is True,
        ensemble=ensemble or 1,
    )


def _starts_from_zeros(
    index: dict[str, Any], folder: Path, *, scheduler: Any, steps: int | None, name: str
) -> bool:
    """Return whether a checkpoint was tuned end to end: it says so, its name does, or its config is theirs.

    Those of Garcia et al. (E2E-FT) take one step with trailing DDIM whose betas are not rescaled, which no
    Marigold with noise does.
    """
    known = find(name.partition("@")[0])
    if index.get("start_latent") in ("zeros", "noise"):
        return bool(index["start_latent"] == "zeros")
    names = (name, str(index.get("_name_or_path")), folder.name, folder.parent.parent.name)
    if (known is not None and known.start_zeros) or any(_END_TO_END.search(one.lower()) for one in names):
        return True
    config = scheduler.config
    trailing = config.get("timestep_spacing") == "trailing" and not config.get("rescale_betas_zero_snr")
    return steps == 1 and isinstance(scheduler, DDIMScheduler) and trailing


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
