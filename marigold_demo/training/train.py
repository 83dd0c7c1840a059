"""Train a checkpoint: open the data, make the networks, run the stages, save. Knows nothing of flags."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from marigold_demo.network.checkpoint_folder import save_pipeline
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.training.batches import Recipe, make_batch
from marigold_demo.training.data import Mixture, open_data
from marigold_demo.training.init import open_init
from marigold_demo.training.loop import OnProgress, Plan, StageRun
from marigold_demo.training.run_folder import RunFolder
from marigold_demo.training.stages import DiffusionStage, EndToEndStage, Stage, VaeStage, load_networks
from marigold_demo.training.train_settings import TrainSettings

VAE_LR = 2e-3
VAE_SHRINK = 2  # a VAE sees only what is near, so small pictures teach it as much
MIXED = {"float32": "no", "bf16": "bf16", "fp16": "fp16"}


def train(settings: TrainSettings, on_progress: OnProgress) -> Path:
    """Train, or go on with a run that was interrupted, and save the checkpoint.

    Args:
        settings: What to train on what.
        on_progress: Told every few steps how far it has come; an exception from it stops the training.

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
        end_to_end = settings.end_to_end_steps > 0
        save_checkpoint(pipeline, run.checkpoint, end_to_end=end_to_end, init=Path(settings.init))
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
                training=_recipe(settings, data, seed=settings.seed + number, shrink=shrink),
                validation=_recipe(settings, validation, augment=False, shrink=shrink),
            ),
        )
        for number, (make, steps, rates, shrink) in enumerate(stages)
        if steps
    ]


def _recipe(
    settings: TrainSettings, data: Mixture, *, seed: int = 0, augment: bool = True, shrink: int = 1
) -> Recipe:
    shapes = tuple(
        (max(32, width // shrink // 8 * 8), max(32, height // shrink // 8 * 8))
        for width, height in settings.sizes
    )
    fresh = settings.fresh if augment else 1.0
    return Recipe(data=data, size=settings.batch, shapes=shapes, fresh=fresh, seed=seed, augment=augment)


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


def save_checkpoint(pipeline: DepthPipeline, folder: Path, *, end_to_end: bool, init: Path) -> None:
    """Write a checkpoint folder in float16, told to start from zeros in one step where it was trained so.

    The text encoder of `init`, where it has one, comes along, so that diffusers' pipeline loads the folder.
    It replaces a folder of that name at the very end.
    """
    halved = copy.deepcopy(pipeline)
    for network in (halved.unet, halved.vae, halved.image_encoder):
        if network is not None:
            nn.Module.to(network, "cpu", torch.float16)  # diffusers' own `to` warns of what does not apply
    if end_to_end:
        halved.defaults = replace(pipeline.defaults, steps=1, start="zeros")
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    save_pipeline(halved, fresh)
    _add_text_encoder(fresh, init=init)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _add_text_encoder(folder: Path, *, init: Path) -> None:
    parts = {"text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer"}
    if not all((init / part).is_dir() for part in parts):
        return
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    for part, kind in parts.items():
        shutil.copytree(init / part, folder / part)
        index[part] = ["transformers", kind]
    path.write_text(json.dumps(index, indent=2) + "\n")
