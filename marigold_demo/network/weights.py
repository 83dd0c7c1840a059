"""The folder of one network -> the network on the CPU, and the embedding of the empty prompt.

Configs are checked before memory is taken. Only safetensors are read, and no code that comes with a
checkpoint is ever run. The empty prompt is the only text these networks see: read, or encoded once and kept.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from diffusers.utils import logging as diffusers_logging
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from marigold_demo.errors import CheckpointError
from marigold_demo.network.checkpoint_files import (
    EMPTY_PROMPT,
    INDEX,
    check_bytes,
    check_tokenizer,
    find_weights,
    may_read,
    part_of,
    read_json,
)
from marigold_demo.settings import DepthSettings, options_of

OTHER_KINDS = {
    "MarigoldNormalsPipeline": "surface normals",
    "MarigoldIntrinsicsPipeline": "albedo and shading",
}
# Beginnings of a pipeline's class name -> what the checkpoint is called.
FAMILIES = {
    "Lotus": "a Lotus checkpoint",
    "DepthNormalEstimationPipeline": "a GeoWizard checkpoint",
    "StableDiffusionXL": "a Stable Diffusion XL checkpoint",
    "StableDiffusion": "a plain Stable Diffusion checkpoint",
}
INSTEAD = "choose a Marigold depth checkpoint such as prs-eth/marigold-depth-v1-1"
# Entries of a UNet's config that make it ask for more than latents, a time step and the empty prompt.
EXTRA_INPUTS = ("class_embed_type", "num_class_embeds", "addition_embed_type", "encoder_hid_dim_type")
QUANTIZERS = {
    "bitsandbytes": "bitsandbytes",
    "torchao": "torchao",
    "quanto": "optimum-quanto",
    "sdnq": "sdnq",
    "gguf": "gguf",
    "modelopt": "nvidia-modelopt",
}  # quant_method -> package

LARGEST_NUMBER = 200_000  # channels, words: far above what any of these networks has
MOST_REPEATS, MOST_ENTRIES, DEEPEST = 64, 200, 4  # layers in a block; entries of a list; lists in lists
TRAIN_STEPS = (2, 100_000)
SCHEDULER_NUMBERS: dict[str, tuple[float, float]] = {
    "num_train_timesteps": TRAIN_STEPS,
    "beta_start": (1e-9, 0.999),
    "beta_end": (1e-9, 0.999),
    "steps_offset": (0, 1000),
    "original_inference_steps": (1, TRAIN_STEPS[1]),
    "timestep_scaling": (1e-6, 1e6),
    "dynamic_thresholding_ratio": (0, 1),
    "clip_sample_range": (0, 1e6),
    "sample_max_value": (0, 1e6),
}
WHOLE_NUMBERS = ("num_train_timesteps", "steps_offset", "original_inference_steps")
SCHEDULER_WORDS = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
}


def check_kind(index: dict[str, Any], *, name: str) -> None:
    """Check that model_index.json does not name another kind of checkpoint.

    Raises:
        CheckpointError: It does.
    """
    kind = str(index.get("_class_name"))
    predicts = OTHER_KINDS.get(kind)
    if predicts is None and index.get("prediction_type", "depth") not in ("depth", None):
        predicts = str(index["prediction_type"])[:40]
    if predicts is not None:
        raise CheckpointError(f"{name} predicts {predicts}, not depth; {INSTEAD}.")
    family = next((words for start, words in FAMILIES.items() if kind.startswith(start)), None)
    if family is not None:
        raise CheckpointError(f"{name} is {family}, which this app does not run; {INSTEAD}.")
    invariant = ("scale_invariant", "shift_invariant")
    fixed = next((entry for entry in invariant if index.get(entry) is False), None)
    if fixed is not None:
        raise CheckpointError(
            f"{name} predicts depth with a {fixed.partition('_')[0]} of its own ({fixed} is false), which "
            f"would be lost here; {INSTEAD}."
        )
    if "Marigold" not in kind and "unet" not in index and index.get("_class_name") is not None:
        raise CheckpointError(f"{name} is a {kind[:60]} without a UNet, so no Marigold; {INSTEAD}.")


def check_unet(config: dict[str, Any], *, name: str) -> None:
    """Check that a UNet asks for nothing but latents, a time step and the empty prompt.

    Raises:
        CheckpointError: It asks for more.
    """
    for entry in EXTRA_INPUTS:
        value = config.get(entry)
        if value is not None:
            like = " as Stable Diffusion XL does" if value == "text_time" else ""
            raise CheckpointError(
                f"{name} is not a Marigold depth checkpoint: its UNet asks for another input{like} "
                f"({entry} is {str(value)[:40]}); {INSTEAD}."
            )


def check_numbers(config: dict[str, Any], *, file: str, name: str) -> None:
    """Check that the numbers of a network's config are those of a network that can be built.

    Raises:
        CheckpointError: One is not finite, or far too large.
    """
    for entry, value in _numbers(config, entry="", depth=0):
        repeats = "layers" in entry or "blocks" in entry
        most = MOST_REPEATS if repeats else LARGEST_NUMBER
        if _is_number(value, -most, most):
            continue
        raise CheckpointError(
            f"{file} of {name} has {str(value)[:40]} in {entry[:40]}, which no such network has; "
            "download it again."
        )


def _numbers(value: Any, *, entry: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield every number with the entry it stands in; a list that is too long or deep comes as a word."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "quantization_config":
                yield from _numbers(inner, entry=str(key), depth=depth + 1)
    elif isinstance(value, list):
        if len(value) > MOST_ENTRIES or depth > DEEPEST:
            yield entry, f"a list of {len(value)}"
        else:
            for inner in value:
                yield from _numbers(inner, entry=entry, depth=depth + 1)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield entry, value


def scheduler_kind(config: dict[str, Any], index: dict[str, Any], *, known: list[str], name: str) -> str:
    """Return the class of the scheduler, from its config or else from model_index.json.

    Raises:
        CheckpointError: It is none of the known ones.
    """
    listed = index.get("scheduler")
    said = listed[1] if isinstance(listed, list) and len(listed) == 2 else None
    kind = str(config.get("_class_name") or said)
    if kind not in known:
        remedy = INSTEAD
        if "beta_schedule" in config:  # the noise can be taken over
            remedy = "write one of them as _class_name into scheduler/scheduler_config.json"
        raise CheckpointError(
            f"{name} wants the scheduler {kind[:60]}; only {', '.join(known)} can be run here: {remedy}."
        )
    return kind


def check_scheduler(config: dict[str, Any], *, name: str) -> None:
    """Check that the numbers of a scheduler are finite, in range and of a sensible size.

    Raises:
        CheckpointError: One is not.
    """

    def refuse(entry: str, wanted: str) -> CheckpointError:
        text = str(config[entry])[:40]
        return CheckpointError(
            f"scheduler/scheduler_config.json of {name} has {text} in {entry}; {wanted}. Download it again."
        )

    for entry, (low, high) in SCHEDULER_NUMBERS.items():
        if config.get(entry) is not None and not _is_number(
            config[entry], low, high, whole=entry in WHOLE_NUMBERS
        ):
            raise refuse(entry, f"it must be a number from {low:g} to {high:g}")
    for entry, words in SCHEDULER_WORDS.items():
        if config.get(entry) is not None and config[entry] not in words:
            raise refuse(entry, f"it must be {', '.join(words)}")
    if config.get("beta_start", 0) > config.get("beta_end", 1):
        raise refuse("beta_start", "it must not be above beta_end")
    betas = config.get("trained_betas")
    if betas is not None:
        is_list = isinstance(betas, list) and TRAIN_STEPS[0] <= len(betas) <= TRAIN_STEPS[1]
        if not is_list or not all(_is_number(beta, 0, 0.999) for beta in betas):
            raise refuse("trained_betas", "it must be a list of numbers from 0 to 1")


def _is_number(value: Any, low: float, high: float, *, whole: bool = False) -> bool:
    kinds = int if whole else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and bool(low <= value <= high)


def index_number(index: dict[str, Any], entry: str, *, setting: str, name: str) -> int | None:
    """Return a default that model_index.json gives for a setting; None: it gives none.

    Raises:
        CheckpointError: It is no whole number within the limits of the setting.
    """
    value = index.get(entry)
    if value is None:
        return None
    low, high = options_of(DepthSettings)[setting].limits or (0, 0)
    if not _is_number(value, low, high) or value != int(value):
        raise CheckpointError(
            f"model_index.json of {name} has {str(value)[:40]} in {entry}; it must be a whole number "
            f"from {low:g} to {high:g}."
        )
    return int(value)


def check_quantization(config: dict[str, Any], *, part: str, name: str) -> None:
    """Check that the library that reads quantized weights is installed.

    Raises:
        CheckpointError: It is not, or not known.
    """
    said = config.get("quantization_config")
    if not isinstance(said, dict):
        return
    method = str(said.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in said else "an unnamed way"))
    package = QUANTIZERS.get(method)
    if package is None:
        raise CheckpointError(
            f"{part} of {name} is quantized by {method[:40]}, which is not known here; take the checkpoint "
            "that is not quantized."
        )
    try:
        version(package)
    except PackageNotFoundError as error:
        raise CheckpointError(
            f"{part} of {name} is quantized with {package}, which is not installed: `pip install {package}`, "
            "or take the checkpoint that is not quantized."
        ) from error


# What diffusers, transformers and safetensors raise on files that are cut off, mixed up or edited by hand.
READ_ERRORS = (
    OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, AttributeError, ArithmeticError,
    AssertionError, SafetensorError, StrictDataclassError,
)  # fmt: skip
logger = logging.getLogger(__name__)
LONGEST_PROMPT = 512  # words


def read_network(kind: Any, folder: Path, *, name: str, dtype: torch.dtype) -> Any:
    """Read one network from safetensors, with every weight accounted for.

    Args:
        kind: One of diffusers' model classes.
        folder: Holds config.json and the weights.
        name: What the visitor calls the checkpoint, for messages.
        dtype: Number format of the weights in memory.

    Raises:
        CheckpointError: Something is missing or damaged, or needs a library that is not installed.
    """
    config = read_config(folder, name=name)
    variant = variant_of(folder, name=name, half=dtype == torch.float16)
    try:
        with no_progress_bar(diffusers_logging):
            network, info = kind.from_pretrained(
                folder,
                torch_dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except ImportError as error:
        raise missing_library(part_of(folder), error, name=name) from error
    except READ_ERRORS as error:
        if "quantization_config" in config:
            raise CheckpointError(
                f"The quantized {part_of(folder)} of {name} cannot be read on this machine; take the "
                "checkpoint that is not quantized."
            ) from error
        raise CheckpointError(
            f"The weights of {part_of(folder)} of {name} do not fit its config.json, or one of them is "
            "damaged; download both again."
        ) from error
    if info["missing_keys"] or info["mismatched_keys"]:
        raise CheckpointError(
            f"{part_of(folder)} of {name} lacks some of its weights; download the checkpoint again."
        )
    return network.eval()


@contextmanager
def no_progress_bar(library: Any) -> Iterator[None]:
    """Keep a library from drawing a bar of the weights it reads.

    Args:
        library: `diffusers.utils.logging` or `transformers.utils.logging`.
    """
    was_enabled = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            library.enable_progress_bar()


def read_config(folder: Path, *, name: str) -> dict[str, Any]:
    """Read the config of one network.

    Raises:
        CheckpointError: It is missing, damaged or of an absurd size, or needs a library that is not here.
    """
    config = read_json(folder / "config.json", name=name)
    check_numbers(config, file=f"{part_of(folder)}/config.json", name=name)
    check_quantization(config, part=part_of(folder), name=name)
    return config


def variant_of(folder: Path, *, name: str, half: bool = False) -> str | None:
    """Return the variant of the weights that are read, None for the plain ones.

    Raises:
        CheckpointError: There are none that can be read.
    """
    return find_weights(folder, name=name, half=half).variant or None


def missing_library(part: str, error: ImportError, *, name: str) -> CheckpointError:
    """Return the sentence on a network that needs a library which is not installed."""
    text = f"{error.name or ''} {error}"
    package = next((package for package in QUANTIZERS.values() if package in text), error.name)
    wanted = f"{package}, which is not installed: `pip install {package}`" if package else "another library"
    return CheckpointError(f"{part} of {name} needs {wanted}, or take the checkpoint that is not quantized.")


def read_empty_prompt(folder: Path, *, name: str) -> Tensor:
    """Return the embedding of the empty prompt [1, L, D]; kept beside the weights where possible.

    Raises:
        CheckpointError: It is damaged, or there is no text encoder to make it.
    """
    path = folder / EMPTY_PROMPT
    if not path.is_file():
        embedding = encode_empty_prompt(folder, name=name)
        _keep_prompt(embedding, path, name=name)
        return embedding
    if not may_read(path) and (folder / "text_encoder").is_dir():
        return encode_empty_prompt(folder, name=name)  # another user kept it for himself
    check_bytes(path, name=name)
    try:
        stored: Tensor = load_file(path)["empty_prompt"]
    except READ_ERRORS as error:
        raise CheckpointError(
            f"{EMPTY_PROMPT} of {name} is damaged; download the checkpoint again."
        ) from error
    if stored.ndim != 3 or len(stored) != 1 or not 1 <= stored.shape[1] <= LONGEST_PROMPT:
        raise CheckpointError(f"{EMPTY_PROMPT} of {name} does not hold one prompt; delete or replace it.")
    return stored


def _keep_prompt(embedding: Tensor, path: Path, *, name: str) -> None:
    fresh = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        save_file({"empty_prompt": embedding}, fresh)
        fresh.chmod((path.parent / INDEX).stat().st_mode & 0o777)  # whoever reads the others reads this
        fresh.rename(path)
    except (OSError, SafetensorError) as error:  # read-only: the next start runs the text encoder again
        logger.info("The empty prompt of %s could not be kept beside the weights: %s", name, error)
        with suppress(OSError):
            fresh.unlink(missing_ok=True)


def encode_empty_prompt(folder: Path, *, name: str) -> Tensor:
    """Run the text encoder on the empty prompt; it is dropped afterwards.

    Raises:
        CheckpointError: Text encoder or tokenizer are missing or damaged.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    check_tokenizer(folder, name=name)
    read_config(folder / "text_encoder", name=name)
    variant = variant_of(folder / "text_encoder", name=name)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        text_encoder = CLIPTextModel.from_pretrained(
            folder / "text_encoder",
            variant=variant,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
        )
        ids = tokenizer("", padding="do_not_pad", truncation=True, return_tensors="pt").input_ids  # [1, 2]
        with torch.no_grad():
            return text_encoder(ids)[0].clone()  # type: ignore[no-any-return]
    except ImportError as error:
        raise missing_library("text_encoder", error, name=name) from error
    except READ_ERRORS as error:
        raise CheckpointError(
            f"text_encoder or tokenizer of {name} is damaged; download the checkpoint again."
        ) from error
