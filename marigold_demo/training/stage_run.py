"""The loop of one stage: optimizer, averaged weights, validation, log and saved states.

An interrupt loses no step that was done.
"""

import importlib
import math
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from marigold_demo.colormap import colorize
from marigold_demo.depth import Run
from marigold_demo.errors import DataError, SettingsError
from marigold_demo.evaluation.datasets import Sample
from marigold_demo.evaluation.evaluate import find_samples, fit_affine, means, score_all
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.settings import DepthSettings
from marigold_demo.training import TrainSettings
from marigold_demo.training.batches import Batch, BatchPlan, batches_from, make_batch
from marigold_demo.training.run_folder import FolderScore, LogRow, RunFolder
from marigold_demo.training.stages import Stage, VaeStage

BETA1 = 0.9


def make_optimizer(
    groups: list[dict[str, Any]], settings: TrainSettings, *, device: torch.device
) -> torch.optim.Optimizer:
    """Return the optimizer of the settings over groups of weights, fused where the device has that.

    Raises:
        SettingsError: It has 8 bits, and bitsandbytes is not installed or there is no CUDA.
    """
    betas, decay = (BETA1, settings.beta2), settings.weight_decay
    if settings.optimizer.endswith("8bit"):
        try:
            library = importlib.import_module("bitsandbytes")
        except ImportError as error:
            raise SettingsError(
                f"optimizer {settings.optimizer} needs bitsandbytes; pip install bitsandbytes, or take adam."
            ) from error
        if device.type != "cuda":
            raise SettingsError(f"optimizer {settings.optimizer} runs on CUDA only; take adam.")
        kind = library.optim.Adam8bit if settings.optimizer == "adam8bit" else library.optim.AdamW8bit
        optimizer: torch.optim.Optimizer = kind(groups, betas=betas, weight_decay=decay)
        return optimizer
    how = {"fused": True} if device.type == "cuda" else {"foreach": True}  # foreach copies all gradients
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=betas, weight_decay=decay, **how)
    return torch.optim.Adam(groups, betas=betas, weight_decay=decay, **how)


def learning_rate_share(step: int, *, steps: int, warmup: int, final: float) -> float:
    """Return the share of the largest learning rate: a linear rise, exponential decay, then constant.

    Args:
        step: Steps done before.
        steps: After so many the share is `final`.
        warmup: Steps of the rise.
        final: The share at the end.
    """
    warmup = min(warmup, steps)
    if step < warmup:
        return (step + 1) / warmup
    return math.exp(math.log(final) * min(1.0, (step - warmup) / max(1, steps - warmup)))


class Average:
    """Averaged copies of weights; young averages forget faster, so that the start does not linger.

    With a decay of 0 there is no average: nothing is copied, and the weights themselves are shown.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, decay: float) -> None:
        self.decay = decay
        self.parameters = list(parameters) if decay else []
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after step 1, 2, ..."""
        if not self.values:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Put the average in the place of the weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            weight = parameter.clone()  # one at a time, for the memory
            parameter.copy_(value)
            value.copy_(weight)

    @torch.no_grad()
    def write_back(self) -> None:
        """Leave the average in the place of the weights."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.copy_(value)


SHOWN, SHOWN_PX = 6, 256  # pictures on a sheet, and their width


class FolderValidation:
    """Photos with known depth that networks are tried on while they train: one step, one member."""

    def __init__(self, samples: tuple[Sample, ...], settings: TrainSettings) -> None:
        """Take samples, whose depth must be known up to scale and shift at least."""
        self.samples = tuple(sample for sample in samples if not sample.ordinal)
        whole = settings.pictures != "crops"  # such networks see photos at their own size, as in the papers
        self.settings = DepthSettings(
            steps=1, ensemble=1, outlines="network", seed=settings.seed, resolution=0 if whole else None
        )

    def score(self, pipeline: DepthPipeline, accelerator: Accelerator) -> FolderScore:
        """Predict and score all photos, which the processes share; each calls it at the same time."""
        mine = self.samples[accelerator.process_index :: accelerator.num_processes]
        scores = list(score_all(pipeline, mine, self.settings))
        if accelerator.num_processes > 1:
            scores = gather_object(scores)
        last = means(scores)[-1]
        if last.abs_rel is None or last.delta1 is None:
            raise DataError("The photos of validate_on have no measured depth; name other folders.")
        return FolderScore(abs_rel=last.abs_rel, delta1=last.delta1)

    def sheet(self, pipeline: DepthPipeline) -> Image.Image:
        """Draw photo, measured and predicted depth of some photos, a row for each."""
        step = max(1, len(self.samples) // SHOWN)
        rows = [self._row(pipeline, sample) for sample in self.samples[::step][:SHOWN]]
        sheet = Image.new("RGB", (3 * SHOWN_PX, sum(row.height for row in rows)))
        top = 0
        for row in rows:
            sheet.paste(row, (0, top))
            top += row.height
        return sheet

    def _row(self, pipeline: DepthPipeline, sample: Sample) -> Image.Image:
        pair = sample.read()
        predicted = pipeline(pair.photo, self.settings, Run()).values  # [H, W]
        fitted = fit_affine(predicted, pair.depth, mask=pair.valid)(predicted)
        near, far = np.quantile(pair.depth[pair.valid], (0.02, 0.98))

        def colored(depth: NDArray[np.float32]) -> NDArray[np.uint8]:
            return colorize(np.clip((depth - near) / max(far - near, 1e-6), 0, 1).astype(np.float32))

        known = np.where(pair.valid[..., None], colored(pair.depth), 0).astype(np.uint8)
        cells = (pair.photo.rgb, known, colored(fitted))
        height = round(SHOWN_PX * pair.depth.shape[0] / pair.depth.shape[1])
        row = Image.new("RGB", (3 * SHOWN_PX, height))
        for place, cell in enumerate(cells):
            row.paste(Image.fromarray(cell).resize((SHOWN_PX, height)), (place * SHOWN_PX, 0))
        return row


def open_validation(settings: TrainSettings) -> FolderValidation | None:
    """Open what TrainSettings.validate_on names; None where it names nothing.

    Raises:
        DataError: A folder holds nothing to evaluate on, or no measured depth.
    """
    folders = [Path(part.strip()) for part in settings.validate_on.split(",") if part.strip()]
    if not folders:
        return None
    samples: Iterable[Sample] = [sample for folder in folders for sample in find_samples(folder)]
    found = FolderValidation(tuple(samples), settings)
    if not found.samples:
        raise DataError(f"{settings.validate_on} has no photo with measured depth; name other folders.")
    return found


LOG_EVERY = 10


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


StageMaker = Callable[[DepthPipeline], Stage]
OnProgress = Callable[[TrainProgress], None]


@dataclass(frozen=True)
class Plan:
    """What one stage does.

    Attributes:
        name: Of the stage.
        make_stage: Makes it of a pipeline.
        steps: Optimizer steps.
        first: Steps of the stages before it.
        rates: Largest learning rate of each trained network.
        training: Pictures to learn from.
        validation: Pictures held out.
    """

    name: str
    make_stage: StageMaker
    steps: int
    first: int
    rates: tuple[float, ...]
    training: BatchPlan
    validation: BatchPlan


class Interrupt:
    """Ctrl-C, or the end of a job, as a wish that is looked at between batches; the second one stops at once.

    Used as a context manager; outside the main thread, where no signal can be caught, nothing is.
    """

    def __init__(self) -> None:
        self.wished = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._wish) for one in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)
        self._before = {}

    def _wish(self, number: int, frame: FrameType | None) -> None:
        self.wished = True
        self.__exit__()


class StageRun:
    """One stage under way: networks, optimizer and average, which are saved and restored together."""

    def __init__(
        self,
        stage: Stage,
        plan: Plan,
        *,
        settings: TrainSettings,
        accelerator: Accelerator,
        interrupt: Interrupt | None = None,
        folders: FolderValidation | None = None,
    ) -> None:
        self.stage, self.plan, self.settings, self.accelerator = stage, plan, settings, accelerator
        self.interrupt = interrupt or Interrupt()
        self.folders = None if isinstance(stage, VaeStage) else folders
        stage.pipeline.empty_prompt = stage.pipeline.empty_prompt.to(accelerator.device)
        stage.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parameters = [p for network in stage.trained for p in network.parameters()]
        groups = [
            {"params": list(network.parameters()), "lr": rate, "peak": rate}
            for network, rate in zip(stage.trained, plan.rates, strict=True)
        ]
        optimizer = make_optimizer(groups, settings, device=accelerator.device)
        self.module, self.optimizer = accelerator.prepare(stage, optimizer)
        self.average = Average(self.parameters, decay=settings.ema)
        self.step = 0
        self.seconds = 0.0
        self.losses: list[float] = []
        self.best: float | None = None  # AbsRel on folders, or else validation
        self._saved_step, self._is_moving = 0, False

    def state(self) -> dict[str, Any]:
        """Return all that has to be kept to go on exactly here; all random numbers follow from the step."""
        return {
            "stage": self.stage.name,
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "best": self.best,
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
        self.best, self._saved_step = state.get("best"), self.step

    def go(self, run: RunFolder, *, on_progress: OnProgress) -> None:
        """Train to the last step, then leave the averaged weights in the networks.

        Raises:
            KeyboardInterrupt: `interrupt` was wished; like any other error after the state was saved.
        """
        started, seconds_before, first = time.monotonic(), self.seconds, self.step
        with closing(self._batches()) as batches, self._saved_on_failure(run):
            while self.step < self.plan.steps:
                self.losses.append(self._move(batches))
                spent = time.monotonic() - started
                self.seconds = seconds_before + spent
                left = spent / (self.step - first) * (self.plan.steps - self.step)
                self._tell(run, on_progress, seconds_left=left)
        self.average.write_back()

    @contextmanager
    def _saved_on_failure(self, run: RunFolder) -> Iterator[None]:
        """Save the last whole step when training is broken off, unless the weights were just being moved."""
        try:
            yield
        except BaseException:
            if self.step > self._saved_step and not self._is_moving:
                self._save(run)
            raise

    def _save(self, run: RunFolder) -> None:
        if self.accelerator.is_main_process:
            run.save_state(self.state())
        self._saved_step = self.step

    def _check_interrupt(self, *, all_processes: bool) -> None:
        """Stop here where that is wished; several processes stop at the same step."""
        wished = self.interrupt.wished
        if self.accelerator.num_processes > 1:
            if not all_processes:
                return
            wish = torch.tensor([float(wished)], device=self.accelerator.device)
            wished = bool(self.accelerator.gather(wish).sum() > 0)
        if wished:
            raise KeyboardInterrupt

    def _batches(self) -> Generator[Batch, None, None]:
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        numbers = count(self.step * self.settings.accumulate * world + rank, world)
        return batches_from(self.plan.training, numbers, workers=self.settings.workers)

    def _move(self, batches: Iterator[Batch]) -> float:
        """Move the weights once; return the mean loss of its batches."""
        settings, total = self.settings, 0.0
        self._set_rates()
        for micro in range(settings.accumulate):
            self._check_interrupt(all_processes=micro == 0)
            is_last = micro == settings.accumulate - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.module):
                loss: Tensor = self.module(next(batches).to(self.accelerator.device), self._noise_seed(micro))
                self.accelerator.backward(loss / settings.accumulate)
            total += float(loss.detach())
        if settings.largest_gradient:
            self.accelerator.clip_grad_norm_(self.parameters, settings.largest_gradient)
        self._is_moving = True
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.average.update(self.step)
        self._is_moving = False
        return total / settings.accumulate

    def _set_rates(self) -> None:
        warmup, final = self.settings.warmup_steps, self.settings.final_lr
        steps = self.settings.decay_steps or self.plan.steps
        share = learning_rate_share(self.step, steps=steps, warmup=warmup, final=final)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share

    def _noise_seed(self, micro: int) -> int:
        world, rank = int(self.accelerator.num_processes), int(self.accelerator.process_index)
        return self.settings.seed + (self.step * self.settings.accumulate + micro) * world + rank

    def _tell(self, run: RunFolder, on_progress: OnProgress, *, seconds_left: float) -> None:
        """Report, validate and save where it is time for it."""
        settings, is_last = self.settings, self.step == self.plan.steps
        is_check = is_last or self.step % settings.validate_every == 0
        loss = None
        if is_check or self.step % LOG_EVERY == 0:
            loss = self._mean(self.losses)
            validation, score = self._check(run) if is_check else (None, None)
            self._log(run, loss, validation=validation, score=score)
            self.losses.clear()
        if self.step % settings.checkpoint_every == 0:
            with self.average.shown():
                self._write(run.save_numbered)
        if is_last or self.step % settings.save_every == 0:
            self._save(run)
            self.accelerator.wait_for_everyone()
        if loss is not None:
            name, steps = self.stage.name, self.plan.steps
            on_progress(TrainProgress(name, self.step, steps, loss=loss, seconds_left=seconds_left))

    def _check(self, run: RunFolder) -> tuple[float, FolderScore | None]:
        """Validate the averaged weights, and keep them where they are the best so far."""
        score = None
        with self.average.shown():
            found = validation = self.validate()
            if self.folders is not None:
                self.stage.eval()
                score = self.folders.score(self.stage.pipeline, self.accelerator)
                found = score.abs_rel
                if self.accelerator.is_main_process:
                    sheet = self.folders.sheet(self.stage.pipeline)
                    run.save_sheet(sheet, stage=self.stage.name, step=self.step)
                self.stage.train()
            if self.best is None or found < self.best:
                self.best = found
                self._write(partial(run.save_best, validation=found))
        return validation, score

    def _write(self, save: Callable[..., None]) -> None:
        """Write a checkpoint of a stage whose networks predict depth."""
        if self.accelerator.is_main_process and not isinstance(self.stage, VaeStage):
            save(self.stage.pipeline, stage=self.stage.name, step=self.step)

    def _log(
        self, run: RunFolder, loss: float, *, validation: float | None, score: FolderScore | None
    ) -> None:
        name, lr = self.stage.name, float(self.optimizer.param_groups[0]["lr"])
        if self.accelerator.is_main_process:
            run.log(LogRow(name, self.step, lr, loss, validation, self.seconds, score))
            if validation is not None:
                run.draw_curves()
        values: dict[str, float] = {"loss": loss, "lr": lr}
        if validation is not None:
            values["validation"] = validation
        if score is not None:
            values |= {"abs_rel": score.abs_rel, "delta1": score.delta1}
        tracked = {f"{name}/{key}": value for key, value in values.items()}
        self.accelerator.log(tracked, step=self.plan.first + self.step)

    @torch.no_grad()
    def validate(self) -> float:
        """Return the mean loss of the held-out batches, which the processes share."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.stage.eval()
        losses = [
            float(self.stage(make_batch(self.plan.validation, n).to(self.accelerator.device), n))
            for n in range(rank, self.settings.validation_batches, world)
        ]
        self.stage.train()
        return self._mean(losses)

    def _mean(self, values: list[float]) -> float:
        """Return the mean over the values of all processes; each calls it at the same time."""
        sums = torch.tensor([[sum(values), float(len(values))]], dtype=torch.float64)
        if self.accelerator.num_processes > 1:
            sums = self.accelerator.gather(sums.to(self.accelerator.device, torch.float32)).double()
        total, number = sums.sum(dim=0).tolist()
        return float(total / number)
