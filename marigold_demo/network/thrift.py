"""What is done where memory does not suffice, one remedy after the other. Knows nothing of diffusion.

First fewer members at a time (`member_batches`), then the VAE in stripes, on a GPU with its maps in the
host's memory, and at last a lower resolution. All but the last change time alone; the last one is told.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace

import psutil
import torch
from torch import nn

from marigold_demo.depth import DepthMap
from marigold_demo.network.heap import RETURNED_BYTES, kept_heap
from marigold_demo.network.member_batches import MemoryShortageError
from marigold_demo.network.stripes import in_stripes
from marigold_demo.progress import Progress
from marigold_demo.settings import DepthSettings

PEAK_LAYERS = 6  # what a VAE holds at its peak, in maps of its first width and full size (counted)
PLENTY = 2  # peaks that have to fit into free memory, for kept memory falls into pieces
LEAST_RESOLUTION, STEP_DOWN = 128, 0.75

Steps = Generator[Progress | DepthMap, None, None]


class Thrift:
    """How sparingly a VAE works during one prediction."""

    def __init__(self, *networks: nn.Module, layer_bytes: int) -> None:
        """Take the networks, and begin with stripes where the picture is large for the memory that is free.

        Args:
            networks: Parts of the VAE.
            layer_bytes: What the first layer takes for one member.
        """
        self._networks = networks
        self._device = next(networks[0].parameters()).device
        free = free_bytes(self._device)
        self.striped = free is not None and PEAK_LAYERS * layer_bytes > free
        self.on_host = False

    def relieve(self) -> bool:
        """Take the next remedy; False where none is left."""
        if not self.striped:
            self.striped = True
            return True
        if self._device.type == "cuda" and not self.on_host:
            self.on_host = True
            return True
        return False

    def applied(self, run: Callable[[slice], None]) -> Callable[[slice], None]:
        """Return the same work with the remedies that are taken by then."""

        def sparing(batch: slice) -> None:
            with ExitStack() as stack:
                if self.striped:
                    keep = torch.device("cpu") if self.on_host else None
                    for network in self._networks:
                        stack.enter_context(in_stripes(network, keep=keep))
                run(batch)

        return sparing


def lavish(device: torch.device, *, layer_bytes: int) -> AbstractContextManager[None]:
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


def at_what_fits(stream: Callable[[DepthSettings], Steps], settings: DepthSettings, *, longest: int) -> Steps:
    """Stream a prediction, at a lower resolution where memory does not suffice; the depth map tells of it.

    Args:
        stream: Starts a prediction; may raise for want of memory.
        settings: What is wished for.
        longest: The resolution that is meant where the settings leave it open, in pixels.

    Raises:
        MemoryShortageError: Not even the lowest resolution fits.
    """
    resolution = wished = settings.resolution or longest
    while True:
        try:
            with closing(stream(settings)) as steps:
                for step in steps:
                    if isinstance(step, DepthMap) and resolution != wished:
                        note = (
                            f"There was not enough memory for {wished} px; this depth was computed at"
                            f" {resolution} px."
                        )
                        step = replace(step, notes=(*step.notes, note))
                    yield step
            return
        except MemoryShortageError:
            resolution = int(resolution * STEP_DOWN) // 8 * 8
            if resolution < LEAST_RESOLUTION:
                raise
            settings = replace(settings, resolution=resolution)
