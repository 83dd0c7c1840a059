"""The embedding of the empty prompt, the only text these networks see: read, or encoded once and kept."""

import logging
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from marigold_demo.errors import CheckpointError
from marigold_demo.network.checkpoint_files import check_tokenizer
from marigold_demo.network.weight_files import EMPTY_PROMPT, INDEX, check_bytes, may_read
from marigold_demo.network.weights import READ_ERRORS, missing_library, read_config, variant_of

logger = logging.getLogger(__name__)

LONGEST_PROMPT = 512  # words


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
