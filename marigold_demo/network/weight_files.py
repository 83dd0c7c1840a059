"""Which weights the folder of one network holds, judged by names and bytes. Loads none of them, runs no code.

Weights are named as diffusers and transformers name them: `STEM.safetensors`, `STEM.VARIANT.safetensors`, or
in parts `STEM-00001-of-00002.safetensors` with an index `STEM.safetensors.index.json` that lists them.
"""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from marigold_demo.errors import CheckpointError

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
LERES_FILES = {"res50.pth": "resnet50", "res101.pth": "resnext101"}  # as published -> encoder
NETWORK = "network"  # the part that stands for a folder that holds one network and nothing else
INDEX, EMPTY_PROMPT = "model_index.json", "empty_prompt.safetensors"
ROOT_FILES = (INDEX, EMPTY_PROMPT)  # all others lie in the folders of their parts
LAYOUT = "a folder in diffusers' layout, with model_index.json, unet, vae and scheduler"
STEM, TEXT_STEM = "diffusion_pytorch_model", "model"
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
# Variants in the order in which they are taken; weights that were not averaged (non_ema) come last.
WHOLE, HALF = ("", "fp32", "bf16", "fp16"), ("fp16", "", "fp32", "bf16")
LARGEST_JSON, LARGEST_HEADER = 5 * 2**20, 10**8  # bytes; safetensors itself sets the second
_PART = re.compile(r"-(\d+)-of-")
_WEIGHTS = re.compile(
    r"(?P<stem>diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-(?P<parts>\d+))?"
    r"(?:\.(?P<late>\w+))?\.safetensors"
)


class IncompleteError(CheckpointError):
    """Files are missing or cut off; a download can bring them. The message is "what; remedy."."""

    @property
    def what(self) -> str:
        """What is wrong, without the remedy."""
        return str(self).rpartition("; ")[0]


@dataclass(frozen=True)
class Weights:
    """One copy of the weights of one network.

    Attributes:
        variant: Such as "fp16"; empty: the plain one.
        files: Names of the safetensors files.
        parts: How many files there should be; 0: one, that is not a part.
        index: Name of the file that lists the parts; empty where there is none.
    """

    variant: str
    files: tuple[str, ...]
    parts: int = 0
    index: str = ""

    @property
    def is_whole(self) -> bool:
        """Return whether all files are there, by their names."""
        return not self.parts or (len(self.files) >= self.parts and bool(self.index))


def choose_weights(names: Iterable[str], *, part: str, half: bool) -> Weights | None:
    """Choose the copy of the weights that is read, None where there is none by a known name.

    Args:
        names: Names of the files in the folder of one network.
        part: Name of that folder.
        half: Take weights of 16 bits where there are some.
    """
    names, stem = list(names), _stem(part)
    found: dict[str, list[re.Match[str]]] = {}
    for name in names:
        match = _WEIGHTS.fullmatch(name)
        if match and match["stem"] == stem:
            found.setdefault(match["variant"] or match["late"] or "", []).append(match)
    copies = [_copy(variant, matches, names, stem=stem) for variant, matches in found.items()]
    order = HALF if half else WHOLE

    def rank(copy: Weights) -> tuple[bool, int, bool]:
        known = order.index(copy.variant) if copy.variant in order else len(order)
        return not copy.is_whole, known, copy.variant == "non_ema"

    return min(copies, key=rank, default=None)


def _copy(variant: str, matches: list[re.Match[str]], names: list[str], *, stem: str) -> Weights:
    index = _index(stem, variant)
    single = [match[0] for match in matches if not match["parts"]]
    parts = [match for match in matches if match["parts"]]
    if single and (not parts or index not in names):
        return Weights(variant, (single[0],))
    count = max(int(match["parts"]) for match in parts)
    files = tuple(sorted(match[0] for match in parts))
    return Weights(variant, files, max(count, 1), index if index in names else "")


def _index(stem: str, variant: str) -> str:
    return f"{stem}.safetensors.index.{variant}.json" if variant else f"{stem}.safetensors.index.json"


def _stem(part: str) -> str:
    return TEXT_STEM if part in ("text_encoder", NETWORK) else STEM


def _path(part: str, file: str) -> str:
    """Return where in a checkpoint a file of a part lies."""
    return file if part == NETWORK else f"{part}/{file}"


def check_names(names: Iterable[str], *, part: str, name: str, half: bool = False) -> Weights:
    """Return what `choose_weights` chooses if it can be read, as far as names tell.

    Raises:
        CheckpointError: There are weights, but in a form that is not read, or under another name.
        IncompleteError: There are none, or not all of them.
    """
    names = sorted(names)
    wanted = f"{_stem(part)}.safetensors"
    weights = choose_weights(names, part=part, half=half)
    if weights is not None:
        if not weights.is_whole:
            raise _without_parts(weights, part=part, name=name)
        return weights
    pickled = next((file for file in names if file.endswith(PICKLES)), None)
    other = next((file for file in names if file.endswith(".safetensors")), None)
    if other:
        raise CheckpointError(f"{part} of {name} has its weights in {other}; rename the file to {wanted}.")
    if pickled:
        raise CheckpointError(
            f"{part} of {name} has its weights in {pickled}, a pickle, which can run code and is never read; "
            f"{wanted} is needed. If you trust it, convert it with diffusers or transformers: load {part} by "
            "from_pretrained with use_safetensors=False, then save_pretrained."
        )
    raise IncompleteError(f"{name} is not complete: {_path(part, wanted)} is missing; download it again.")


def _without_parts(weights: Weights, *, part: str, name: str) -> CheckpointError:
    if len(weights.files) < weights.parts:
        here = f"{len(weights.files)} of {weights.parts} parts of its weights"
        missing = _missing_part(weights)
        return IncompleteError(
            f"{name} is not complete: {part} has {here}, {missing} is missing; download it again."
        )
    index = _index(_stem(part), weights.variant)
    return IncompleteError(
        f"{name} is not complete: {part} has its weights in {weights.parts} parts, "
        f"and {index}, which lists them, is missing; download it again."
    )


def _missing_part(weights: Weights) -> str:
    """Return the name of the first part that is not there."""
    number = _PART.search(weights.files[0])
    if number is None:
        return "one of them"
    width = len(number[1])
    names = (_PART.sub(f"-{n:0{width}d}-of-", weights.files[0]) for n in range(1, weights.parts + 1))
    return next((file for file in names if file not in weights.files), "one of them")


def find_weights(folder: Path, *, name: str, half: bool = False, part: str | None = None) -> Weights:
    """Return the copy of a network's weights that is read, once its files are found to be whole.

    Args:
        folder: Folder of one network.
        name: What the visitor calls the checkpoint, for messages.
        half: Take weights of 16 bits where there are some.
        part: What the network is called; None: as its folder.

    Raises:
        CheckpointError: They are in a form that is not read, or cannot be read.
        IncompleteError: They are missing or cut off.
    """
    part = part or part_of(folder)
    weights = check_names(names_in(folder, name=name), part=part, name=name, half=half)
    for file in weights.files:
        check_bytes(folder / file, name=name)
    if weights.index:
        listed = read_json(folder / weights.index, name=name).get("weight_map")
        files = {str(file) for file in listed.values()} if isinstance(listed, dict) else set()
        if not files or files - set(weights.files):
            missing = ", ".join(sorted(files - set(weights.files))[:1]) or "no file"
            raise IncompleteError(
                f"{name} is not complete: {folder.name}/{weights.index} lists {missing}, which is not there; "
                "download it again."
            )
    return weights


def names_in(folder: Path, *, name: str) -> list[str]:
    """Return the names of what a folder holds; none where it does not exist.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(folder, error, name=name) from error


def check_bytes(path: Path, *, name: str) -> None:
    """Check that a safetensors file is one, and as long as its header says.

    Raises:
        CheckpointError: It cannot be read, or is something else.
        IncompleteError: It is missing or cut off.
    """
    file = _told(path)
    try:
        known = path.stat()
        problem = _problem(path, known.st_mtime_ns, known.st_size)
    except FileNotFoundError as error:
        gone = "is a link to a file that is gone" if path.is_symlink() else "is missing"
        raise IncompleteError(f"{file} of {name} {gone}; download it again.") from error
    except OSError as error:
        raise _unreadable(path, error, name=name) from error
    if problem:
        raise IncompleteError(f"{file} of {name} {problem}.")


@lru_cache(maxsize=256)
def _problem(path: Path, changed_ns: int, size: int) -> str:
    """Return what is wrong with the bytes of a safetensors file, or nothing."""
    with path.open("rb") as file:
        start = file.read(64)
        if start.startswith(b"version https://git-lfs"):
            return "is a git-LFS pointer, not the weights; run `git lfs pull` there or download it again"
        length = int.from_bytes(start[:8], "little")
        if size < 10 or start[8:9] != b"{" or length > LARGEST_HEADER:
            return "is not a safetensors file; download it again"
        file.seek(8)
        header = file.read(length)
    cut = "is cut off after {} of {} bytes; download it again"
    if len(header) < length:
        return cut.format(size, f"more than {length}")
    try:
        tensors = [entry for key, entry in json.loads(header).items() if key != "__metadata__"]
        wanted = 8 + length + max((int(entry["data_offsets"][1]) for entry in tensors), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return "is not a safetensors file; download it again"
    if size == wanted:
        return ""
    return cut.format(size, wanted) if size < wanted else "is longer than its header says; download it again"


def read_json(path: Path, *, name: str) -> dict[str, Any]:
    """Read a JSON object of a checkpoint; a byte order mark is passed over.

    Raises:
        CheckpointError: It is damaged or cannot be read.
        IncompleteError: It is missing.
    """
    file = _told(path)
    try:
        with path.open("rb") as opened:
            text = opened.read(LARGEST_JSON + 1)
        content = json.loads(text.decode("utf-8-sig")) if len(text) <= LARGEST_JSON else None
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            raise IncompleteError(
                f"{file} of {name} is a link to a file that is gone; download it again."
            ) from error
        raise IncompleteError(
            f"{name} is not complete: {file} is missing; download it again or give {LAYOUT}."
        ) from error
    except OSError as error:
        raise _unreadable(path, error, name=name) from error
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} of {name} is damaged; download the checkpoint again.")
    return content


def _told(path: Path) -> str:
    """Return the path of a file within its checkpoint."""
    return path.name if path.name in ROOT_FILES else f"{part_of(path.parent)}/{path.name}".removeprefix("./")


def part_of(folder: Path) -> str:
    """Return which part of a checkpoint a folder is; "." where it is a whole repository of the hub."""
    return "." if folder.parent.name == "snapshots" else folder.name


def _unreadable(path: Path, error: OSError, *, name: str) -> CheckpointError:
    if isinstance(error, PermissionError):
        return CheckpointError(
            f"{_told(path)} of {name} may not be read by this user; let its owner permit it, or use a copy."
        )
    return CheckpointError(f"{_told(path)} of {name} cannot be read: {str(error.strerror).lower()}.")


def may_read(path: Path, *, enter: bool = False) -> bool:
    """Return whether this user may read a file, or a folder and what is in it."""
    effective = os.access in os.supports_effective_ids
    return os.access(path, os.R_OK | (os.X_OK if enter else 0), effective_ids=effective)
