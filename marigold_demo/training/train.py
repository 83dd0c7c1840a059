"""Train a checkpoint: open the data, make the networks, run the stages, save."""

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.training import TrainSettings
from marigold_demo.training.batches import BatchPlan, make_batch
from marigold_demo.training.data import Mixture, open_data
from marigold_demo.training.run_folder import RunFolder
from marigold_demo.training.stage_run import Interrupt, OnProgress, Plan, StageRun
from marigold_demo.training.stages import DiffusionStage, EndToEndStage, Stage, VaeStage, load_networks
from marigold_demo.training.start import open_init

VAE_LR = 2e-3
VAE_SHRINK = 2  # a VAE sees only what is near, so small pictures teach it as much
MIXED = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


def train(settings: TrainSettings, on_progress: OnProgress) -> Path:
    """Train, or go on with a run that was interrupted, and save the checkpoint.

    An interrupt or an error saves the last whole step first.

    Args:
        settings: What to train on what.
        on_progress: Called every few steps how far it has come; an exception from it stops the training.

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
    run = RunFolder(out, settings)
    accelerator = Accelerator(mixed_precision=MIXED[settings.precision])
    pipeline = open_init(settings)
    plans = _plans(settings, pipeline, data=data, validation=validation)
    with Interrupt() as interrupt:

        def start_stage(stage: Stage, plan: Plan) -> StageRun:
            return StageRun(stage, plan, settings=settings, accelerator=accelerator, interrupt=interrupt)

        _run_stages(plans, start_stage, run=run, on_progress=on_progress)
    if accelerator.is_main_process:
        _keep_of_init(pipeline, settings)
        run.save_finished(pipeline)
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
    start_stage: Callable[[Stage, Plan], StageRun],
    *,
    run: RunFolder,
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
