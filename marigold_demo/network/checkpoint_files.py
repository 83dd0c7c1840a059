"""A path -> the checkpoint folder it stands for, and what that folder lacks. Loads no weights.

Understood are a folder in diffusers' layout, a folder that holds one, and the folder of a repository in the
hub's cache. `SHA256SUMS` beside the index records the files of a checkpoint as they were saved.
"""

import hashlib
import stat
from pathlib import Path

from marigold_demo.errors import CheckpointError
from marigold_demo.network.weight_files import (
    EMPTY_PROMPT,
    INDEX,
    LAYOUT,
    IncompleteError,
    check_bytes,
    find_weights,
    may_read,
    names_in,
    read_json,
)

NETWORKS = ("unet", "vae", "image_encoder")
TEXT = ("text_encoder", "tokenizer")
SCHEDULER = "scheduler_config.json"
SUMS = "SHA256SUMS"  # as `sha256sum` writes and checks it
SUMMED = (".safetensors", ".json")
LISTED = 1000  # entries of a folder that are looked at


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
    inner = [path / name for name in names[:LISTED] if (path / name / INDEX).is_file()]
    if len(inner) > 1:
        found = ", ".join(folder.name for folder in inner[:4])
        raise CheckpointError(f"{text} holds {len(inner)} checkpoints; name one of them: {found}.")
    return inner[0] if inner else path


def _hint(path: Path) -> str:
    """Return a word on where the checkpoint of a file is, if it lies in one."""
    near = next((folder for folder in (path.parent, path.parent.parent) if (folder / INDEX).is_file()), None)
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
