"""Train a checkpoint: open the data, make the networks, run the stages, save."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from marigold_demo.errors import SettingsError
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.training import TrainSettings
from marigold_demo.training.batches import BatchPlan, make_batch
from marigold_demo.training.data import Mixture, open_data
from marigold_demo.training.memory import count_memory, recomputes
from marigold_demo.training.run_folder import RunFolder
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
