"""What the hub's cache on this machine holds of a repository. The hub is not asked."""

import re
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from marigold_demo.errors import CheckpointError
from marigold_demo.network.checkpoint_files import check_complete
from marigold_demo.network.weight_files import INDEX, IncompleteError

MOST_REVISIONS = 20  # that are looked at
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(?:@\w[\w./-]*)?")


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


def cached(name: str, *, file: str = INDEX) -> Path | None:
    """Return the cached folder that holds a file of a repository, however much else is missing."""
    found = cached_file(name, file)
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
