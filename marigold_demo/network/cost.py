"""What a call of a network costs, counted on tensors without content. Knows nothing of machines or depth.

Only shapes are computed: a network of two gigabytes is counted in a second and in no memory.
"""

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

SMALL, LARGE = 128**2, 256**2  # pixels of the photos that are counted; the rest follows, see `CostModel`


@dataclass(frozen=True)
class Cost:
    """The price of some work, whatever the machine.

    Attributes:
        flop: Multiplications and additions.
        moved_bytes: Written into memory.
        calls: Of torch's operations.
        peak_bytes: In memory at once, weights and arguments not counted.
    """

    flop: float = 0.0
    moved_bytes: float = 0.0
    calls: float = 0.0
    peak_bytes: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        """Return the cost of one after the other: sums, but the higher of the peaks."""
        return Cost(
            flop=self.flop + other.flop,
            moved_bytes=self.moved_bytes + other.moved_bytes,
            calls=self.calls + other.calls,
            peak_bytes=max(self.peak_bytes, other.peak_bytes),
        )

    def times(self, count: int, *, together: int = 1) -> "Cost":
        """Return the cost of the same for several members, some of them in one call."""
        return Cost(
            flop=count * self.flop,
            moved_bytes=count * self.moved_bytes,
            calls=-(-count // together) * self.calls,
            peak_bytes=min(count, together) * self.peak_bytes,
        )


@dataclass(frozen=True)
class CostModel:
    """Cost as a function of the pixels of the photo, from counts at two sizes.

    All convolutions are linear in the pixels, self-attention has a part that is quadratic.
    """

    small: Cost
    large: Cost

    def at(self, pixels: int) -> Cost:
        """Return the cost for a photo of so many pixels."""
        ratio = LARGE / SMALL
        square = (self.large.flop - ratio * self.small.flop) / (LARGE**2 - ratio * SMALL**2)
        linear = self.small.flop / SMALL - square * SMALL
        values = {}
        for name in (field.name for field in fields(Cost)):
            small, large = getattr(self.small, name), getattr(self.large, name)
            values[name] = max(0.0, small + (pixels - SMALL) * (large - small) / (LARGE - SMALL))
        return Cost(**values | {"flop": linear * pixels + square * pixels**2})


class EndingError(Exception):
    """The program ends while something is counted in the background."""


def count(run: Callable[[], object]) -> Cost:
    """Return the cost of some work on tensors of the device "meta"."""
    with torch.no_grad(), _Attention() as attention, FlopCounterMode(display=False) as counter:
        with _Tally() as tally:
            run()
    return Cost(
        flop=float(counter.get_total_flops() + attention.flop),
        moved_bytes=float(tally.moved),
        calls=float(tally.calls),
        peak_bytes=float(tally.peak),
    )


class _Attention(TorchFunctionMode):
    """Counts attention as the fused kernels do it, which never store the table of all pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.flop = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key = args[:2]  # [B, h, T, d], [B, h, S, d]
        self.flop += 4 * query.numel() * key.shape[-2]
        return torch.empty_like(query)


class _Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, what they write, and how much of it is there at the same time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = self.moved = self.peak = self._now = 0
        self._living: dict[int, int] = {}  # storage -> bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not threading.main_thread().is_alive():
            raise EndingError  # a thread that is in torch when the interpreter goes takes it down
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._living:
            return  # a view, or changed in place
        self._living[key] = size = storage.nbytes()
        self.moved += size
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._living.pop(key, 0)
