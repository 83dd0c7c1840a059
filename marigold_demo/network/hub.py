"""A name on the Hugging Face hub -> a local folder with the files needed. Knows nothing of networks."""

import re
import threading
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils.tqdm import tqdm

from marigold_demo.errors import CheckpointError
from marigold_demo.progress import Progress

INDEX, EMPTY_PROMPT = "model_index.json", "empty_prompt.safetensors"
NETWORKS = ("unet", "vae", "image_encoder")
TEXT = ("text_encoder", "tokenizer")
MB = 10**6
POLL_S, ANSWER_S = 0.25, 10.0
_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_SHARD = re.compile(r"-\d+-of-(\d+)\.")
# Besides its own errors the hub's client lets those of its HTTP library through: the base class of them all.
UNREACHABLE: tuple[type[Exception], ...] = (HfHubHTTPError.__mro__[1], OSError)

Choice = Callable[[list[str], bool], list[str]]  # files of a repository, is the prompt here -> files wanted


def is_hub_name(name: str) -> bool:
    """Tell whether a name has the form owner/repository."""
    return _NAME.fullmatch(name) is not None


def fetch_checkpoint(name: str, *, half: bool) -> Path:
    """Do what `stream_checkpoint` does without telling of progress."""
    steps = stream_checkpoint(name, half=half)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return Path(end.value)


def stream_checkpoint(name: str, *, half: bool) -> Generator[Progress, None, Path]:
    """Yield progress while what is missing of a checkpoint is downloaded; return its folder in the cache.

    A checkpoint that is here as a whole is taken as it is, and the hub not asked.

    Args:
        name: owner/repository.
        half: Take the half-precision weights where there are some.

    Raises:
        CheckpointError: There is no such checkpoint, or neither the hub nor a finished download can be had.
    """
    folder = cached(name)
    if folder is not None and is_complete(folder):
        return folder

    def choose(files: list[str], prompt_is_here: bool) -> list[str]:
        with_text = EMPTY_PROMPT not in files and not prompt_is_here
        return wanted_files(files, half=half, with_text=with_text)

    return (yield from stream_files(name, choose=choose))


def stream_files(name: str, *, choose: Choice) -> Generator[Progress, None, Path]:
    """Yield progress while files of a repository are downloaded; return their folder in the hub's cache.

    Closing the generator ends the download at its next piece; files that are finished stay, and a later call
    fetches the others.

    Raises:
        CheckpointError: There is no such repository, or it cannot be had.
    """
    download = _Download(name, choose=choose)
    thread = threading.Thread(target=download.run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_S)
            total = -(-download.total // MB)
            done = total if download.here >= download.total else download.here // MB
            yield Progress("download", done, total)
    finally:
        download.stopped = True
    if download.error is not None:
        raise _explained(name, download) from download.error
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

    def __init__(self, name: str, *, choose: Choice) -> None:
        self.name, self.choose = name, choose
        self.total = self.here = 0
        self.stopped = False
        self.error: Exception | None = None
        self.folder = Path()

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:  # told, or raised again, by the one who waits
            self.error = error

    def _run(self) -> None:
        info = HfApi().model_info(self.name, files_metadata=True, timeout=ANSWER_S)
        sizes = {file.rfilename: int(file.size or 0) for file in info.siblings or ()}
        wanted = self.choose(list(sizes), _is_here(self.name, EMPTY_PROMPT, revision=info.sha))
        missing = [file for file in wanted if not _is_here(self.name, file, revision=info.sha)]
        self.total = sum(sizes[file] for file in missing)
        self.folder = Path(
            snapshot_download(self.name, allow_patterns=wanted, tqdm_class=_counting_bar(self))
        )


def _counting_bar(download: _Download) -> type[tqdm]:
    """Return what the client takes for a progress bar: it counts bytes, and it can stop the download."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **choices: Any) -> None:
            self.bytes, self.in_bytes = 0, choices.get("unit") == "B"
            super().__init__(*args, **choices | {"disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if download.stopped:
                raise _StoppedError
            if self.in_bytes:  # there may be several of these, which count the same
                self.bytes += int(n or 0)
                download.here = max(download.here, self.bytes)

    return Bar


def _explained(name: str, download: _Download) -> Exception:
    error = download.error
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"{name} asks for its terms to be accepted: do that on its page on the hub, "
            "then log in with `hf auth login`."
        )
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return CheckpointError(
            f"The hub has no checkpoint called {name} (or it is private); check the spelling, "
            "for instance prs-eth/marigold-depth-v1-1."
        )
    if not isinstance(error, UNREACHABLE):
        return error or RuntimeError("the download ended without a reason")
    if download.total:
        return CheckpointError(
            f"The download of {name} broke off after {download.here // MB} of {-(-download.total // MB)} MB; "
            "check the connection and the free space on the disk, and try again: finished files are kept."
        )
    return CheckpointError(
        f"{name} is not on this machine and the hub cannot be reached; connect to the internet for its "
        "first use, name a folder that holds it, or choose the embedded checkpoint."
    )


def wanted_files(files: Iterable[str], *, half: bool, with_text: bool) -> list[str]:
    """Choose the files of a repository that are worth downloading: one copy of each weight, no pickles.

    Args:
        files: Paths in the repository.
        half: Prefer weights of the variant "fp16".
        with_text: Include the text encoder and its tokenizer.
    """
    parts = NETWORKS + (TEXT if with_text else ())
    by_part = {part: [file for file in files if file.startswith(f"{part}/")] for part in parts}
    chosen = [file for file in files if file in (INDEX, EMPTY_PROMPT)]
    chosen += [file for file in files if file.startswith("scheduler/") and file.endswith(".json")]
    for part in parts:
        halves = [file for file in by_part[part] if ".fp16." in file]
        wholes = [
            file
            for file in by_part[part]
            if ".safetensors" in file and file not in halves and ".non_ema." not in file
        ]
        halves = [file for file in halves if ".safetensors" in file]
        chosen += halves if halves and (half or not wholes) else wholes
        chosen += [
            file for file in by_part[part] if file.endswith((".json", ".txt")) and ".safetensors" not in file
        ]
    return sorted(set(chosen))


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
    found = try_to_load_from_cache(name, file)
    return Path(found).parent if isinstance(found, str) else None


def cached_bytes(name: str) -> int:
    """Return how much of a repository the cache holds, unfinished files not counted."""
    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "blobs"
    return sum(file.stat().st_size for file in blobs.glob("*") if file.suffix != ".incomplete")


def is_complete(folder: Path) -> bool:
    """Tell whether a checkpoint folder lacks none of the files it cannot be read without."""
    needed = [folder / INDEX, folder / "scheduler" / "scheduler_config.json"]
    networks = [part for part in NETWORKS if part != "image_encoder" or (folder / part).is_dir()]
    if not (folder / EMPTY_PROMPT).is_file():
        networks.append("text_encoder")
        needed.append(folder / "tokenizer" / "tokenizer_config.json")
        if not (folder / "tokenizer" / "tokenizer.json").is_file():
            needed += [folder / "tokenizer" / "vocab.json", folder / "tokenizer" / "merges.txt"]
    return all(file.is_file() for file in needed) and all(_has_weights(folder / part) for part in networks)


def _has_weights(folder: Path) -> bool:
    names = [file.name for file in folder.glob("*.safetensors")]
    shards = [shard for name in names if (shard := _SHARD.search(name))]
    whole = len(shards) < len(names) or any(len(shards) >= int(shard[1]) for shard in shards)
    return whole and bool(names) and (folder / "config.json").is_file()


def _is_here(name: str, file: str, *, revision: str | None) -> bool:
    return isinstance(try_to_load_from_cache(name, file, revision=revision), str)


def answers(name: str, *, within_s: float) -> bool:
    """Tell whether the hub knows a repository and says so in time."""
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
