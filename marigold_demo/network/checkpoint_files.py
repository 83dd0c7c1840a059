"""A path or hub name -> the checkpoint folder on this machine, and what that folder lacks; reads no weights.

Understood are a folder in diffusers' layout, a folder that holds one, the folder of a repository in the hub's
cache, and the name of a repository that is there. `SHA256SUMS` beside the index records the files of a
checkpoint as they were saved. The hub is not asked, and no code that comes with a checkpoint is run.

Weights are named as diffusers and transformers name them: `STEM.safetensors`, `STEM.VARIANT.safetensors`, or
in parts `STEM-00001-of-00002.safetensors` with an index `STEM.safetensors.index.json` that lists them.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from marigold_demo.catalog import EMBEDDED
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


EMBEDDED_FOLDER = Path(__file__).parents[1] / "embedded"
NETWORKS = ("unet", "vae", "image_encoder")
TEXT = ("text_encoder", "tokenizer")
SCHEDULER = "scheduler_config.json"
SUMS = "SHA256SUMS"  # as `sha256sum` writes and checks it
SUMMED = (".safetensors", ".json")
LISTED = 1000  # entries of a folder that are looked at
MOST_REVISIONS = 20  # that are looked at
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(?:@\w[\w./-]*)?")


def find_folder(text: str) -> Path | None:
    """Return the checkpoint folder that a path stands for, None where there is nothing of that name.

    Raises:
        CheckpointError: It is a file, may not be read, or holds several checkpoints.
    """
    try:
        path = Path(text).expanduser()
        mode = path.stat().st_mode
        readable = not stat.S_ISDIR(mode) or may_read(path, enter=True)
    except PermissionError:
        mode, readable = 0, False
    except (OSError, ValueError, RuntimeError):  # no such file, a name too long, no home
        return None
    if not readable:
        raise CheckpointError(f"{text} may not be read by this user; give another folder, or a copy.")
    if not stat.S_ISDIR(mode):
        raise CheckpointError(f"{text} is a file{_hint(path)}; {LAYOUT}, is needed.")
    path = path.resolve()
    names = names_in(path, name=text)
    if INDEX in names:
        return path
    if "snapshots" in names:
        return _snapshot(path, name=text)
    if is_feedforward(path):
        return path
    inner = [path / name for name in names[:LISTED] if _is_checkpoint(path / name)]
    if len(inner) > 1:
        found = ", ".join(folder.name for folder in inner[:4])
        raise CheckpointError(f"{text} holds {len(inner)} checkpoints; name one of them: {found}.")
    return inner[0] if inner else path


def is_feedforward(folder: Path) -> bool:
    """Return whether a folder holds one network as transformers saves it, or LeReS; and so no Marigold."""
    if (folder / INDEX).exists():
        return False
    if not (folder / CONFIG).is_file():
        return any((folder / file).is_file() for file in LERES_FILES)
    try:
        return "model_type" in read_json(folder / CONFIG, name="")
    except CheckpointError:
        return False


def _is_checkpoint(folder: Path) -> bool:
    return (folder / INDEX).is_file() or (folder.name not in TEXT and is_feedforward(folder))


def _hint(path: Path) -> str:
    """Return a word on where the checkpoint of a file is, if it lies in one."""
    folders = (path.parent, path.parent.parent)
    near = next((folder for folder in folders if _is_checkpoint(folder)), None)
    return "" if near is None else f" of the checkpoint {near.name}, which can be named instead"


def _snapshot(path: Path, *, name: str) -> Path:
    """Return the revision "main", or the only one, of a repository in the hub's cache."""
    snapshots = path / "snapshots"
    commits = names_in(snapshots, name=name)
    try:
        commit = (path / "refs" / "main").read_text()[:200].strip()
    except (OSError, ValueError):
        commit = ""
    if commit in commits:
        return snapshots / commit
    if len(commits) == 1:
        return snapshots / commits[0]
    if not commits:
        raise CheckpointError(f"{name} holds no finished download; give the name of the repository instead.")
    raise CheckpointError(f"{name} holds {len(commits)} revisions; name one of the folders in its snapshots.")


def check_complete(folder: Path, *, name: str) -> None:
    """Check that a checkpoint folder has all files without which it cannot be read, and whole.

    Raises:
        CheckpointError: A file is missing, cut off or in a form that is not read.
    """
    if is_feedforward(folder):
        if not (folder / CONFIG).is_file():
            return  # of LeReS, whose own reader says what is wrong
        find_weights(folder, name=name, part=NETWORK)
        return
    read_json(folder / INDEX, name=name)
    read_json(folder / "scheduler" / SCHEDULER, name=name)
    parts = [part for part in NETWORKS if part != "image_encoder" or (folder / part).is_dir()]
    if (folder / EMPTY_PROMPT).is_file():
        check_bytes(folder / EMPTY_PROMPT, name=name)
    else:
        parts.append("text_encoder")
        check_tokenizer(folder, name=name)
    for part in parts:
        read_json(folder / part / "config.json", name=name)
        find_weights(folder / part, name=name)


def check_tokenizer(folder: Path, *, name: str) -> None:
    """Check that the files of the tokenizer are there.

    Raises:
        CheckpointError: One is missing or damaged.
    """
    tokenizer = folder / "tokenizer"
    read_json(tokenizer / "tokenizer_config.json", name=name)
    for file in ("vocab.json", "merges.txt"):
        if not (tokenizer / "tokenizer.json").is_file() and not (tokenizer / file).is_file():
            raise IncompleteError(f"{name} is not complete: tokenizer/{file} is missing; download it again.")


def describe(folder: Path, *, name: str) -> str:
    """Return in words what is found in a folder that is no checkpoint."""
    names = names_in(folder, name=name)[:LISTED]
    loose = next((file for file in names if file.endswith((".safetensors", "config.json"))), None)
    if INDEX in names and loose:
        return f"{loose} lies beside {INDEX} instead of in the folder of its part"
    text = ", ".join(names[:4]) + (" and more" if len(names) > 4 else "")
    return f"it holds {text}" if names else "it is empty"


def write_sums(folder: Path) -> None:
    """Record the digests of a checkpoint's files, in the form that `sha256sum --check` reads."""
    files = sorted(file for file in folder.rglob("*") if file.suffix in SUMMED and file.is_file())
    lines = [f"{_digest(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8", newline="\n")


def changed_file(folder: Path) -> str:
    """Return the first file that is not as it was recorded, as a path in the folder; empty: all are."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return SUMS
    recorded = dict(line.split("  ", 1)[::-1] for line in lines if "  " in line)
    if INDEX not in recorded:
        return SUMS
    for file, digest in recorded.items():
        try:
            if _digest(folder / file) != digest:
                return file
        except OSError:
            return file
    return ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_hub_name(name: str) -> bool:
    """Return whether a name has the form owner/repository or owner/repository@revision."""
    return _NAME.fullmatch(name) is not None and ".." not in name.partition("@")[2]


def split_name(name: str) -> tuple[str, str | None]:
    """Return repository and revision of a name; None: the main one."""
    repository, _, revision = name.partition("@")
    return repository, revision or None


def fetched(name: str) -> Path:
    """Return the folder of an earlier download.

    Raises:
        CheckpointError: There is none.
    """
    folder = cached(name)
    if folder is None:
        raise CheckpointError(f"{name} is not on this machine; it is downloaded at its first use.")
    return folder


def cached(name: str, *, file: str = "") -> Path | None:
    """Return the cached folder that holds a file of a repository, however much else is missing.

    Without a file it is what a checkpoint always has: the index of Marigold's, or a network's config.
    """
    found = cached_file(name, file or INDEX) or (None if file else cached_file(name, CONFIG))
    return None if found is None else Path(found).parent


def cached_file(name: str, file: str, *, commit: str | None = None) -> str | None:
    """Return the path of a cached file, of a commit or else of the revision of the name."""
    repository, revision = split_name(name)
    try:
        found = try_to_load_from_cache(repository, file, revision=commit or revision)
    except HFValidationError:
        return None
    return found if isinstance(found, str) else None


def cached_bytes(name: str) -> int:
    """Return how much of a repository the cache holds, unfinished files not counted."""
    blobs = _repository(name) / "blobs"
    return sum(file.stat().st_size for file in blobs.glob("*") if file.suffix != ".incomplete")


def is_complete(folder: Path) -> bool:
    """Return whether a checkpoint folder has whole all of the files without which it cannot be read."""
    try:
        check_complete(folder, name="")
    except CheckpointError:
        return False
    return True


def lacking(name: str) -> CheckpointError | None:
    """Return what is wrong with the part of a repository that is here; None: nothing of it is here."""
    repository = _repository(name)
    folder = cached(name)
    if folder is not None:
        try:
            check_complete(folder, name=name)
        except CheckpointError as error:
            return error
        return None
    plain, revision = split_name(name)
    for ref in sorted((repository / "refs").glob("*"))[:MOST_REVISIONS]:
        other = cached(f"{plain}@{ref.name}")
        if ref.name != revision and other is not None and is_complete(other):
            return CheckpointError(
                f"Of {plain} only the revision {ref.name} is on this machine, and the hub cannot be reached; "
                f"name {plain}@{ref.name} to use it."
            )
    if any((repository / "snapshots").glob("*")):
        return IncompleteError(f"{name} is not complete: {INDEX} is missing; download it again.")
    return None


def _repository(name: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=split_name(name)[0], repo_type="model")


def revision_here(name: str) -> str | None:
    """Return the revision of a checkpoint, None where it is not on this machine.

    Raises:
        CheckpointError: As `find_folder`.
    """
    folder = EMBEDDED_FOLDER if name == EMBEDDED else find_folder(name) or cached(name)
    return None if folder is None else revision_of(folder)


def revision_of(folder: Path) -> str:
    """Return the hub's commit for a folder of its cache, else a digest of all weights and configs."""
    if folder.parent.name == "snapshots":
        return folder.name
    files = sorted(file for file in folder.rglob("*") if file.suffix in SUMMED and file.is_file())
    stamps = tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    return _digest_of_all(folder, stamps)


@lru_cache(maxsize=8)
def _digest_of_all(folder: Path, stamps: tuple[tuple[Path, int, int], ...]) -> str:
    total = hashlib.sha256()
    for file, _, _ in stamps:
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").digest()
        total.update(file.relative_to(folder).as_posix().encode() + b"\0" + content)
    return f"sha256:{total.hexdigest()[:32]}"
