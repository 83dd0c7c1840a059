"""How much memory a stage of training takes, counted beforehand on torch's device "meta", without weights.

Counted are the networks, what the optimizer and the average keep, and the largest sum of all that is alive
during a forward and a backward pass, gradients included. Attention counts as CUDA's kernels work it out:
without a matrix of all pairs. What the driver and the allocator take comes on top, 1 to 2 GiB.
"""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.training import TrainSettings
from marigold_demo.training.batches import Batch
from marigold_demo.training.run_folder import empty_copy
from marigold_demo.training.stages import Stage

GIB = 2**30
LARGE = 100_000_000  # weights of a UNet whose blocks are worked out again by default


@dataclass(frozen=True)
class MemoryCount:
    """Bytes that one device needs for a stage.

    Attributes:
        networks: Weights of all networks.
        optimizer: Adam's two moments of what is trained.
        average: The averaged weights.
        work: Gradients and the most that is alive with them during a pass.
    """

    networks: int
    optimizer: int
    average: int
    work: int

    @property
    def total(self) -> int:
        """Sum of all of them."""
        return self.networks + self.optimizer + self.average + self.work

    def as_text(self, stage: str) -> str:
        """Return one line in GiB."""
        parts = (
            f"{name} {getattr(self, name) / GIB:.1f}" for name in ("networks", "optimizer", "average", "work")
        )
        return f"{stage}: {self.total / GIB:.1f} GiB of memory on each device ({', '.join(parts)})"


def count_memory(
    pipeline: DepthPipeline,
    make_stage: Callable[[DepthPipeline], Stage],
    settings: TrainSettings,
    *,
    size: tuple[int, int],
) -> MemoryCount:
    """Count what a stage needs in float32.

    Args:
        pipeline: Its networks are looked at, not run.
        make_stage: Makes the stage of a pipeline.
        settings: Batch, optimizer, average, gradient checkpointing.
        size: Width and height of the pictures in pixels.
    """
    empty = empty_copy(pipeline, device="meta")
    stage = make_stage(empty)
    if recomputes(settings, pipeline):
        stage.checkpoint_gradients()
    trained = [weight for network in stage.trained for weight in network.parameters()]
    everything = [*stage.parameters(), *stage.buffers()]
    held = sum(_bytes(weight) for weight in trained)
    width, height = size
    with _lean_attention(), torch.enable_grad(), _Alive(known=everything) as alive:
        for weight in trained:
            weight.grad = torch.empty_like(weight)  # of the batches before, which are summed up
        stage(_empty_batch(settings.batch, height, width), 0).backward()
    share = 1 / 4 if settings.optimizer.endswith("8bit") else 1
    return MemoryCount(
        networks=sum(_bytes(weight) for weight in everything),
        optimizer=int(2 * held * share),
        average=held if settings.ema else 0,
        work=alive.most,
    )


def recomputes(settings: TrainSettings, pipeline: DepthPipeline) -> bool:
    """Return whether blocks are worked out again for the gradients; by default in networks of some size."""
    if settings.gradient_checkpointing == "auto":
        return sum(int(weight.numel()) for weight in pipeline.unet.parameters()) > LARGE
    return settings.gradient_checkpointing == "on"


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _empty_batch(count: int, height: int, width: int) -> Batch:
    def plane(channels: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(count, channels, height, width, dtype=dtype, device="meta")

    return Batch(
        photo=plane(3, torch.float32),
        normal_depth=plane(1, torch.float32),
        depth=plane(1, torch.float32),
        valid=plane(1, torch.bool),
        sky=plane(1, torch.bool),
    )


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums up the bytes of all storages that are alive, and remembers the most there ever were."""

    def __init__(self, *, known: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __enter__(self) -> "_Alive":
        gc.collect()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and tensor.device.type == "meta":
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += self._sizes[key]
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class _Attention(torch.autograd.Function):
    """What CUDA's attention keeps: its inputs and its result."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


@contextmanager
def _lean_attention() -> Iterator[None]:
    real = functional.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        result: Tensor = _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]
        return result

    functional.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = real
