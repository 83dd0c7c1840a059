"""How fast this machine is, measured once on small work, and how long runs took. Knows no networks."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from marigold_demo.network.cost import Cost
from marigold_demo.settings import DepthSettings

CHANNELS, SIDE, REPEATS = 64, 96, 5
RUNS = 5  # of each checkpoint are remembered

_paces: dict[tuple[str, torch.dtype], "Pace"] = {}
_runs: dict[tuple[str, str], deque["Run"]] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Pace:
    """What a machine does in a second.

    Attributes:
        flop: Multiplications and additions, in convolutions.
        bytes: Written into memory.
        calls: Of operations on next to nothing.
    """

    flop: float
    bytes: float
    calls: float

    def seconds(self, cost: Cost) -> float:
        """Return how long some work takes."""
        return cost.flop / self.flop + cost.moved_bytes / self.bytes + cost.calls / self.calls


@dataclass(frozen=True)
class Run:
    """A prediction that was made: width and height of the photo, settings, time in the networks."""

    size: tuple[int, int]
    settings: DepthSettings
    seconds: float


def measure(device: str, dtype: torch.dtype) -> Pace:
    """Measure the pace of a device in a number format once; later calls return the same."""
    with _lock:
        if (device, dtype) not in _paces:
            _paces[device, dtype] = _measure(device, dtype)
        return _paces[device, dtype]


def known(device: str, dtype: torch.dtype) -> Pace | None:
    """Return a pace that was measured already."""
    return _paces.get((device, dtype))


def note_run(size: tuple[int, int], settings: DepthSettings, *, seconds: float) -> None:
    """Remember how long a prediction took."""
    runs = _runs.setdefault((settings.checkpoint, settings.quality), deque(maxlen=RUNS))
    runs.append(Run(size, settings, seconds))


def last_runs(settings: DepthSettings) -> tuple[Run, ...]:
    """Return the last predictions with the checkpoint and quality of the settings."""
    return tuple(_runs.get((settings.checkpoint, settings.quality), ()))


@torch.inference_mode()
def _measure(device: str, dtype: torch.dtype) -> Pace:
    image = torch.randn(1, CHANNELS, SIDE, SIDE, device=device).to(dtype, memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, device=device)
    conv.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    small = torch.zeros(8, device=device)
    large = torch.zeros(2**22, device=device)  # 16 MB: no cache holds it
    conv_s = _time(lambda: conv(image), device=device)
    add_s = _time(lambda: large + 1, device=device)
    call_s = _time(lambda: [small + 1 for _ in range(100)], device=device) / 100
    return Pace(
        flop=2 * 9 * CHANNELS**2 * SIDE**2 / conv_s,
        bytes=large.nbytes / add_s,
        calls=1 / call_s,
    )


def _time(run: Callable[[], object], *, device: str) -> float:
    """Return the median time of some runs after a first one."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[REPEATS // 2]
