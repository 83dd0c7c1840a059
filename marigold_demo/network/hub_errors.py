"""What ends a download from the hub -> one sentence: what is wrong, and what would work."""

import errno
import shutil
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from marigold_demo.errors import CheckpointError
from marigold_demo.network.hub_cache import lacking, split_name
from marigold_demo.network.weight_files import IncompleteError

MB = 10**6
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
LOGIN = "log in on this machine with `hf auth login`, or set HF_TOKEN"
# Besides its own errors the hub's client lets those of its HTTP library through: the base class of them all.
UNREACHABLE: tuple[type[Exception], ...] = (HfHubHTTPError.__mro__[1], OSError)


def check_room(name: str, total: int) -> None:
    """See to it that a download has room on the disk.

    Raises:
        CheckpointError: It has not.
    """
    folder = Path(constants.HF_HUB_CACHE)
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if total > free:
        raise CheckpointError(
            f"{name} takes {-(-total // MB)} MB, and the disk of the hub's cache has {free // MB} MB left; "
            "make room, or set HF_HOME to a folder on another disk."
        )


def explained(name: str, error: Exception, *, done: int, total: int) -> Exception:
    """Return what to say of an error that ended a download; the error itself if it is none of the hub's.

    Args:
        name: What was downloaded.
        error: What the hub's client raised.
        done: Bytes that were downloaded.
        total: Bytes there were to download; 0 where that was not known yet.
    """
    if isinstance(error, CheckpointError):
        return CheckpointError(*error.args)
    repository, revision = split_name(name)
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"{name} asks for its terms to be accepted: do that on https://huggingface.co/{repository}, "
            f"then {LOGIN}."
        )
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return CheckpointError(
            f"The hub has no checkpoint called {name}; check the spelling, for instance "
            f"prs-eth/marigold-depth-v1-1, or if it is private {LOGIN}."
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(f"{repository} has no revision {revision} on the hub; leave @{revision} out.")
    refused = _refused(name, error)
    if refused is not None:
        return refused
    if _is_full(error):
        return CheckpointError(
            f"The disk became full while {name} was downloaded; make room, or set HF_HOME to a folder on "
            "another disk, and try again: finished files are kept."
        )
    if isinstance(error, OSError) and error.errno in CLOSED:
        return CheckpointError(
            f"{name} cannot be downloaded because the folder of the hub's cache cannot be written to; set "
            "HF_HOME to a folder that can."
        )
    if not isinstance(error, (*UNREACHABLE, RuntimeError)):
        return error
    if total:
        return CheckpointError(
            f"The download of {name} broke off after {done // MB} of {-(-total // MB)} MB; "
            "check the connection and the free space on the disk, and try again: finished files are kept."
        )
    return _out_of_reach(name, error)


def _refused(name: str, error: Exception) -> CheckpointError | None:
    """Return the sentence on an answer of the hub that names who asks too much, or is not let in."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return CheckpointError(f"The hub does not know the login of this machine; {LOGIN} anew.")
    if status == 403:
        return CheckpointError(
            f"The hub does not give {name} to this login; ask for access on its page there, then {LOGIN}."
        )
    if status == 429:
        return CheckpointError(f"The hub asks for fewer requests; wait some minutes, or {LOGIN}.")
    return None


def _is_full(error: Exception) -> bool:
    """Tell whether a disk without room ended a download; the client's faster half says so in words only."""
    return (isinstance(error, OSError) and error.errno in FULL) or "No space left on device" in str(error)


def _out_of_reach(name: str, error: Exception) -> CheckpointError:
    lacks = lacking(name)
    status = getattr(getattr(error, "response", None), "status_code", None)
    away = f"the hub answers with error {status}" if status else "the hub cannot be reached"
    if constants.HF_HUB_OFFLINE:
        away += " (HF_HUB_OFFLINE is set)"
    if isinstance(lacks, IncompleteError):
        return CheckpointError(f"{lacks.what}. It comes from the hub, but {away}; try again once it answers.")
    if lacks is not None:
        return lacks
    return CheckpointError(
        f"{name} is not on this machine and {away}; connect to the internet for its first use, name a folder "
        "that holds it, or choose the embedded checkpoint."
    )
