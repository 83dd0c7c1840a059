"""Train a checkpoint: open the data, make the networks, run the stages, save."""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.training import TrainSettings
from marigold_demo.training.batches import Batch, BatchPlan, batches_from, make_batch
from marigold_demo.training.data import Mixture, open_data
from marigold_demo.training.stages import DiffusionStage, EndToEndStage, Stage, VaeStage, load_networks
from marigold_demo.training.start import LogRow, RunFolder, open_init, save_checkpoint

LARGEST_GRADIENT = 1.0
LOG_EVERY = 10
VAE_LR = 2e-3
VAE_SHRINK = 2  # a VAE sees only what is near, so small pictures teach it as much
MIXED = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


class Average:
    """Averaged copies of weights; young averages forget faster, so that the start does not linger."""

    def __init__(self, parameters: Sequence[nn.Parameter], *, decay: float) -> None:
        self.decay = decay
        self.parameters = list(parameters)
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after step 1, 2, ..."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Put the average in the place of the weights for a while."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
        self._write(self.values)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def write_back(self) -> None:
        """Leave the average in the place of the weights."""
        self._write(self.values)


@dataclass(frozen=True)
class TrainProgress:
    """One moment of a training.

    Attributes:
        stage: Its name.
        step: Steps done.
        steps: Steps in all.
        loss: Mean loss since the last moment.
        seconds_left: For this stage; None while unknown.
    """

    stage: str
    step: int
    steps: int
    loss: float
    seconds_left: float | None


OnProgress = Callable[[TrainProgress], None]


@dataclass(frozen=True)
class Plan:
    """What one stage does.

    Attributes:
        steps: Optimizer steps.
        rates: Largest learning rate of each trained network.
        training: Pictures to learn from.
        validation: Pictures held out.
    """

    steps: int
    rates: tuple[float, ...]
    training: BatchPlan
    validation: BatchPlan


def learning_rate_share(step: int, *, steps: int, warmup: int, final: float) -> float:
    """Return the share of the largest learning rate at a step: linear rise times exponential decay."""
    rise = min(1.0, (step + 1) / max(1, min(warmup, steps)))
    return rise * math.exp(math.log(final) * min(1.0, step / max(1, steps)))


class StageRun:
    """One stage under way: networks, optimizer and average, which are saved and restored together."""

    def __init__(
        self, stage: Stage, plan: Plan, *, settings: TrainSettings, accelerator: Accelerator
    ) -> None:
        self.stage, self.plan, self.settings, self.accelerator = stage, plan, settings, accelerator
        stage.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [p for network in stage.trained for p in network.parameters()]
        groups = [
            {"params": list(network.parameters()), "lr": rate, "peak": rate}
            for network, rate in zip(stage.trained, plan.rates, strict=True)
        ]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), foreach=True)
        self.module, self.optimizer = accelerator.prepare(stage, optimizer)
        self.average = Average(self.parameters, decay=settings.ema)
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []

    def state(self) -> dict[str, Any]:
        """Return all that has to be kept to go on exactly here; all random numbers follow from the step."""
        return {
            "stage": self.stage.name,
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "networks": self.stage.networks_state(),
            "average": self.average.values,
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state of this stage, whose networks are in place already."""
        with torch.no_grad():
            for mine, value in zip(self.average.values, state["average"], strict=True):
                mine.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        for group, peak in zip(self.optimizer.param_groups, self.plan.rates, strict=True):
            group["peak"] = peak  # the rate of now, not of when the state was saved
        self.step, self.seconds, self.losses = (
            int(state["step"]),
            float(state["seconds"]),
            list(state["losses"]),
        )

    def go(self, run: RunFolder, *, on_progress: OnProgress) -> None:
        """Train to the last step, then leave the averaged weights in the networks."""
        started, seconds_before, first = time.monotonic(), self.seconds, self.step
        with closing(self._batches()) as batches:
            while self.step < self.plan.steps:
                self.losses.append(self._move(batches))
                spent = time.monotonic() - started
                self.seconds = seconds_before + spent
                left = spent / (self.step - first) * (self.plan.steps - self.step)
                self._tell(run, on_progress, seconds_left=left)
        if self.settings.ema:
            self.average.write_back()

    def _batches(self) -> Generator[Batch, None, None]:
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        numbers = count(self.step * self.settings.accumulate * world + rank, world)
        return batches_from(self.plan.training, numbers, workers=self.settings.workers)

    def _move(self, batches: Iterator[Batch]) -> float:
        """Move the weights once; return the mean loss of its batches."""
        settings, total = self.settings, 0.0
        self._set_rates()
        for micro in range(settings.accumulate):
            is_last = micro == settings.accumulate - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.module):
                loss: Tensor = self.module(next(batches).to(self.accelerator.device), self._noise_seed(micro))
                self.accelerator.backward(loss / settings.accumulate)
            total += float(loss.detach())
        self.accelerator.clip_grad_norm_(self.parameters, LARGEST_GRADIENT)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.average.update(self.step)
        return total / settings.accumulate

    def _set_rates(self) -> None:
        warmup, final = self.settings.warmup_steps, self.settings.final_lr
        share = learning_rate_share(self.step, steps=self.plan.steps, warmup=warmup, final=final)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share

    def _noise_seed(self, micro: int) -> int:
        world, rank = int(self.accelerator.num_processes), int(self.accelerator.process_index)
        return self.settings.seed + (self.step * self.settings.accumulate + micro) * world + rank

    def _tell(self, run: RunFolder, on_progress: OnProgress, *, seconds_left: float) -> None:
        """Report, validate and save where it is time for it."""
        settings, is_last = self.settings, self.step == self.plan.steps
        is_check = is_last or self.step % settings.validate_every == 0
        if is_check or self.step % LOG_EVERY == 0:
            loss = sum(self.losses) / len(self.losses)
            self._log(run, loss, validation=self.validate() if is_check else None)
            on_progress(
                TrainProgress(
                    self.stage.name, self.step, self.plan.steps, loss=loss, seconds_left=seconds_left
                )
            )
            self.losses.clear()
        if is_last or self.step % settings.save_every == 0:
            if self.accelerator.is_main_process:
                run.save_state(self.state())
            self.accelerator.wait_for_everyone()

    def _log(self, run: RunFolder, loss: float, *, validation: float | None) -> None:
        if self.accelerator.is_main_process:
            lr = float(self.optimizer.param_groups[0]["lr"])
            run.log(
                LogRow(self.stage.name, self.step, lr, loss=loss, validation=validation, seconds=self.seconds)
            )
            if validation is not None:
                run.draw_curves()

    @torch.no_grad()
    def validate(self) -> float:
        """Return the mean loss of the held-out batches under the averaged weights."""
        batches = self.settings.validation_batches
        self.module.eval()
        with self.average.shown() if self.settings.ema else nullcontext():
            losses = [
                float(self.module(make_batch(self.plan.validation, n).to(self.accelerator.device), n))
                for n in range(batches)
            ]
        self.module.train()
        return sum(losses) / batches


def train(settings: TrainSettings, on_progress: OnProgress) -> Path:
    """Train, or go on with a run that was interrupted, and save the checkpoint.

    Args:
        settings: What to train on what.
        on_progress: Called every few steps how far it has come; an exception from it stops the training.

    Returns:
        The checkpoint folder.

    Raises:
        DataError: A data folder is not laid out as expected.
        SettingsError: The run folder belongs to another training, or a package is missing.
        CheckpointError: What `init` names cannot be loaded, or the saved state is damaged.
    """
    out = Path(settings.out)
    data, validation = open_data(settings.data, scenes_folder=out.parent / "scenes", seed=settings.seed)
    run = RunFolder(out, settings)
    accelerator = Accelerator(mixed_precision=MIXED[settings.precision])
    pipeline = open_init(settings)
    plans = _plans(settings, pipeline, data=data, validation=validation)
    _run_stages(plans, settings=settings, run=run, accelerator=accelerator, on_progress=on_progress)
    if accelerator.is_main_process:
        _keep_of_init(pipeline, settings)
        save_checkpoint(pipeline, run.checkpoint, init=Path(settings.init))
    return run.checkpoint


def _plans(
    settings: TrainSettings, pipeline: DepthPipeline, *, data: Mixture, validation: Mixture
) -> list[tuple[Callable[[], Stage], Plan]]:
    """Say which stages come in which order, each with its steps, rates and pictures."""
    rate = settings.peak_lr
    tune_encoder = settings.encoder_lr > 0 and pipeline.image_encoder is not None
    tune_decoder = settings.decoder_lr > 0

    def end_to_end() -> Stage:
        return EndToEndStage(pipeline, train_encoder=tune_encoder, train_decoder=tune_decoder)

    rates = [rate] + [settings.encoder_lr] * tune_encoder + [settings.decoder_lr] * tune_decoder
    stages: list[tuple[Callable[[], Stage], int, tuple[float, ...], int]] = [
        (
            lambda: VaeStage(pipeline),
            settings.vae_steps if settings.init == "tiny" else 0,
            (VAE_LR,),
            VAE_SHRINK,
        ),
        (lambda: DiffusionStage(pipeline), settings.diffusion_steps, (rate,), 1),
        (end_to_end, settings.end_to_end_steps, tuple(rates), 1),
    ]
    return [
        (
            make,
            Plan(
                steps=steps,
                rates=rates,
                training=_batch_plan(settings, data, seed=settings.seed + number, shrink=shrink),
                validation=_batch_plan(settings, validation, augment=False, shrink=shrink),
            ),
        )
        for number, (make, steps, rates, shrink) in enumerate(stages)
        if steps
    ]


def _batch_plan(
    settings: TrainSettings, data: Mixture, *, seed: int = 0, augment: bool = True, shrink: int = 1
) -> BatchPlan:
    shapes = tuple(
        (max(32, width // shrink // 8 * 8), max(32, height // shrink // 8 * 8))
        for width, height in settings.sizes
    )
    fresh = settings.fresh if augment else 1.0
    return BatchPlan(data=data, size=settings.batch, shapes=shapes, fresh=fresh, seed=seed, augment=augment)


def _run_stages(
    plans: list[tuple[Callable[[], Stage], Plan]],
    *,
    settings: TrainSettings,
    run: RunFolder,
    accelerator: Accelerator,
    on_progress: OnProgress,
) -> None:
    """Run the stages in order, the ones that a saved state says are done left out."""
    state = run.load_state()
    for make_stage, plan in plans:
        stage = make_stage()
        if state is not None and state["stage"] != stage.name:
            continue  # done before the state was saved
        if state is not None:
            load_networks(stage.pipeline, state["networks"])
        stage_run = StageRun(stage, plan, settings=settings, accelerator=accelerator)
        if state is not None:
            stage_run.restore(state)
            state = None
        stage_run.go(run, on_progress=on_progress)
        if isinstance(stage, VaeStage):
            stage.set_scale(make_batch(plan.validation, 0).to(accelerator.device))


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
