"""Train a checkpoint: open the data, make the networks, run the stages, save; memory is counted beforehand.

Memory is counted on torch's device "meta", without weights: the networks, what the optimizer and the average
keep, and the largest sum of all that is alive during a forward and a backward pass, gradients included.
Attention counts as CUDA's kernels work it out: without a matrix of all pairs. What the driver and the
allocator take comes on top, 1 to 2 GiB.
"""

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from marigold_demo.errors import SettingsError
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.training import TrainSettings
from marigold_demo.training.batches import Batch, BatchPlan, make_batch
from marigold_demo.training.data import Mixture, open_data
from marigold_demo.training.run_folder import RunFolder, empty_copy
from marigold_demo.training.stage_run import (
    Interrupt,
    OnProgress,
    Plan,
    StageMaker,
    StageRun,
    open_validation,
)
from marigold_demo.training.stages import DiffusionStage, EndToEndStage, Stage, VaeStage, load_networks
from marigold_demo.training.start import init_folder, open_init

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


OnNote = Callable[[str], None]
VAE_LR = 2e-3
VAE_SHRINK = 2  # a VAE sees only what is near, so small pictures teach it as much
MIXED = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


def train(settings: TrainSettings, on_progress: OnProgress, on_note: OnNote | None = None) -> Path:
    """Train, or go on with a run that was interrupted, and save the checkpoint.

    An interrupt or an error saves the last whole step first.

    Args:
        settings: What to train on what.
        on_progress: Called every few steps how far it has come; an exception from it stops the training.
        on_note: Called with sentences about the run before it starts, such as the memory that it takes.

    Returns:
        The checkpoint folder.

    Raises:
        DataError: A data folder is not laid out as expected.
        SettingsError: The run folder belongs to another training, or a package is missing.
        CheckpointError: What `init` names cannot be loaded, or the saved state is damaged.
        KeyboardInterrupt: The process was told to stop (Ctrl-C, or SIGTERM).
    """
    out = Path(settings.out)
    data, validation = open_data(settings.data, scenes_folder=out.parent / "scenes", seed=settings.seed)
    run = RunFolder(out, settings, init=init_folder(settings))
    folders = open_validation(settings)
    accelerator = _start_accelerator(settings)
    pipeline = open_init(settings)
    plans = _plans(settings, pipeline, data=data, validation=validation)
    if accelerator.is_main_process and on_note is not None:
        for note in _memory_notes(plans, settings, pipeline):
            on_note(note)
    with Interrupt() as interrupt:

        def start_stage(stage: Stage, plan: Plan) -> StageRun:
            if recomputes(settings, pipeline):
                stage.checkpoint_gradients()
            return StageRun(
                stage, plan, settings=settings, accelerator=accelerator, interrupt=interrupt, folders=folders
            )

        _run_stages(plans, pipeline, start_stage, run=run, on_progress=on_progress)
    if accelerator.is_main_process:
        _keep_of_init(pipeline, settings)
        run.save_finished(pipeline)
    accelerator.end_training()
    return run.checkpoint


def _start_accelerator(settings: TrainSettings) -> Accelerator:
    shared = DistributedDataParallelKwargs(gradient_as_bucket_view=True)  # not a second copy of the gradients
    accelerator = Accelerator(
        mixed_precision=MIXED[settings.precision],
        kwargs_handlers=[shared],
        log_with=_trackers(settings),
        project_dir=settings.out,
    )
    if settings.tracker != "none":
        accelerator.init_trackers("marigold-demo", config=asdict(settings))
    return accelerator


def _trackers(settings: TrainSettings) -> Any:
    """Return what accelerate hands the log to.

    Raises:
        SettingsError: Its package is not installed.
    """
    if settings.tracker == "none":
        return None
    if find_spec(settings.tracker) is None:
        raise SettingsError(
            f"tracker {settings.tracker} is not installed; pip install {settings.tracker}, or leave it out: "
            "log.csv has the same figures."
        )
    return settings.tracker


def _memory_notes(plans: Sequence[Plan], settings: TrainSettings, pipeline: DepthPipeline) -> Iterator[str]:
    for plan in plans:
        whole = (
            []
            if settings.pictures == "crops"
            else [getattr(s, "whole", None) for s in plan.training.data.sources]
        )
        shapes = [*plan.training.shapes, *filter(None, whole)]
        width, height = max(shapes, key=lambda shape: shape[0] * shape[1])
        count = count_memory(pipeline, plan.make_stage, settings, size=(width, height))
        yield count.as_text(f"{plan.name}, {settings.batch} x {width}x{height}")


def _plans(
    settings: TrainSettings, pipeline: DepthPipeline, *, data: Mixture, validation: Mixture
) -> list[Plan]:
    """Say which stages come in which order, each with its steps, rates and pictures."""
    vae_steps = settings.vae_steps if settings.init == "tiny" else 0
    tunes_encoder = settings.encoder_lr > 0 and pipeline.image_encoder is not None
    tunes_decoder = settings.decoder_lr > 0
    rates = [settings.peak_lr]
    rates += [settings.encoder_lr] * tunes_encoder + [settings.decoder_lr] * tunes_decoder

    def plan(
        number: int, make: StageMaker, name: str, steps: int, rates: Sequence[float], shrink: int = 1
    ) -> Plan:
        return Plan(
            name=name,
            make_stage=make,
            steps=steps,
            first=(0, vae_steps, vae_steps + settings.diffusion_steps)[number],
            rates=tuple(rates),
            training=_batch_plan(settings, data, seed=settings.seed + number, shrink=shrink),
            validation=_batch_plan(settings, validation, augment=False, shrink=shrink),
        )

    diffusion = partial(DiffusionStage, noise=settings.noise, masks_sky=settings.sky == "masked")
    end_to_end = partial(
        EndToEndStage, train_encoder=tunes_encoder, train_decoder=tunes_decoder, loss=settings.loss
    )
    plans = [
        plan(0, VaeStage, VaeStage.name, vae_steps, [VAE_LR], VAE_SHRINK),
        plan(1, diffusion, DiffusionStage.name, settings.diffusion_steps, rates[:1]),
        plan(2, end_to_end, EndToEndStage.name, settings.end_to_end_steps, rates),
    ]
    return [one for one in plans if one.steps]


def _batch_plan(
    settings: TrainSettings, data: Mixture, *, seed: int = 0, augment: bool = True, shrink: int = 1
) -> BatchPlan:
    shapes = tuple(
        (max(32, width // shrink // 8 * 8), max(32, height // shrink // 8 * 8))
        for width, height in settings.sizes
    )
    return BatchPlan(
        data=data,
        size=settings.batch,
        shapes=shapes,
        fresh=settings.fresh if augment else 1.0,
        seed=seed,
        augment=augment,
        pictures=settings.pictures,
    )


def _run_stages(
    plans: Sequence[Plan],
    pipeline: DepthPipeline,
    start_stage: Callable[[Stage, Plan], StageRun],
    *,
    run: RunFolder,
    on_progress: OnProgress,
) -> None:
    """Run the stages in order, the ones that a saved state says are done left out."""
    state = run.load_state()
    for plan in plans:
        if state is not None and state["stage"] != plan.name:
            continue  # done before the state was saved
        stage = plan.make_stage(pipeline)
        if state is not None:
            load_networks(pipeline, state["networks"])
        stage_run = start_stage(stage, plan)
        if state is not None:
            stage_run.restore(state)
            state = None
        stage_run.go(run, on_progress=on_progress)
        if isinstance(stage, VaeStage):
            stage.set_scale(make_batch(plan.validation, 0).to(stage_run.accelerator.device))


@torch.no_grad()
def _keep_of_init(pipeline: DepthPipeline, settings: TrainSettings) -> None:
    """Move the weights back towards those they started from (Wortsman et al. 2022, eq. (1)).

    What was learned of drawn scenes stays, and less is lost of what carries over to photos.
    """
    if not settings.keep_init:
        return
    for network, before in zip(pipeline.networks, open_init(settings).networks, strict=True):
        for weight, first in zip(network.parameters(), before.parameters(), strict=True):
            weight.lerp_(first.to(weight), settings.keep_init)
