"""A name on the Hugging Face hub -> a local folder with the files needed, or one sentence why not."""

import errno
import glob
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

from marigold_demo.depth import Progress, Run
from marigold_demo.errors import CheckpointError
from marigold_demo.network.checkpoint_files import (
    CONFIG,
    EMPTY_PROMPT,
    INDEX,
    NETWORK,
    NETWORKS,
    PREPROCESSOR,
    TEXT,
    IncompleteError,
    cached,
    cached_file,
    check_names,
    choose_weights,
    is_complete,
    lacking,
    split_name,
)

MB = 10**6
POLL_S, ANSWER_S = 0.25, 10.0
ASK_AGAIN_S, SOON_S = 60.0, 3.0
_asking, _answered = threading.Lock(), dict[str, tuple[float, bool]]()
Choice = Callable[[list[str], bool], list[str]]  # files of a repository, is the prompt here -> files wanted
Check = Callable[[Path], object]  # folder with all but the weights -> raises where they are not worth it
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
LOGIN = "log in on this machine with `hf auth login`, or set HF_TOKEN"
# Besides its own errors the hub's client lets those of its HTTP library through: the base class of them all.
UNREACHABLE: tuple[type[Exception], ...] = (HfHubHTTPError.__mro__[1], OSError)


def fetch_checkpoint(name: str, *, half: bool, check: Check | None = None, run: Run | None = None) -> Path:
    """Download what is missing of a checkpoint; return its folder in the cache.

    A checkpoint that is here as a whole is taken as it is, and the hub not asked.

    Args:
        name: owner/repository, or owner/repository@revision.
        half: Take the half-precision weights where there are some.
        check: Looks at the configs before the weights are downloaded.
        run: Reports how much is here; may cancel.

    Raises:
        CheckpointError: There is no such checkpoint, or neither the hub nor a finished download can be had.
    """
    folder = cached(name)
    if folder is not None and is_complete(folder):
        return folder

    def choose(files: list[str], prompt_is_here: bool) -> list[str]:
        with_text = EMPTY_PROMPT not in files and not prompt_is_here
        check_repository(files, name=name, with_text=with_text)
        return wanted_files(files, half=half, with_text=with_text)

    return fetch_files(name, choose=choose, check=check, run=run)


def fetch_files(name: str, *, choose: Choice, check: Check | None = None, run: Run | None = None) -> Path:
    """Download files of a repository; return their folder in the hub's cache.

    Cancelling the run ends the download at its next piece; files that are finished stay, and a later call
    fetches the others.

    Raises:
        CheckpointError: There is no such repository, or it cannot be had.
    """
    run = run or Run()
    download = _Download(name, choose=choose, check=check)
    thread = threading.Thread(target=download.run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_S)
            total = -(-download.total // MB)
            done = total if download.here >= download.total else download.here // MB
            run.report(Progress("download", done, total))
    finally:
        download.stopped = True
    if download.error is not None:
        raise explained(name, download.error, done=download.here, total=download.total) from download.error
    return download.folder


class _StoppedError(Exception):
    """Nobody waits for a download any more."""


class _Download:
    """One download, run by a thread of its own.

    Attributes:
        total: Bytes to fetch; 0 while that is not known.
        here: Bytes fetched.
        stopped: Set to end it.
        error: What ended it early.
    """

    def __init__(self, name: str, *, choose: Choice, check: Check | None) -> None:
        self.name, self.choose, self.check = name, choose, check
        self.total = self.here = 0
        self.stopped = False
        self.error: Exception | None = None
        self.folder = Path()

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:  # raised again by the one who waits
            self.error = error

    def _run(self) -> None:
        repository, revision = split_name(self.name)
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=ANSWER_S)
        sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}

        def is_here(file: str) -> bool:
            return cached_file(self.name, file, commit=info.sha) is not None

        wanted = self.choose(list(sizes), is_here(EMPTY_PROMPT))
        for file in filter(is_here, wanted):
            _drop_if_damaged(cached_file(self.name, file, commit=info.sha) or "", size=sizes[file])
        self.total = sum(sizes[file] for file in wanted if not is_here(file))
        check_room(self.name, self.total)
        if self.check is not None:
            self.check(self._fetch([file for file in wanted if not file.endswith(".safetensors")]))
        self.folder = self._fetch(wanted)

    def _fetch(self, files: list[str]) -> Path:
        repository, revision = split_name(self.name)
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=[glob.escape(file) for file in files],
            tqdm_class=_counting_bar(self),
        )
        return Path(folder)


def _drop_if_damaged(path: str, *, size: int) -> None:
    """Delete a cached file that is not as long as the hub says: the client would take it as it is."""
    if os.path.getsize(path) != size:
        os.unlink(os.path.realpath(path))


def _counting_bar(download: _Download) -> type[tqdm]:
    """Return what the client takes for a progress bar: it counts bytes, and it can stop the download."""
    before = download.here

    class Bar(tqdm):
        def __init__(self, *args: Any, **choices: Any) -> None:
            self.bytes, self.in_bytes = 0, choices.get("unit") == "B"
            super().__init__(*args, **choices | {"disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if download.stopped:
                raise _StoppedError
            if self.in_bytes:  # there may be several of these, which count the same
                self.bytes += int(n or 0)
                download.here = max(download.here, before + self.bytes)

    return Bar


def check_repository(files: list[str], *, name: str, with_text: bool) -> None:
    """Check that the files of a repository make a checkpoint, before any of them is downloaded.

    Raises:
        CheckpointError: One is missing, or in a form that is not read.
    """
    if INDEX not in files and CONFIG in files:
        check_names(files, part=NETWORK, name=name)
        return
    if INDEX not in files:
        raise CheckpointError(
            f"{name} is not a Marigold checkpoint: the repository has no {INDEX}, and no {CONFIG} of another "
            "depth network. Choose one such as prs-eth/marigold-depth-v1-1."
        )
    for part in ("unet", "vae", *(TEXT[:1] if with_text else ())):
        check_names(_names(files, part), part=part, name=name)


def _names(files: Iterable[str], part: str) -> list[str]:
    """Return the names of files that lie in the folder of one part."""
    start = f"{part}/"
    return [file.removeprefix(start) for file in files if file.startswith(start) and file.count("/") == 1]


def wanted_files(files: Iterable[str], *, half: bool, with_text: bool) -> list[str]:
    """Choose the files of a repository that are worth downloading: one copy of each weight, no pickles.

    Args:
        files: Paths in the repository.
        half: Prefer weights of the variant "fp16".
        with_text: Include the text encoder and its tokenizer.
    """
    files = list(files)
    if INDEX not in files and CONFIG in files:
        weights = choose_weights(files, part=NETWORK, half=False)
        wanted = (CONFIG, PREPROCESSOR, *(weights.files if weights else ()), weights and weights.index)
        return sorted(file for file in files if file in wanted)
    chosen = [file for file in files if file in (INDEX, EMPTY_PROMPT)]
    chosen += [file for file in files if file.startswith("scheduler/") and file.endswith(".json")]
    for part in NETWORKS + (TEXT if with_text else ()):
        names = _names(files, part)
        weights = choose_weights(names, part=part, half=half)
        if weights is not None:
            chosen += [f"{part}/{file}" for file in (*weights.files, weights.index) if file]
        chosen += [
            f"{part}/{file}" for file in names if file.endswith((".json", ".txt")) and ".index." not in file
        ]
    return sorted(set(chosen))


def answers(name: str, *, within_s: float) -> bool:
    """Return whether the hub knows a repository and says so in time."""
    found: list[object] = []

    def ask() -> None:
        try:
            found.append(HfApi().model_info(name, timeout=within_s))
        except UNREACHABLE:
            return

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(within_s)
    return bool(found)


def is_reachable(name: str) -> bool:
    """Return whether the hub knows a repository; it is asked once in `ASK_AGAIN_S` and given `SOON_S`."""
    with _asking:
        asked_s, answered = _answered.get(name, (-math.inf, False))
        if time.monotonic() - asked_s > ASK_AGAIN_S:
            answered = not constants.HF_HUB_OFFLINE and answers(name, within_s=SOON_S)
            _answered[name] = (time.monotonic(), answered)
        return answered


def check_room(name: str, total: int) -> None:
    """Check that a download has room on the disk.

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
    """Return whether a disk without room ended a download; the client's faster half says so in words only."""
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
