"""The folder of one network -> the network on the CPU. Knows nothing of what the network is for.

Only safetensors are read, and no code that comes with a checkpoint is ever run.
"""

import json
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from marigold_demo.errors import CheckpointError

# What diffusers, transformers and safetensors raise on files that are cut off, mixed up or edited by hand.
DAMAGED = (
    OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, ArithmeticError, SafetensorError,
    StrictDataclassError,
)  # fmt: skip


def read_network(kind: Any, folder: Path, *, name: str, dtype: torch.dtype) -> Any:
    """Read one network from safetensors, with every weight accounted for.

    Args:
        kind: One of diffusers' model classes.
        folder: Holds config.json and the weights.
        name: What the visitor calls the checkpoint, for messages.
        dtype: Number format of the weights in memory.

    Raises:
        CheckpointError: Something is missing or damaged.
    """
    read_json(folder / "config.json", name=name)
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{name} is not complete: {folder.name} has no weights in safetensors; "
            "download the checkpoint again."
        )
    wholes = [file for file in folder.glob("*.safetensors") if ".fp16" not in file.name]
    halves = any(folder.glob("*.fp16*.safetensors"))
    variant = "fp16" if halves and (dtype == torch.float16 or not wholes) else None
    try:
        network, info = kind.from_pretrained(
            folder,
            torch_dtype=dtype,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except DAMAGED as error:
        raise CheckpointError(
            f"{folder.name} of {name} is damaged; download the checkpoint again."
        ) from error
    if info["missing_keys"] or info["mismatched_keys"]:
        raise CheckpointError(
            f"{folder.name} of {name} lacks some of its weights; download the checkpoint again."
        )
    return network.eval()


def read_json(path: Path, *, name: str) -> dict[str, Any]:
    """Read a JSON object of a checkpoint.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{name} is not a Marigold checkpoint: {path.parent.name}/{path.name} is missing. "
            "Give a folder in diffusers' layout, with model_index.json, unet, vae and scheduler."
        )
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path.parent.name}/{path.name} of {name} is damaged; download the checkpoint again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path.parent.name}/{path.name} of {name} is damaged; download the checkpoint again."
        )
    return content
