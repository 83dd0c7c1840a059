"""Networks in the memory there is: batches of ensemble members, and fallbacks for out-of-memory errors.

The fallbacks are tried in this order: 1. a smaller batch of members, 2. the VAE in row chunks, 3. on a GPU,
VAE activations in host memory, 4. a lower processing resolution. Steps 1 to 3 give the same depth more
slowly; step 4 adds a note to `DepthMap.notes`.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import TypeVar

import psutil
import torch
from torch import nn

from marigold_demo.depth import DepthMap
from marigold_demo.errors import SettingsError
from marigold_demo.network.heap import RETURNED_BYTES, kept_heap
from marigold_demo.network.stripes import in_stripes
from marigold_demo.settings import DepthSettings

CPU_BATCH_BYTES = 2**22  # the first layer stays in the caches; larger batches are slower (measured)
PEAK_LAYERS = 6  # what a VAE holds at its peak, in maps of its first width and full size (counted)
PLENTY = 2  # peaks that have to fit into free memory before freed memory is kept: kept memory is fragmented
LEAST_RESOLUTION, STEP_DOWN = 128, 0.75

Result = TypeVar("Result")


class MemoryShortageError(SettingsError):
    """Not even a single member fits."""


def batch_size(layer_bytes: int, *, device: torch.device, share: int) -> int:
    """Return how many members may go together.

    Args:
        layer_bytes: What the first layer takes for one member.
        device: Where the network is.
        share: On a GPU the first layer of a batch may take one part in so many of all memory; what is free
            does not count, so that the batches, and with them all rounding, are the same every time.
    """
    budget = CPU_BATCH_BYTES
    if device.type == "cuda":
        budget = torch.cuda.get_device_properties(device).total_memory // share
    return max(1, budget // layer_bytes)


def in_batches(
    count: int,
    call: Callable[[slice], Result],
    *,
    size: int,
    before: Callable[[int], None],
    escalate: Callable[[], bool] = lambda: False,
) -> list[Result]:
    """Return what `call` returns for one batch of members after the other.

    Where memory does not suffice the batch is halved.

    Args:
        count: Members.
        call: Takes a slice of members; may raise for want of memory.
        size: Members in the first batch.
        before: Called with the number of finished members before each call; may raise to stop.
        escalate: Called where a single member does not fit: takes the next fallback, False if there is none.

    Raises:
        MemoryShortageError: Not even a single member fits.
    """
    results: list[Result] = []
    done = 0
    while done < count:
        before(done)
        batch = slice(done, min(done + size, count))
        try:
            results.append(call(batch))
        except RuntimeError as error:  # torch.OutOfMemoryError on a GPU, a plain RuntimeError on a CPU
            if not is_out_of_memory(error):
                raise
            if batch.stop - done > 1:
                size = (batch.stop - done) // 2
            elif not escalate():
                raise MemoryShortageError(
                    "There is not enough memory for this resolution; choose a lower one."
                ) from error
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        done = batch.stop
    return results


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch means that memory is used up."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class MemoryFallback:
    """The fallbacks of a VAE during one prediction.

    Attributes:
        chunked: The VAE runs in row chunks.
        on_host: Its activations are kept in host memory between layers.
    """

    def __init__(self, *networks: nn.Module, layer_bytes: int) -> None:
        """Take the networks, and begin with row chunks where the image is large for the memory that is free.

        Args:
            networks: Parts of the VAE.
            layer_bytes: What the first layer takes for one member.
        """
        self._networks = networks
        self._device = next(networks[0].parameters()).device
        free = free_bytes(self._device)
        self.chunked = free is not None and PEAK_LAYERS * layer_bytes > free
        self.on_host = False

    def escalate(self) -> bool:
        """Take the next fallback; False where none is left."""
        if not self.chunked:
            self.chunked = True
            return True
        if self._device.type == "cuda" and not self.on_host:
            self.on_host = True
            return True
        return False

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run the VAE meanwhile with the fallbacks that are taken by now."""
        with ExitStack() as stack:
            if self.chunked:
                keep = torch.device("cpu") if self.on_host else None
                for network in self._networks:
                    stack.enter_context(in_stripes(network, keep=keep))
            yield


def keep_allocations(device: torch.device, *, layer_bytes: int) -> AbstractContextManager[None]:
    """Keep freed memory for the next layer meanwhile: on a CPU, for large maps, where there is plenty.

    Args:
        device: Where the networks are.
        layer_bytes: What the first layer of the VAE takes for one member.
    """
    peak = PEAK_LAYERS * layer_bytes
    pays = device.type == "cpu" and peak > RETURNED_BYTES
    free = free_bytes(device) if pays else None
    return kept_heap() if free is not None and PLENTY * peak < free else nullcontext()


def free_bytes(device: torch.device) -> int | None:
    """Return how much memory a device has left, None where that cannot be asked."""
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserved
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    return None


def retry_at_lower_resolution(
    predict: Callable[[DepthSettings], DepthMap], settings: DepthSettings, *, longest: int
) -> DepthMap:
    """Predict, at a lower resolution where memory does not suffice; the depth map then has a note.

    Args:
        predict: May raise MemoryShortageError.
        settings: What was asked for.
        longest: The resolution that is meant where the settings leave it open, in pixels.

    Raises:
        MemoryShortageError: Not even the lowest resolution fits.
    """
    resolution = wanted = settings.resolution or longest
    while True:
        try:
            depth = predict(settings)
        except MemoryShortageError:
            resolution = int(resolution * STEP_DOWN) // 8 * 8
            if resolution < LEAST_RESOLUTION:
                raise
            settings = replace(settings, resolution=resolution)
            continue
        if resolution == wanted:
            return depth
        note = f"There was not enough memory for {wanted} px; this depth was computed at {resolution} px."
        return replace(depth, notes=(*depth.notes, note))
