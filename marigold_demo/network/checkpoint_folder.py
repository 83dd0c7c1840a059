"""A checkpoint folder in diffusers' layout <-> DepthPipeline on the CPU. Knows nothing of hubs or photos.

The layout: `model_index.json`, `unet/`, `vae/`, `scheduler/` and either `text_encoder/` with `tokenizer/` or
`empty_prompt.safetensors`; `image_encoder/` is optional. Only safetensors are read, and no code that comes
with a checkpoint is ever run.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import diffusers
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, LCMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from marigold_demo.catalog import find
from marigold_demo.errors import CheckpointError
from marigold_demo.network.defaults import Defaults
from marigold_demo.network.hub import EMPTY_PROMPT
from marigold_demo.network.image_encoder import EfficientNetLite
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.network.weights import DAMAGED, read_json, read_network

logger = logging.getLogger(__name__)

VAES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
SCHEDULERS = {"DDIMScheduler": DDIMScheduler, "LCMScheduler": LCMScheduler}
OTHER_KINDS = {
    "MarigoldNormalsPipeline": "surface normals",
    "MarigoldIntrinsicsPipeline": "albedo and shading",
}


def read_pipeline(folder: Path, *, name: str, dtype: torch.dtype = torch.float32) -> DepthPipeline:
    """Read a checkpoint folder onto the CPU.

    Args:
        folder: A folder in diffusers' layout.
        name: What the visitor calls it, for messages and for what the catalog knows of it.
        dtype: Number format of the networks.

    Raises:
        CheckpointError: A part is missing, damaged or of the wrong kind.
    """
    index = _read_index(folder, name=name)
    scheduler = _read_scheduler(folder, name=name)
    vae_class = _vae_class(folder, name=name)
    unet = read_network(UNet2DConditionModel, folder / "unet", name=name, dtype=dtype)
    vae = read_network(vae_class, folder / "vae", name=name, dtype=dtype)
    image_encoder = None
    if (folder / "image_encoder").is_dir():
        image_encoder = read_network(EfficientNetLite, folder / "image_encoder", name=name, dtype=dtype)
    _check_channels(unet, vae=vae, image_encoder=image_encoder, name=name)
    empty_prompt = _empty_prompt(folder, name=name)
    if empty_prompt.ndim != 3 or empty_prompt.shape[-1] != unet.config.cross_attention_dim:
        raise CheckpointError(
            f"The text encoder of {name} does not fit its UNet; take both from one checkpoint."
        )
    return DepthPipeline(
        unet=unet,
        vae=vae,
        scheduler=scheduler,
        empty_prompt=empty_prompt.to(dtype),
        defaults=_defaults(index, scheduler=scheduler, name=name),
        image_encoder=image_encoder,
    )


def sketch_pipeline(folder: Path, *, name: str) -> DepthPipeline:
    """Build the pipeline of a checkpoint folder without its weights, on torch's device "meta".

    Raises:
        CheckpointError: A config is missing, damaged or of the wrong kind.
    """
    index = _read_index(folder, name=name)
    scheduler = _read_scheduler(folder, name=name)
    kinds = {"unet": UNet2DConditionModel, "vae": _vae_class(folder, name=name)}
    if (folder / "image_encoder").is_dir():
        kinds["image_encoder"] = EfficientNetLite
    try:
        with torch.device("meta"):
            networks = {
                part: kind.from_config(read_json(folder / part / "config.json", name=name)).eval()
                for part, kind in kinds.items()
            }
            prompt = torch.empty(1, 2, networks["unet"].config.cross_attention_dim)
    except DAMAGED as error:
        raise CheckpointError(f"A config of {name} is damaged; download the checkpoint again.") from error
    defaults = _defaults(index, scheduler=scheduler, name=name)
    return DepthPipeline(**networks, scheduler=scheduler, empty_prompt=prompt, defaults=defaults)


def save_pipeline(pipeline: DepthPipeline, folder: Path | str) -> None:
    """Write a checkpoint folder that `read_pipeline` reads back; it replaces a folder of that name.

    Everything is written beside it first and renamed at the end, so a broken-off save leaves the old one.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = folder.with_name(f".{folder.name}.{uuid4().hex}")
    try:
        _write(pipeline, fresh)
        old = folder.with_name(f".{folder.name}.{uuid4().hex}.old")
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write(pipeline: DepthPipeline, folder: Path) -> None:
    pipeline.unet.save_pretrained(folder / "unet", safe_serialization=True)
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


def _clean_config(network: Any, path: Path) -> None:
    """Take out of a config the folder it came from, and what an AutoencoderTiny would warn of."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    if isinstance(network, AutoencoderTiny):
        config.pop("block_out_channels", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


def _read_index(folder: Path, *, name: str) -> dict[str, Any]:
    index = read_json(folder / "model_index.json", name=name)
    kind = OTHER_KINDS.get(str(index.get("_class_name")))
    if kind is None and index.get("prediction_type", "depth") not in ("depth", None):
        kind = str(index["prediction_type"])
    if kind is not None:
        raise CheckpointError(
            f"{name} predicts {kind}, not depth; "
            "choose a depth checkpoint such as prs-eth/marigold-depth-v1-1."
        )
    return index


def _read_scheduler(folder: Path, *, name: str) -> Any:
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path, name=name)
    kind = config.get("_class_name")
    if kind not in SCHEDULERS:
        raise CheckpointError(
            f"{name} wants the scheduler {kind}; only {' and '.join(SCHEDULERS)} are known here."
        )
    try:
        return SCHEDULERS[kind].from_config(config)
    except DAMAGED as error:
        raise CheckpointError(
            f"scheduler/{path.name} of {name} is damaged; download the checkpoint again."
        ) from error


def _vae_class(folder: Path, *, name: str) -> Any:
    kind = read_json(folder / "vae" / "config.json", name=name).get("_class_name")
    if kind not in VAES:
        raise CheckpointError(
            f"{name} has a VAE of the kind {kind}; only {' and '.join(VAES)} are known here."
        )
    return VAES[kind]


def _check_channels(unet: Any, *, vae: Any, image_encoder: Any, name: str) -> None:
    latent = vae.config.latent_channels
    wanted = 2 * latent + (image_encoder.out_channels if image_encoder is not None else 0)
    if unet.config.in_channels != wanted or unet.config.out_channels != latent:
        raise CheckpointError(
            f"{name} is not a Marigold depth checkpoint: its UNet maps {unet.config.in_channels} to "
            f"{unet.config.out_channels} channels where {wanted} to {latent} are expected."
        )


def _defaults(index: dict[str, Any], *, scheduler: Any, name: str) -> Defaults:
    """Read what the checkpoint says; older ones leave it out."""
    known = find(name)
    few = isinstance(scheduler, LCMScheduler) or scheduler.config.get("timestep_spacing") == "trailing"
    zeros = index.get("start_latent") == "zeros" or (known is not None and known.start_zeros)
    steps, resolution = index.get("default_denoising_steps"), index.get("default_processing_resolution")
    ensemble = index.get("default_ensemble_size")
    if not all(said is None or isinstance(said, int) for said in (steps, resolution, ensemble)):
        raise CheckpointError(f"model_index.json of {name} is damaged; download the checkpoint again.")
    return Defaults(
        steps=steps or (1 if zeros else 4 if few else 10),
        resolution=768 if resolution is None else resolution,
        start="zeros" if zeros else "noise",
        outlines="photo" if index.get("outlines") == "photo" else "network",
        same_pixels=index.get("same_pixels") is True,
        ensemble=ensemble or 1,
    )


def _empty_prompt(folder: Path, *, name: str) -> Tensor:
    """Return the embedding of the empty prompt [1, L, D]; kept beside the weights where possible."""
    path = folder / EMPTY_PROMPT
    try:
        if path.is_file():
            stored: Tensor = load_file(path)["empty_prompt"]
            return stored
    except DAMAGED as error:
        raise CheckpointError(
            f"{EMPTY_PROMPT} of {name} is damaged; download the checkpoint again."
        ) from error
    embedding = encode_empty_prompt(folder, name=name)
    fresh = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        save_file({"empty_prompt": embedding}, fresh)
        fresh.rename(path)
    except (OSError, SafetensorError) as error:  # read-only: the next start runs the text encoder again
        logger.info("The empty prompt of %s could not be kept beside the weights: %s", name, error)
    return embedding


def encode_empty_prompt(folder: Path, *, name: str) -> Tensor:
    """Run the text encoder on the empty prompt; it is dropped afterwards."""
    from transformers import CLIPTextModel, CLIPTokenizer

    read_json(folder / "tokenizer" / "tokenizer_config.json", name=name)
    read_json(folder / "text_encoder" / "config.json", name=name)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        halves = any((folder / "text_encoder").glob("*.fp16*.safetensors"))
        wholes = any(".fp16" not in file.name for file in (folder / "text_encoder").glob("*.safetensors"))
        text_encoder = CLIPTextModel.from_pretrained(
            folder / "text_encoder",
            variant="fp16" if halves and not wholes else None,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
        )
        ids = tokenizer("", padding="do_not_pad", truncation=True, return_tensors="pt").input_ids  # [1, 2]
        with torch.no_grad():
            return text_encoder(ids)[0].clone()  # type: ignore[no-any-return]
    except DAMAGED as error:
        raise CheckpointError(
            f"text_encoder or tokenizer of {name} is damaged or has no safetensors; "
            "download the checkpoint again."
        ) from error
