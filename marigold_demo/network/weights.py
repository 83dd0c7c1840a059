"""The folder of one network -> the network on the CPU. Knows nothing of what the network is for.

Only safetensors are read, and no code that comes with a checkpoint is ever run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from marigold_demo.errors import CheckpointError
from marigold_demo.network.checkpoint_config import QUANTIZERS, check_numbers, check_quantization
from marigold_demo.network.weight_files import find_weights, part_of, read_json

# What diffusers, transformers and safetensors raise on files that are cut off, mixed up or edited by hand.
READ_ERRORS = (
    OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, AttributeError, ArithmeticError,
    AssertionError, SafetensorError, StrictDataclassError,
)  # fmt: skip


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
        with _no_progress_bar():
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
def _no_progress_bar() -> Iterator[None]:
    """Keep diffusers from drawing a bar of the shards it reads."""
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


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
    told = f"{error.name or ''} {error}"
    package = next((package for package in QUANTIZERS.values() if package in told), error.name)
    wanted = f"{package}, which is not installed: `pip install {package}`" if package else "another library"
    return CheckpointError(f"{part} of {name} needs {wanted}, or take the checkpoint that is not quantized.")
