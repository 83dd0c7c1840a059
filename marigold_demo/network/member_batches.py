"""Run a network over members, as many at a time as memory allows. Knows nothing of diffusion."""

from collections.abc import Callable, Generator

import torch

from marigold_demo.errors import SettingsError

CPU_BATCH_BYTES = 2**22  # the first layer stays in the caches; larger batches are slower (measured)


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


class MemoryShortageError(SettingsError):
    """Not even a single member fits."""


def in_batches(
    count: int, *, size: int, run: Callable[[slice], None], relieve: Callable[[], bool] = lambda: False
) -> Generator[int, None, None]:
    """Run `run` over all members and yield, before each call, how many are done.

    Where memory does not suffice the batch is halved.

    Args:
        count: Members.
        size: Members in the first batch.
        run: Takes a slice of members; may raise for want of memory.
        relieve: Asked where a single member does not fit; makes it need less and tells whether it could.

    Raises:
        MemoryShortageError: Not even a single member fits.
    """
    done = 0
    while done < count:
        yield done
        batch = slice(done, min(done + size, count))
        try:
            run(batch)
        except RuntimeError as error:  # torch.OutOfMemoryError on a GPU, a plain RuntimeError on a CPU
            if not is_out_of_memory(error):
                raise
            if batch.stop - done > 1:
                size = (batch.stop - done) // 2
            elif not relieve():
                raise MemoryShortageError(
                    "There is not enough memory for this resolution; choose a lower one."
                ) from error
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        done = batch.stop


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether an error of torch means that memory is used up."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
