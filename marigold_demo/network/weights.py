"""The folder of one network -> the network on the CPU, and the embedding of the empty prompt.

Only safetensors are read, and no code that comes with a checkpoint is ever run. The empty prompt is the only
text these networks see: read, or encoded once and kept.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
from marigold_demo.network.checkpoint_config import QUANTIZERS, check_numbers, check_quantization
from marigold_demo.network.checkpoint_files import check_tokenizer
from marigold_demo.network.weight_files import (
    EMPTY_PROMPT,
    INDEX,
    check_bytes,
    find_weights,
    may_read,
    part_of,
    read_json,
)

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
