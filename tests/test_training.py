"""The losses, the noise, the stages and the loop of training, on toy networks and made-up pictures."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.tracking import GeneralTracker
from diffusers import AutoencoderKL, MarigoldDepthPipeline, PNDMScheduler, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from marigold_demo.errors import CheckpointError, DataError, SettingsError
from marigold_demo.evaluation import evaluate
from marigold_demo.io.photo import Photo
from marigold_demo.network.checkpoint_folder import read_pipeline
from marigold_demo.network.image_encoder import EfficientNetLite
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.network.plan import CheckpointDefaults
from marigold_demo.settings import DepthSettings
from marigold_demo.training import PROTOCOLS, TrainSettings, run_folder, start, train
from marigold_demo.training.batches import BatchPlan, make_batch
from marigold_demo.training.data import Mixture, open_pairs
from marigold_demo.training.stage_run import Average, StageRun, TrainProgress, learning_rate_share
from marigold_demo.training.stages import (
    DiffusionStage,
    EndToEndStage,
    affine_invariant_loss,
    affine_l1_loss,
    align,
    annealed_noise,
    masked_latent_loss,
    multi_resolution_noise,
    original_noise,
    sky_loss,
)
from marigold_demo.training.start import TinySize, make_tiny
from marigold_demo.training.train import GIB, count_memory
from tests import toys

SIZE = TinySize(unet_channels=(8, 16), vae_channels=8, prompt_channels=8, norm_groups=4, resolution=64)
DRAW_CURVES = run_folder.RunFolder.draw_curves
TOY_STAGES = ((1, 3, 1, 1, 8), (1, 3, 2, 2, 8), (1, 5, 2, 2, 8), (1, 3, 2, 2, 8), (1, 5, 2, 2, 8))
SETTINGS = TrainSettings(
    image_encoder="none",
    vae_steps=2,
    final_lr=0.01,
    diffusion_steps=4,
    end_to_end_steps=4,
    batch=2,
    accumulate=2,
    shapes="48x32,32x32",
    validate_every=2,
    validation_batches=1,
    warmup_steps=1,
    workers=1,
    ema=0.9,
)
ONE_STEP = replace(
    SETTINGS, vae_steps=1, diffusion_steps=1, end_to_end_steps=1, batch=1, accumulate=1, shapes="32x32"
)


@pytest.fixture(scope="module", autouse=True)
def _toys() -> Iterator[None]:
    """Train toys; curves, whose drawing takes longer than their training, are drawn by `whole` only."""
    torch.manual_seed(0)
    encoder = EfficientNetLite(stem_channels=8, stages=TOY_STAGES).eval()

    def make(*, image_encoder: Any, seed: int) -> DepthPipeline:
        return make_tiny(image_encoder=deepcopy(encoder) if image_encoder else None, seed=seed, size=SIZE)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "make_tiny", make)
        patch.setattr(start, "load_published_encoder", lambda variant: None if variant == "none" else encoder)
        patch.setattr(run_folder.RunFolder, "draw_curves", lambda self: None)
        yield


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of four photos of slopes and steps with their depth."""
    root = tmp_path_factory.mktemp("pairs")
    (root / "rgb").mkdir()
    (root / "depth").mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        rows, columns = np.mgrid[0:64, 0:80].astype(np.float32)
        depth = 2 + rows / 20 * rng.uniform(0.5, 1) + (columns > rng.uniform(20, 60)) * rng.uniform(1, 3)
        photo = np.stack([255 / depth, depth * 30, columns * 2], axis=2).clip(0, 255).astype(np.uint8)
        Image.fromarray(photo).save(root / "rgb" / f"{number}.png")
        np.savez(root / "depth" / f"{number}.npz", depth=depth.astype(np.float32), valid=depth < 6.5)
    return root


STABLE_DIFFUSION_2_UNET = {
    "in_channels": 8,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
STABLE_DIFFUSION_2_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
}


def weights(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    parts = [(file.relative_to(folder).parent, load_file(file)) for file in files]
    return {f"{part}.{name}": value for part, content in parts for name, value in content.items()}


@dataclass(frozen=True)
class Whole:
    """A run of all stages that nothing interrupted."""

    folder: Path
    settings: TrainSettings
    seen: list[TrainProgress]
    checkpoint: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    settings = replace(
        SETTINGS, data=f"pairs:{pairs}", image_encoder="lite0", encoder_lr=1e-3, out=str(folder)
    )
    seen: list[TrainProgress] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "draw_curves", DRAW_CURVES)
        checkpoint = train.train(replace(settings, checkpoint_every=2), seen.append)
    return Whole(folder, settings, seen, checkpoint)


def quiet(_: TrainProgress) -> None:
    """Watch nothing."""


class StopError(Exception):
    """Interrupts a training."""


def stop_after(stage: str, step: int, *, how: str = "error") -> Callable[[TrainProgress], None]:
    def watch(progress: TrainProgress) -> None:
        if (progress.stage, progress.step) == (stage, step):
            if how == "error":
                raise StopError
            os.kill(os.getpid(), signal.Signals[how])

    return watch


# --- noise and losses


def test_multi_resolution_noise_has_unit_variance_at_every_strength() -> None:
    generator = torch.Generator().manual_seed(0)
    like = torch.zeros(600, 4, 12, 9)
    for strength in (0.0, 0.5, 0.9):
        noise = multi_resolution_noise(like, strength=strength, generator=generator)
        assert noise.shape == like.shape
        assert noise.square().mean() == pytest.approx(1, abs=0.04)


def test_annealed_noise_is_white_at_the_start_and_smooth_at_the_end() -> None:
    generator = torch.Generator().manual_seed(0)
    t = torch.tensor([0, 999]).repeat_interleave(200)
    noise = annealed_noise(torch.zeros(400, 4, 16, 16), t, train_steps=1000, generator=generator)
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean(dim=(1, 2, 3))
    assert neighbours[:200].mean() == pytest.approx(0, abs=0.02)
    assert neighbours[200:].mean() > 0.3


def test_original_noise_has_the_spectrum_of_the_released_trainers() -> None:
    """Shares of the power and correlation of neighbors, each a mean over the latents of 60 x 80."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.cat([original_noise(torch.zeros(2, 4, 60, 80), generator=generator) for _ in range(150)])
    power = torch.fft.fft2(noise).abs().square()  # [B, C, h, w]
    rows, columns = torch.fft.fftfreq(60)[:, None], torch.fft.fftfreq(80)[None]
    whole, is_low = power.sum(dim=(-1, -2)), rows.square() + columns.square() < 1 / 16**2
    assert ((power * is_low).sum(dim=(-1, -2)) / whole).mean() == pytest.approx(0.24, abs=0.02)
    assert (power[..., 0, 0] / whole).mean() == pytest.approx(0.142, abs=0.015)
    neighbors = (noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean()
    assert neighbors == pytest.approx(0.34, abs=0.03)
    assert noise.std() == pytest.approx(1, abs=0.02)


def test_the_affine_loss_is_that_of_e2e_ft() -> None:
    """Depth cut to its quantiles, prediction to [-1, 1], least squares, mean over all pixels."""
    generator = torch.Generator().manual_seed(3)
    depth = torch.rand(2, 1, 12, 9, generator=generator).square() * 70 + 1
    valid = torch.rand(2, 1, 12, 9, generator=generator) > 0.4
    prediction = 1.5 * torch.randn(2, 1, 12, 9, generator=generator)
    errors = []
    for one in range(2):
        truth = depth[one][valid[one]].double().numpy()
        truth = np.clip(truth, *np.quantile(truth, (0.02, 0.98)))
        seen = np.clip(prediction[one][valid[one]].double().numpy(), -1, 1)
        scale, shift = np.polyfit(seen, truth, 1)
        errors.append(np.abs(scale * seen + shift - truth))
    loss = affine_l1_loss(prediction, depth, valid=valid)
    assert float(loss) == pytest.approx(np.concatenate(errors).mean(), rel=1e-4)
    assert affine_l1_loss(prediction, depth, valid=torch.zeros_like(valid)) == 0


def test_an_affine_copy_of_depth_costs_nothing_and_noise_does() -> None:
    generator = torch.Generator().manual_seed(0)
    depth = torch.rand(3, 1, 16, 20, generator=generator) * 9 + 1
    valid = torch.rand(3, 1, 16, 20, generator=generator) > 0.3
    copy = (depth * 0.03 - 5).masked_fill(~valid, 77.0)
    assert affine_invariant_loss(copy, depth, valid=valid) < 1e-3
    assert affine_invariant_loss(torch.randn(3, 1, 16, 20, generator=generator), depth, valid=valid) > 0.2


def test_the_alignment_is_the_least_squares_one() -> None:
    generator = torch.Generator().manual_seed(1)
    prediction, target = torch.randn(2, 1, 2, 9, 9, generator=generator).unbind(2)
    valid = torch.rand(2, 1, 9, 9, generator=generator) > 0.5
    fitted = align(prediction, target, valid=valid)
    for one in range(2):
        x, y = prediction[one][valid[one]].numpy(), target[one][valid[one]].numpy()
        scale, shift = np.polyfit(x.astype(np.float64), y.astype(np.float64), 1)
        assert np.allclose(fitted[one][valid[one]].numpy(), scale * x + shift, atol=1e-3)


def test_a_picture_without_valid_pixels_changes_no_loss() -> None:
    depth = torch.rand(2, 1, 8, 8) + 1
    valid = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    prediction = torch.rand(2, 1, 8, 8)
    one = affine_invariant_loss(prediction[:1], depth[:1], valid=valid[:1])
    valid[1] = False
    assert torch.allclose(affine_invariant_loss(prediction, depth, valid=valid), one)
    assert affine_invariant_loss(prediction, depth, valid=torch.zeros_like(valid)) == 0


def test_unknown_pixels_do_not_reach_the_latent_loss() -> None:
    valid = torch.ones(1, 1, 16, 24, dtype=torch.bool)
    valid[..., 3, 9] = False  # lies in the latent of row 0, column 1
    prediction, target = torch.zeros(1, 4, 2, 3), torch.zeros(1, 4, 2, 3)
    prediction[..., 0, 1] = 100
    assert masked_latent_loss(prediction, target, valid=valid) == 0
    prediction[..., 1, 2] = 2
    assert masked_latent_loss(prediction, target, valid=valid) == pytest.approx(4 / 5)


def test_sky_beyond_the_far_end_costs_nothing() -> None:
    sky = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert sky_loss(torch.full((1, 1, 4, 4), 1.5), sky=sky) == 0
    assert sky_loss(torch.full((1, 1, 4, 4), 0.5), sky=sky) == 0.5


def test_the_learning_rate_rises_then_falls_to_its_share() -> None:
    shares = [learning_rate_share(step, steps=100, warmup=10, final=0.01) for step in range(101)]
    assert max(shares) == max(shares[8:11])
    assert shares[0] == pytest.approx(0.1)
    assert shares[100] == pytest.approx(0.01)
    assert all(later < earlier for earlier, later in pairwise(shares[10:]))


def test_the_papers_rate_is_that_of_the_released_trainer() -> None:
    """Exponential from step 100 to 1 % at 25,000, then constant; theirs begins at 0, one step later."""
    paper = PROTOCOLS["paper"]
    facts = {"steps": paper.decay_steps, "warmup": paper.warmup_steps, "final": paper.final_lr}
    shares = [learning_rate_share(step, **facts) for step in (0, 49, 99, 100, 12_550, 25_000, 29_999)]
    assert shares == pytest.approx([0.01, 0.5, 1, 1, 0.1, 0.01, 0.01])


def test_sky_is_part_of_the_diffusion_loss_or_masked_out(pairs: Path) -> None:
    plan = BatchPlan(data=Mixture((open_pairs(pairs),), (1.0,)), size=1, shapes=((32, 32),), fresh=1, seed=0)
    batch = make_batch(plan, 0)
    nothing = replace(batch, sky=batch.valid | ~batch.valid, valid=batch.valid & ~batch.valid)
    pipeline = toys.make_pipeline()
    with torch.no_grad():
        assert DiffusionStage(pipeline)(nothing, 0) > 0
        assert DiffusionStage(pipeline, masks_sky=True)(nothing, 0) == 0
        original = DiffusionStage(pipeline, noise="original")(batch, 0)
        assert not torch.equal(original, DiffusionStage(pipeline)(batch, 0))


# --- where training starts


def test_a_doubled_input_gives_what_the_original_gives_on_a_repeated_latent() -> None:
    unet = toys.make_unet(in_channels=4)
    latent, t, prompt = torch.randn(1, 4, 8, 8), torch.tensor(500), torch.randn(1, 2, toys.PROMPT_WIDTH)
    with torch.no_grad():
        before = unet(latent, t, encoder_hidden_states=prompt).sample
        start.double_input(unet)
        after = unet(torch.cat([latent, latent], dim=1), t, encoder_hidden_states=prompt).sample
    assert unet.config.in_channels == 8
    assert torch.allclose(before, after, atol=1e-5)


def test_a_stable_diffusion_folder_becomes_a_checkpoint_that_diffusers_loads(
    tmp_path: Path, pairs: Path, toy_parts: Callable[..., dict[str, Any]]
) -> None:
    parts = toy_parts()
    parts["unet"] = toys.make_unet(in_channels=4)
    folder = tmp_path / "sd"
    for name in ("unet", "vae", "text_encoder", "tokenizer"):
        parts[name].save_pretrained(folder / name)
    settings = replace(ONE_STEP, init=str(tmp_path / "sd"), data=f"pairs:{pairs}", out=str(tmp_path / "run"))
    checkpoint = train.train(replace(settings, end_to_end_steps=0, lr=1e-3), quiet)
    loaded = MarigoldDepthPipeline.from_pretrained(checkpoint)
    assert loaded.unet.config.in_channels == 8
    assert loaded.default_denoising_steps == start.SD_STEPS
    trained = read_pipeline(checkpoint, name="run")
    assert trained.defaults.start == "noise"
    assert not torch.equal(trained.unet.conv_in.weight[:, :4], trained.unet.conv_in.weight[:, 4:])
    assert torch.allclose(trained.vae.decoder.conv_in.weight, parts["vae"].decoder.conv_in.weight, atol=1e-3)


@pytest.mark.parametrize("scheduler", ["leading", "trailing", "lcm", "epsilon", "tiny"])
def test_what_was_trained_end_to_end_is_what_the_saved_folder_predicts(
    tmp_path: Path, scheduler: str, toy_parts: Callable[..., dict[str, Any]]
) -> None:
    if scheduler == "tiny":
        pipeline = make_tiny(image_encoder=None, seed=0, size=SIZE)
    else:
        pipeline = toys.make_pipeline(scheduler="leading" if scheduler == "epsilon" else scheduler)
    if scheduler == "epsilon":
        config = pipeline.scheduler.config
        pipeline.scheduler = type(pipeline.scheduler).from_config(config, prediction_type="epsilon")
    stage = EndToEndStage(pipeline)
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    photo = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        trained = stage.predict(photo)[0, 0].clip(-1, 1).numpy()
    run_folder.save_checkpoint(pipeline, tmp_path / "checkpoint", init=tmp_path)
    saved = read_pipeline(tmp_path / "checkpoint", name="run")
    settings = DepthSettings(resolution=64, ensemble=1, outlines="network")
    predicted = 2 * saved(Photo(rgb=rgb, stem="photo"), settings).values - 1
    assert trained.std() > 1e-3
    assert np.abs(predicted - trained).mean() < 0.01 * trained.std()  # weights are rounded to float16
    if scheduler in ("lcm", "tiny"):
        return
    parts = toy_parts()  # a second opinion: diffusers, which goes by the saved scheduler alone
    judge = MarigoldDepthPipeline(
        unet=saved.unet,
        vae=saved.vae,
        scheduler=type(saved.scheduler).from_pretrained(tmp_path / "checkpoint" / "scheduler"),
        text_encoder=parts["text_encoder"],
        tokenizer=parts["tokenizer"],
        prediction_type="depth",
    )
    judge.set_progress_bar_config(disable=True)
    zeros = torch.zeros(1, 4, 6, 8)
    shown = judge(
        photo / 2 + 0.5, num_inference_steps=1, processing_resolution=64, latents=zeros, output_type="np"
    )
    assert np.corrcoef(shown.prediction[0, ..., 0].ravel(), trained.ravel())[0, 1] > 0.999


def test_a_share_of_the_weights_it_started_from_stays_in_the_result(
    tmp_path: Path, pairs: Path, toy_folder: Path
) -> None:
    settings = replace(
        ONE_STEP, init=str(toy_folder), data=f"pairs:{pairs}", diffusion_steps=0, lr=0.02, decoder_lr=0.02
    )

    def weights(folder: Path) -> Tensor:
        pipeline = read_pipeline(folder, name="x")
        assert folder == toy_folder or pipeline.defaults.start == "zeros"
        return torch.cat([w.detach().flatten() for net in pipeline.networks for w in net.parameters()])

    def trained(keep: float) -> Tensor:  # the second one goes on where the first one ended
        return weights(train.train(replace(settings, out=str(tmp_path), keep_init=keep), quiet))

    before, after = weights(toy_folder), trained(0.0)
    assert float((after - before).abs().max()) > 1e-2
    assert torch.allclose(trained(0.25), torch.lerp(after, before, 0.25), atol=2e-3)  # float16 on disk
    with pytest.raises(SettingsError, match="keep_init"):
        replace(SETTINGS, keep_init=0.5)


@pytest.mark.parametrize("by", ["folder", "folder around it", "hub name"])
@pytest.mark.parametrize("predicts", ["v_prediction", "epsilon", "sample"])
def test_stable_diffusion_starts_a_training_by_every_name_and_keeps_what_it_predicts(
    by: str,
    predicts: str,
    tmp_path: Path,
    toy_parts: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, name = tmp_path / "sd", str(tmp_path / "sd")
    if by == "folder around it":
        folder = tmp_path / "sd" / "stable-diffusion-2"
    if by == "hub name":
        name, cache = "toys/stable-diffusion-2", tmp_path / "models--toys--stable-diffusion-2"
        folder = cache / "snapshots" / ("a" * 40)
        (cache / "refs").mkdir(parents=True)
        (cache / "refs" / "main").write_text("a" * 40)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    parts = toy_parts() | {"unet": toys.make_unet(in_channels=4)}
    config = {**toys.BETAS, "prediction_type": predicts}
    parts["scheduler"] = PNDMScheduler(**{key: config[key] for key in config if key != "clip_sample"})
    for part, network in parts.items():
        network.save_pretrained(folder / part)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    settings = replace(ONE_STEP, init=name)
    if predicts == "sample":
        with pytest.raises(CheckpointError, match="predicts 'sample'"):
            start.open_init(settings)
        return
    scheduler = start.open_init(settings).scheduler
    assert scheduler.config.prediction_type == predicts
    assert (float(scheduler.alphas_cumprod[-1]) < 1e-6) == (predicts == "v_prediction")  # zero terminal SNR
    assert start.init_folder(settings) == folder


def test_a_marigold_that_predicts_samples_is_refused(tmp_path: Path, toy_folder: Path) -> None:
    shutil.copytree(toy_folder, tmp_path / "toy")
    path = tmp_path / "toy" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(CheckpointError, match="predicts 'sample'"):
        start.open_init(replace(SETTINGS, init=str(tmp_path / "toy")))


def test_what_is_no_stable_diffusion_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    toys.make_unet(in_channels=4).save_pretrained(folder / "unet")
    with pytest.raises(CheckpointError, match="Stable Diffusion"):
        start.open_init(replace(SETTINGS, init=str(folder)))


# --- the run


@pytest.mark.parametrize(
    ("stage", "step", "how"), [("vae", 2, "SIGTERM"), ("diffusion", 2, "error"), ("end_to_end", 2, "SIGINT")]
)
def test_an_interrupted_run_loses_no_step_and_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, whole: Whole, stage: str, step: int, how: str
) -> None:
    settings = replace(whole.settings, out=str(tmp_path))
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(StopError if how == "error" else KeyboardInterrupt):
        train.train(settings, stop_after(stage, step, how=how))
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (state["stage"], state["step"]) == (stage, step)
    got, wanted = weights(train.train(settings, quiet)), weights(whole.checkpoint)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[name], got[name]) for name in got)


def test_weights_that_are_half_moved_do_not_replace_the_last_whole_state(
    tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def update(self: Any, step: int) -> None:
        if step == 3:
            raise StopError

    monkeypatch.setattr(Average, "update", update)
    settings = replace(SETTINGS, data=f"pairs:{pairs}", out=str(tmp_path), vae_steps=0, save_every=1)
    with pytest.raises(StopError):
        train.train(settings, quiet)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 2


def test_a_run_that_goes_on_takes_a_new_rate_and_more_steps(tmp_path: Path, pairs: Path) -> None:
    settings = replace(ONE_STEP, data=f"pairs:{pairs}", out=str(tmp_path), vae_steps=0, end_to_end_steps=0)
    train.train(replace(settings, diffusion_steps=1, lr=1e-3), quiet)
    train.train(replace(settings, diffusion_steps=2, lr=1e-5, final_lr=1.0), quiet)
    last = (tmp_path / "log.csv").read_text().splitlines()[-1].split(",")
    assert last[:2] == ["diffusion", "2"]
    assert float(last[2]) == pytest.approx(1e-5)


def test_a_run_leaves_a_log_curves_and_a_checkpoint_in_half_precision(whole: Whole) -> None:
    lines = (whole.folder / "log.csv").read_text().splitlines()
    assert lines[0] == "stage,step,lr,loss,validation,abs_rel,delta1,seconds"
    steps = [("vae", 2), ("diffusion", 2), ("diffusion", 4), ("end_to_end", 2), ("end_to_end", 4)]
    assert [tuple(line.split(",")[:2]) for line in lines[1:]] == [(stage, str(step)) for stage, step in steps]
    assert all(np.isfinite(float(line.split(",")[4])) for line in lines[1:])
    with Image.open(whole.folder / "curves.png") as curves:
        assert min(curves.size) > 200
    assert json.loads((whole.checkpoint / "model_index.json").read_text())["start_latent"] == "zeros"
    kinds = {value.dtype for name, value in weights(whole.checkpoint).items() if "prompt" not in name}
    assert kinds == {torch.float16}
    assert [(p.stage, p.step) for p in whole.seen] == steps
    assert [p.steps for p in whole.seen] == [2, 4, 4, 4, 4]


def test_numbered_checkpoints_and_the_best_one_can_be_loaded(whole: Whole) -> None:
    found = sorted(path.name for path in (whole.folder / "checkpoints").iterdir())
    assert found == ["diffusion_000004", "end_to_end_000002", "end_to_end_000004"]  # the newest three
    for name in found:
        pipeline = read_pipeline(whole.folder / "checkpoints" / name, name=name)
        assert pipeline.defaults.start == ("zeros" if name.startswith("end") else "noise")
    last, finished = weights(whole.folder / "checkpoints" / found[-1]), weights(whole.checkpoint)
    assert all(torch.equal(last[name], finished[name]) for name in finished)
    rows = [line.split(",") for line in (whole.folder / "log.csv").read_text().splitlines()]
    checked = {int(row[1]): float(row[4]) for row in rows if row[0] == "end_to_end"}
    best = json.loads((whole.folder / "best.json").read_text())
    assert best["stage"] == "end_to_end"
    assert best["validation"] == pytest.approx(min(checked.values()), abs=1e-5)
    assert checked[best["step"]] == min(checked.values())
    kept = weights(whole.folder / "best")
    same = weights(whole.folder / "checkpoints" / f"end_to_end_{best['step']:06d}")
    assert all(torch.equal(kept[name], same[name]) for name in kept)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    """Return a folder of photos with measured depth, as evaluate takes them."""
    root = tmp_path_factory.mktemp("known")
    shutil.copytree(pairs, root, dirs_exist_ok=True)
    rows = [f"{number},rgb/{number}.png,depth/{number}.npz,source{number % 2}\n" for number in range(4)]
    (root / "manifest.csv").write_text("name,rgb,depth,source\n" + "".join(rows))
    return root


class Kept(GeneralTracker):
    """A tracker of accelerate's that keeps what it is told."""

    name = "kept"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.values: list[tuple[int, dict[str, float]]] = []

    @property
    def tracker(self) -> "Kept":
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.values.append((step or 0, values))


def test_validation_on_folders_gives_the_figures_of_evaluate_and_chooses_the_best(
    tmp_path: Path, pairs: Path, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept()
    monkeypatch.setattr(train, "_trackers", lambda settings: [kept])
    settings = replace(
        ONE_STEP, diffusion_steps=0, end_to_end_steps=2, validate_every=1, checkpoint_every=1, ema=0
    )
    settings = replace(settings, data=f"pairs:{pairs}", out=str(tmp_path), validate_on=str(known), lr=1e-2)
    train.train(replace(settings, tracker="tensorboard"), quiet)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert [row["stage"] for row in rows] == ["vae", "end_to_end", "end_to_end"]
    assert rows[0]["abs_rel"] == ""
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["validation"] == pytest.approx(min(float(row["abs_rel"]) for row in rows[1:]), abs=1e-5)
    for row in rows[1:]:  # the saved folder, scored by evaluate
        pipeline = read_pipeline(tmp_path / "checkpoints" / f"end_to_end_{int(row['step']):06d}", name="x")
        asked = DepthSettings(steps=1, ensemble=1, outlines="network")
        mean = evaluate.means(evaluate.score_all(pipeline, evaluate.find_samples(known), asked))[-1]
        assert float(row["abs_rel"]) == pytest.approx(mean.abs_rel, abs=2e-3)  # weights in float16
        assert float(row["delta1"]) == pytest.approx(mean.delta1, abs=2e-2)
    with Image.open(tmp_path / "validation" / "end_to_end_000002.jpg") as sheet:
        columns = np.asarray(sheet).reshape(4, 205, 3, 256, 3)  # photo, measured, predicted
    assert columns.std(axis=(1, 3)).min() > 1
    assert kept.config["validate_on"] == str(known)
    assert [step for step, _ in kept.values] == [1, 2, 3]  # of all stages
    assert kept.values[-1][1]["end_to_end/abs_rel"] == pytest.approx(float(rows[-1]["abs_rel"]), abs=1e-5)


def test_what_validation_and_tracker_lack_is_said(tmp_path: Path, pairs: Path) -> None:
    settings = replace(ONE_STEP, data=f"pairs:{pairs}", out=str(tmp_path))
    with pytest.raises(DataError, match="manifest"):
        train.train(replace(settings, validate_on=str(pairs)), quiet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "find_spec", lambda name: None)
        with pytest.raises(SettingsError, match="pip install wandb"):
            train.train(replace(settings, tracker="wandb"), quiet)
        with pytest.raises(SettingsError, match="bitsandbytes"):
            train.train(replace(settings, optimizer="adam8bit"), quiet)


@pytest.mark.parametrize("name", ["paper", "e2e"])
def test_a_protocol_trains_at_toy_width(name: str, tmp_path: Path, pairs: Path, toy_folder: Path) -> None:
    protocol = PROTOCOLS[name]
    steps = {field: min(getattr(protocol, field), 1) for field in ("diffusion_steps", "end_to_end_steps")}
    settings = replace(protocol, init=str(toy_folder), data=f"pairs:{pairs}", out=str(tmp_path), **steps)
    checkpoint = train.train(replace(settings, shapes="32x32", accumulate=1, workers=1, lr=1e-3), quiet)
    before, after = weights(toy_folder / "unet"), weights(checkpoint / "unet")
    assert any(not torch.equal(before[key].half(), after[key]) for key in after)
    start_latent = json.loads((checkpoint / "model_index.json").read_text())["start_latent"]
    assert start_latent == ("zeros" if name == "e2e" else "noise")


def test_the_log_holds_the_mean_over_all_processes() -> None:
    """The other process has seen three batches whose losses sum up to 18."""
    run = object.__new__(StageRun)
    run.accelerator = SimpleNamespace(
        num_processes=2, device="cpu", gather=lambda mine: torch.cat([mine, torch.tensor([[18.0, 3.0]])])
    )
    assert run._mean([1.0]) == (1 + 18) / 4
    run.accelerator = SimpleNamespace(num_processes=1)
    assert run._mean([1.0, 2.0]) == 1.5


def test_latents_of_depth_have_unit_variance_after_the_vae(whole: Whole, pairs: Path) -> None:
    pipeline = read_pipeline(whole.checkpoint, name="run")
    plan = BatchPlan(data=Mixture((open_pairs(pairs),), (1.0,)), size=4, shapes=((32, 32),), fresh=1, seed=0)
    with torch.no_grad():
        assert 0.5 < float(pipeline.encode_depth(make_batch(plan, 0).normal_depth).std()) < 2


def test_a_run_folder_of_another_training_is_refused(tmp_path: Path, pairs: Path) -> None:
    settings = replace(ONE_STEP, data=f"pairs:{pairs}", out=str(tmp_path), diffusion_steps=0)
    train.train(replace(settings, end_to_end_steps=0), quiet)
    with pytest.raises(SettingsError, match="seed"):
        train.train(replace(settings, seed=7), quiet)


def test_a_damaged_state_is_named(tmp_path: Path, pairs: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        train.train(replace(SETTINGS, data=f"pairs:{pairs}", out=str(tmp_path)), quiet)


@pytest.mark.parametrize("shapes", ["", "64", "64x", "65x64", "24x64", "64x64,hello"])
def test_shapes_that_cannot_be_used_are_refused(shapes: str) -> None:
    with pytest.raises(SettingsError, match="shape"):
        TrainSettings(shapes=shapes)


# --- memory


def test_gradient_checkpointing_gives_the_same_gradients_for_less_memory(pairs: Path) -> None:
    plan = BatchPlan(data=Mixture((open_pairs(pairs),), (1.0,)), size=1, shapes=((64, 64),), fresh=1, seed=0)
    batch = make_batch(plan, 0)
    counts, gradients = [], []
    for choice in ("off", "on"):
        pipeline = toys.make_pipeline()
        settings = replace(SETTINGS, gradient_checkpointing=choice, ema=0, batch=1)
        counts.append(count_memory(pipeline, EndToEndStage, settings, size=(256, 192)))
        stage = EndToEndStage(pipeline)
        if choice == "on":
            stage.checkpoint_gradients()
        stage(batch, 0).backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in pipeline.unet.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)
    assert counts[1].work < 0.75 * counts[0].work
    assert [getattr(counts[0], name) for name in ("networks", "optimizer", "average")] == [
        getattr(counts[1], name) for name in ("networks", "optimizer", "average")
    ]


def test_memory_of_weights_optimizer_and_average_is_counted_to_the_byte() -> None:
    pipeline = toys.make_pipeline()
    trained = 4 * sum(weight.numel() for weight in pipeline.unet.parameters())
    whole = trained + 4 * sum(weight.numel() for weight in pipeline.vae.parameters())
    for settings, moments, average in (
        (SETTINGS, 2 * trained, trained),
        (replace(SETTINGS, ema=0, optimizer="adam8bit"), trained // 2, 0),
    ):
        count = count_memory(pipeline, DiffusionStage, settings, size=(64, 64))
        assert (count.networks, count.optimizer, count.average) == (whole, moments, average)
        assert count.work > trained  # the gradients
    assert Average(list(pipeline.unet.parameters()), decay=0).values == []


@pytest.mark.slow
def test_the_papers_batch_fits_a_card_of_24_gb() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**STABLE_DIFFUSION_2_UNET)
        vae = AutoencoderKL(**STABLE_DIFFUSION_2_VAE)
    prompt = torch.zeros(1, 2, 1024)
    defaults = CheckpointDefaults(steps=4, resolution=768)
    pipeline = DepthPipeline(
        unet=unet, vae=vae, scheduler=start.make_scheduler(), empty_prompt=prompt, defaults=defaults
    )
    settings = replace(SETTINGS, ema=0, batch=2)
    for make_stage, most in ((DiffusionStage, 20), (EndToEndStage, 24)):
        count = count_memory(pipeline, make_stage, settings, size=(1216, 352))  # Virtual KITTI's, the largest
        assert 12 < count.total / GIB < most


@pytest.mark.slow
def test_some_steps_of_each_stage_lower_its_loss(
    tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder.RunFolder, "save_best", lambda self, pipeline, **which: None)
    steps = {"vae": 40, "diffusion": 15, "end_to_end": 30}
    settings = replace(SETTINGS, data=f"pairs:{pairs}", out=str(tmp_path), lr=2e-2, shapes="32x32", batch=4)
    settings = replace(settings, accumulate=1, validate_every=5, final_lr=0.1, validation_batches=2)
    train.train(replace(settings, **{f"{stage}_steps": count for stage, count in steps.items()}), quiet)
    rows = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()[1:]]
    for stage in steps:
        losses = [float(row[4]) for row in rows if row[0] == stage and row[4]]
        assert losses == sorted(losses, reverse=True)
        assert losses[-1] < 0.97 * losses[0]
