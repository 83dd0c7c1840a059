"""The name of a checkpoint -> its pipeline on a device, loaded once; Marigold's or another method's."""

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from marigold_demo.catalog import EMBEDDED, find, plain_name
from marigold_demo.depth import CheckpointStatus, DepthMap, Progress, Run
from marigold_demo.errors import CheckpointError
from marigold_demo.io.photo import Photo
from marigold_demo.network.checkpoint_files import (
    EMBEDDED_FOLDER,
    cached,
    cached_bytes,
    changed_file,
    check_complete,
    fetched,
    find_folder,
    is_complete,
    is_feedforward,
    is_hub_name,
    revision_of,
)
from marigold_demo.network.checkpoint_folder import (
    TAESD_BYTES,
    check_latents,
    find_tiny_vae,
    folder_has_tiny_vae,
    has_tiny_vae,
    read_pipeline,
    sketch_pipeline,
    tiny_vae_folder,
    with_tiny_vae,
)
from marigold_demo.network.feedforward import FeedForwardPipeline, check_feedforward, read_feedforward
from marigold_demo.network.hub import MB, answers, fetch_checkpoint, is_reachable
from marigold_demo.network.memory import MemoryShortageError, retry_at_lower_resolution
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.network.weights import INSTEAD, READ_ERRORS
from marigold_demo.settings import DepthSettings

logger = logging.getLogger(__name__)

BEST, ANSWER_S = "prs-eth/marigold-depth-v1-1", 3.0
LONGEST_SHOWN = 200  # characters of a name that a message repeats
MOST_LOADED = 2  # networks of several gigabytes are not kept for ever
LARGE_BYTES = 2**29

MOST_REMEMBERED = 100  # settings whose last duration is known

_last_s: OrderedDict[DepthSettings, float] = OrderedDict()  # seconds in the networks of the last prediction
Pipeline = DepthPipeline | FeedForwardPipeline
_loaded: OrderedDict[tuple[str, str, torch.dtype | None], Pipeline] = OrderedDict()
_drafts: WeakKeyDictionary[DepthPipeline, DepthPipeline] = WeakKeyDictionary()
_loading = threading.Lock()


def predict(photo: Photo, settings: DepthSettings, run: Run | None = None) -> DepthMap:
    """Return the depth of a photo; fetch and load the checkpoint of the settings where need be.

    Cancelling the run ends a download as well as a prediction.

    Raises:
        DemoError: The checkpoint cannot be had, or cannot do what the settings say.
        CancelledError: The run was canceled.
    """
    run = run or Run()
    pipeline = _ready_pipeline(settings, run)
    start = time.perf_counter()
    with _unknown_networks(settings.checkpoint):
        depth = retry_at_lower_resolution(
            partial(pipeline, photo, run=run), settings, longest=pipeline.longest_edge(photo.size, settings)
        )
    _last_s[settings] = time.perf_counter() - start
    _last_s.move_to_end(settings)
    if len(_last_s) > MOST_REMEMBERED:
        _last_s.popitem(last=False)
    return _signed(depth, pipeline, settings)


def predict_batch(photos: Sequence[Photo], settings: DepthSettings, run: Run | None = None) -> list[DepthMap]:
    """Return the depth of photos of one `batch_key`, the same bytes as of `predict` one by one on a CPU.

    Raises:
        DemoError: As `predict`.
    """
    pipeline = _ready_pipeline(settings, run or Run())
    if len(photos) > 1 and isinstance(pipeline, DepthPipeline):
        with suppress(MemoryShortageError), _unknown_networks(settings.checkpoint):
            return [_signed(depth, pipeline, settings) for depth in pipeline.batch(photos, settings, run)]
    return [predict(photo, settings, run) for photo in photos]


def batch_key(size: tuple[int, int], settings: DepthSettings, run: Run | None = None) -> Hashable | None:
    """Return what photos of this width and height share with those predicted with them; None: with none.

    Several threads, and GPUs, share out a batch otherwise than a photo, which changes the last bits: there it
    is None.
    """
    pipeline = _ready_pipeline(settings, run or Run())
    same_bytes = pipeline.device.type == "cpu" and torch.get_num_threads() == 1
    if not same_bytes or not isinstance(pipeline, DepthPipeline):
        return None
    return pipeline.batch_key(size, settings)


def _signed(depth: DepthMap, pipeline: Pipeline, settings: DepthSettings) -> DepthMap:
    return replace(depth, revision=_revision(settings.checkpoint), device=device_name(pipeline))


def _ready_pipeline(settings: DepthSettings, run: Run) -> Pipeline:
    """Fetch and load the networks of the settings."""
    name, device = settings.checkpoint, best_device()
    if _key(name, device=device) not in _loaded:
        if local_folder(name) is None:
            check = partial(check_folder, name=name)
            fetch_checkpoint(name, half=_half(device), check=check, run=run)
        run.report(Progress("load", 0, 0))
    pipeline = load_pipeline(name, device=device)
    if settings.quality == "full" or isinstance(pipeline, FeedForwardPipeline) or has_tiny_vae(pipeline):
        return pipeline
    check_latents(pipeline, name=name)
    if pipeline not in _drafts:
        folder = tiny_vae_folder(local_folder(name) or fetched(name), run)
        run.report(Progress("load", 0, 0))
        _drafts[pipeline] = with_tiny_vae(pipeline, folder)
    return _drafts[pipeline]


def status(settings: DepthSettings) -> CheckpointStatus:
    """Return what is known of a prediction beforehand: what it downloads, and how long the last one took.

    Raises:
        CheckpointError: The settings name neither a whole checkpoint folder nor a hub repository.
    """
    missing = _missing_bytes(settings)
    return CheckpointStatus(
        missing,
        _last_s.get(settings),
        reachable=missing == 0 or is_reachable(BEST),
        has_gpu=best_device() != "cpu",
    )


def _missing_bytes(settings: DepthSettings) -> int | None:
    """Return how much has to be downloaded, None where nobody here knows."""
    name, folder = settings.checkpoint, local_folder(settings.checkpoint)
    if folder is not None:
        check_complete(folder, name=name)
    else:
        folder = cached(name)
        if folder is not None and not is_complete(folder):
            folder = None
    known = find(name)
    is_marigold = known.is_marigold if known else folder is None or not is_feedforward(folder)
    draft = TAESD_BYTES if settings.quality == "draft" and is_marigold else 0
    if folder is not None:
        return 0 if not draft or folder_has_tiny_vae(folder) or find_tiny_vae(folder) else draft
    if known is None:
        return None
    whole = known.download_mb * MB * (1 if best_device() == "cuda" or not known.is_marigold else 2)
    return max(0, whole - cached_bytes(name)) + draft


@contextmanager
def _unknown_networks(name: str) -> Iterator[None]:
    """Blame a checkpoint that nobody tried for what goes wrong while its networks work.

    Raises:
        CheckpointError: In place of what a library raised, which is logged.
    """
    try:
        yield
    except READ_ERRORS as error:
        if find(name) is not None:  # those are known to work: the fault is ours
            raise
        logger.info("the networks of a checkpoint failed", exc_info=error)
        raise CheckpointError(f"The networks of {name} cannot be run by this app; {INSTEAD}.") from error


def load_pipeline(name: str, *, device: str | None = None, dtype: torch.dtype | None = None) -> Pipeline:
    """Load a checkpoint once; later calls return the same object. Safe to call from several threads.

    Args:
        name: "embedded", a folder, or a hub name such as "prs-eth/marigold-depth-v1-1", also with @revision.
        device: Any of torch's; None takes CUDA, then MPS, then the CPU.
        dtype: Number format of the networks; None: the fastest one that keeps depth smooth, see `best_dtype`.

    Raises:
        CheckpointError: The checkpoint is missing, damaged, out of reach or of the wrong kind.
    """
    name, device = plain_name(name), device or best_device()
    key = _key(name, device=device, dtype=dtype)
    with _loading:
        if key not in _loaded:
            pipeline = _open(name, dtype=dtype, device=device)
            with _unknown_networks(name):
                _loaded[key] = pipeline.optimize(device).to(torch.device(device))
        _loaded.move_to_end(key)
        while len(_loaded) > MOST_LOADED:
            _loaded.popitem(last=False)
        return _loaded[key]


def open_pipeline(name: str, *, dtype: torch.dtype | None = None, device: str = "cpu") -> DepthPipeline:
    """Read a Marigold checkpoint onto the CPU as it is, for training too; each call makes a new one.

    Args:
        name: As for `load_pipeline`.
        dtype: Number format of the networks; None: the best one for `device`.
        device: Where the networks will go.

    Raises:
        CheckpointError: The checkpoint is missing, damaged, out of reach or of the wrong kind.
    """
    pipeline = _open(plain_name(name), dtype=dtype, device=device)
    if isinstance(pipeline, FeedForwardPipeline):
        raise CheckpointError(f"{name} is no Marigold, which is needed here; {INSTEAD}.")
    return pipeline


def _open(name: str, *, dtype: torch.dtype | None, device: str) -> Pipeline:
    folder = local_folder(name)
    if name == EMBEDDED:
        _check_embedded()
    if folder is None:
        check = partial(check_folder, name=name)
        folder = fetch_checkpoint(name, half=_half(device, dtype=dtype), check=check)
    if is_feedforward(folder):
        made = read_feedforward(folder, name=name, dtype=dtype or torch.float32)
        fast = best_dtype(device, folder=None)
        return made.encode_in(fast) if dtype is None and device == "cpu" and fast != torch.float32 else made
    return read_pipeline(folder, name=name, dtype=dtype or best_dtype(device, folder=folder))


def check_folder(folder: Path, *, name: str) -> None:
    """Check the configs of a checkpoint, before its weights are downloaded or read.

    Raises:
        CheckpointError: They are damaged, or of something that cannot be run here.
    """
    if is_feedforward(folder):
        check_feedforward(folder, name=name)
    else:
        sketch_pipeline(folder, name=name)


def unload() -> None:
    """Forget all loaded checkpoints, and free their memory once no prediction needs them any more."""
    with _loading:
        _loaded.clear()
        _drafts.clear()


def best_dtype(device: str, *, folder: Path | None) -> torch.dtype:
    """Return the number format for a checkpoint folder (None: a large one) on a device.

    Small networks stay in float32: they are fast as they are, and the embedded one loses form in 16 bits
    (measured). Large ones run in float16 on CUDA and in bfloat16 on a CPU that multiplies it in hardware.
    """
    weights = [] if folder is None else list((folder / "unet").glob("*.safetensors"))
    if weights and sum(os.path.getsize(file) for file in weights if os.path.isfile(file)) <= LARGE_BYTES:
        return torch.float32
    if device.startswith("cuda"):
        return torch.float16
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if device == "cpu" and fast else torch.float32


def best_device() -> str:
    """Return the fastest kind of device there is."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_name(pipeline: Pipeline) -> str:
    """Return what decides on the last digits of a prediction: processor, threads, number format.

    On a CPU the number of threads is among it: torch gives each a part of a map, rounds SiLU and GELU
    otherwise in full vectors than in the rest of a part, and sums group norms part by part.
    """
    dtype = str(pipeline.dtype).removeprefix("torch.")
    encoder = getattr(pipeline, "encoder_dtype", None)
    if encoder is not None:
        dtype += f", encoder {str(encoder).removeprefix('torch.')}"
    if pipeline.device.type == "cpu":
        capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
        return f"CPU ({capability}, {threads} thread{'' if threads == 1 else 's'}, {dtype})"
    if pipeline.device.type == "cuda":
        return f"CUDA ({torch.cuda.get_device_name(pipeline.device)}, {dtype})"
    return f"{pipeline.device.type.upper()} ({dtype})"


def default_checkpoint() -> str:
    """Return what a visitor who chooses nothing gets: the best checkpoint that answers in seconds here.

    That is the embedded one on a CPU, and the official one on CUDA if its weights are on this machine or the
    hub answers in time.
    """
    if best_device() != "cuda":
        return EMBEDDED
    folder = cached(BEST)
    here = folder is not None and is_complete(folder)
    return BEST if here or answers(BEST, within_s=ANSWER_S) else EMBEDDED


def _key(name: str, *, device: str, dtype: torch.dtype | None = None) -> tuple[str, str, torch.dtype | None]:
    return str(local_folder(name) or name), device, dtype


def _half(device: str, *, dtype: torch.dtype | None = None) -> bool:
    """Return whether the half-precision files of a repository are worth more than the whole ones."""
    return dtype == torch.float16 or (dtype is None and device.startswith("cuda"))


def _revision(name: str) -> str:
    return revision_of(local_folder(name) or fetched(name))


def local_folder(name: str) -> Path | None:
    """Return the folder a name stands for, None for a hub name.

    Raises:
        CheckpointError: It is neither.
    """
    if name == EMBEDDED:
        if not EMBEDDED_FOLDER.is_dir():
            raise CheckpointError(
                "The embedded checkpoint is not installed; install the app again, or name another checkpoint."
            )
        return EMBEDDED_FOLDER
    folder = find_folder(name)
    if folder is None and not is_hub_name(name):
        raise CheckpointError(
            f"There is no checkpoint folder {_shortened(name)}; give a folder in diffusers' layout, a hub "
            "name such as prs-eth/marigold-depth-v1-1, or 'embedded'."
        )
    return folder


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}…"


def _check_embedded() -> None:
    """Hold the embedded checkpoint against the digests that were recorded when it was saved (0.05 s).

    Raises:
        CheckpointError: A file is not as it was.
    """
    changed = changed_file(EMBEDDED_FOLDER)
    if changed:
        raise CheckpointError(
            f"The embedded checkpoint is damaged: {changed} is not as it was installed. Install the app "
            "again, or name another checkpoint."
        )
