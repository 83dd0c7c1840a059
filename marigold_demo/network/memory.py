"""Networks in the memory there is: batches of ensemble members, and fallbacks for out-of-memory errors.

The fallbacks are tried in this order: 1. a smaller batch of members, 2. the VAE in row chunks, 3. on a GPU,
VAE activations in host memory, 4. a lower processing resolution. Steps 1 to 3 give the same depth more
slowly; step 4 adds a note to `DepthMap.notes`.

Tiles of an image that go through the whole network one by one show seams, because each has normalization
statistics of its own. In row chunks every layer goes through its map chunk by chunk instead: a convolution
sees the rows it needs beyond its chunk, and the statistics of a normalization are those of the whole map. So
the result is exact but for rounding; what is saved are the copies of the map between a layer's steps.

glibc hands large blocks back to the system as soon as they are free, and what is taken anew comes page by
page, filled with zeros (mallopt(3)). The activations of a VAE are such blocks: in 16 bits a tenth of a
prediction's time went into it (measured). So freed memory stays with the process until the prediction ends.
Other C libraries are left alone.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import psutil
import torch
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from marigold_demo.depth import DepthMap
from marigold_demo.errors import SettingsError
from marigold_demo.network.cpu.patches import FusedResnet, affine
from marigold_demo.settings import DepthSettings

CPU_BATCH_BYTES = 2**22  # the first layer stays in the caches; larger batches are slower (measured)
PEAK_LAYERS = 6  # what a VAE holds at its peak, in maps of its first width and full size (counted)
PLENTY = 2  # peaks that have to fit into free memory before freed memory is kept: kept memory is fragmented
LEAST_RESOLUTION, STEP_DOWN = 128, 0.75
# From malloc.h, and what glibc's own thresholds, which grow with the blocks that are freed, come to at last.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
DEFAULTS = {MMAP_MAX: 65536, MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**26}
KEPT = {MMAP_MAX: 0, TRIM_THRESHOLD: -1}
RETURNED_BYTES = DEFAULTS[TRIM_THRESHOLD]  # from here on free memory goes back to the system

Result = TypeVar("Result")
_lock = threading.Lock()
_keeping = 0
ROWS = 64  # of a chunk; even, so that halving keeps them apart
HALO = {AutoencoderTinyBlock: 3, Upsample2D: 2, Downsample2D: 2}  # rows seen beyond a chunk
SCALE = {Upsample2D: 2.0, Downsample2D: 0.5}


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
                    stack.enter_context(in_row_chunks(network, keep=keep))
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
    return freed_memory_kept() if free is not None and PLENTY * peak < free else nullcontext()


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory meanwhile, and hand it back at the end of the last one that does so."""
    global _keeping
    with _lock:
        _keeping += 1
        _set_allocator(KEPT)
    try:
        yield
    finally:
        with _lock:
            _keeping -= 1
            if _keeping == 0:
                _set_allocator(DEFAULTS, trim=True)


def _set_allocator(options: dict[int, int], *, trim: bool = False) -> None:
    with suppress(OSError, TypeError, AttributeError):  # another C library, or none
        library = ctypes.CDLL(None)
        for option, value in options.items():
            library.mallopt(option, value)
        if trim:
            library.malloc_trim(0)


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


@contextmanager
def in_row_chunks(network: nn.Module, *, keep: torch.device | None = None) -> Iterator[None]:
    """Let the layers of a VAE's encoder or decoder work in chunks meanwhile.

    Args:
        network: Of diffusers' blocks; others are left as they are.
        keep: Where maps are kept between layers; None: where the network is.
    """
    changed: dict[nn.Module, Any] = {}
    for module in list(network.modules()):
        chunked = _chunked_forward(module, keep=keep)
        if chunked is not None:
            changed[module] = vars(module).get("forward")
            module.forward = chunked
    try:
        yield
    finally:
        for module, forward in changed.items():
            vars(module).pop("forward")
            if forward is not None:  # it was another's, see `patch`
                module.forward = forward


def _chunked_forward(module: Any, *, keep: torch.device | None) -> Callable[..., Tensor] | None:
    kind = type(module)
    forward = module.forward
    if isinstance(forward, FusedResnet) and forward.in_float32:
        return None  # its chunks are smaller already
    if kind is ResnetBlock2D and _is_plain(module):
        return partial(_resnet, module, keep=keep)
    halo = HALO.get(kind) or getattr(module, "row_halo", 0)
    if not halo:
        return None

    def run(x: Tensor, *rest: Any, **named: Any) -> Tensor:
        return _by_rows(
            lambda part: forward(part, *rest, **named),
            x,
            halo=halo,
            scale=SCALE.get(kind, 1.0),
            keep=keep,
            device=next(module.parameters()).device,
        )

    return run


def _is_plain(block: Any) -> bool:
    """Return whether a residual block is one of a VAE: without time and without resizing."""
    return block.time_emb_proj is None and block.upsample is None and block.downsample is None


def _resnet(block: Any, x: Tensor, *_: Any, keep: torch.device | None, **__: Any) -> Tensor:
    """Compute a residual block of the map x [B, C, H, W] -> [B, C', H, W]."""
    rows = partial(_by_rows, halo=1, scale=1.0, keep=keep, device=block.conv1.weight.device)
    normal = _normalizer(block.norm1, x)
    hidden = rows(lambda part: block.conv1(block.nonlinearity(normal(part))), x)  # [B, C', H, W]
    normal_again = _normalizer(block.norm2, hidden)

    def second(both: Tensor) -> Tensor:
        came, part = torch.split(both, [x.shape[1], hidden.shape[1]], dim=1)
        residual = came if block.conv_shortcut is None else block.conv_shortcut(came)
        refined = block.conv2(block.dropout(block.nonlinearity(normal_again(part))))
        return (residual + refined) / block.output_scale_factor  # type: ignore[no-any-return]

    return rows(second, x, hidden)


def _by_rows(
    run: Callable[[Tensor], Tensor],
    *maps: Tensor,
    halo: int,
    scale: float,
    keep: torch.device | None,
    device: torch.device,
) -> Tensor:
    """Run a layer over maps [B, C, H, W] chunk by chunk; several maps are seen as one with all channels."""
    height = maps[0].shape[2]
    whole: Tensor | None = None
    for top in range(0, height, ROWS):
        bottom = min(top + ROWS, height)
        first, last = max(0, top - halo), min(height, bottom + halo)
        seen = [part[:, :, first:last].to(device) for part in maps]
        result = run(torch.cat(seen, dim=1) if len(seen) > 1 else seen[0])
        if whole is None:
            shape = (*result.shape[:2], int(height * scale), result.shape[3])
            whole = torch.empty(shape, dtype=result.dtype, device=keep or device)
            if device.type == "cpu":
                whole = whole.to(memory_format=torch.channels_last)
        inside = slice(int((top - first) * scale), int((bottom - first) * scale))
        whole[:, :, int(top * scale) : int(bottom * scale)] = result[:, :, inside]
    if whole is None:
        raise ValueError("a map without rows")
    return whole


def _normalizer(norm: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what a GroupNorm does to a part of the map x [B, C, H, W], with the statistics of all of it."""
    batch, channels, height, width = x.shape
    device = norm.weight.device
    sums = torch.zeros(2, batch, channels, dtype=torch.float64, device=device)
    for top in range(0, height, ROWS):
        part = x[:, :, top : top + ROWS].to(device).double()
        sums += torch.stack([part.sum(dim=(2, 3)), part.square().sum(dim=(2, 3))])
    gain, shift = (
        values[:, :, None, None] for values in affine(norm, sums, pixels=height * width)
    )  # [B, C, 1, 1]
    return lambda part: torch.addcmul(shift, part.float(), gain).to(part.dtype)
