"""A path or hub name -> the checkpoint folder on this machine, and what that folder lacks; reads no weights.

Understood are a folder in diffusers' layout, a folder that holds one, the folder of a repository in the hub's
cache, and the name of a repository that is there. `SHA256SUMS` beside the index records the files of a
checkpoint as they were saved. The hub is not asked.
"""

import hashlib
import re
import stat
from functools import lru_cache
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from marigold_demo.catalog import EMBEDDED
from marigold_demo.errors import CheckpointError
from marigold_demo.network.weight_files import (
    CONFIG,
    EMPTY_PROMPT,
    INDEX,
    LAYOUT,
    LERES_FILES,
    NETWORK,
    IncompleteError,
    check_bytes,
    find_weights,
    may_read,
    names_in,
    read_json,
)

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
