"""Draft quality: the tiny VAE of the same latent space in place of the checkpoint's own."""

import json

import numpy as np
import pytest
import torch
from diffusers import MarigoldDepthPipeline

from marigold_demo.depth import Run
from marigold_demo.errors import CheckpointError, SettingsError
from marigold_demo.network import checkpoint
from marigold_demo.network.checkpoint import load_pipeline, predict
from marigold_demo.network.checkpoint_folder import (
    TAESD,
    TAESD_FILES,
    TINY_VAE_FOLDER,
    save_pipeline,
    with_tiny_vae,
)
from marigold_demo.settings import DepthSettings
from tests import toys
from tests.conftest import make_photo
from tests.loopback_hub import serving

PHOTO = make_photo(37, 53)


@pytest.fixture(autouse=True)
def nothing_loaded():
    checkpoint.unload()


@pytest.fixture
def taesd(tmp_path):
    folder = tmp_path / "taesd"
    toys.make_tiny_vae().save_pretrained(folder)
    return folder


def depth_of(settings):
    return predict(PHOTO, settings).values


def test_draft_is_what_diffusers_gives_with_the_tiny_vae_in_place(toy_folder, taesd):
    taesd.rename(toy_folder / TINY_VAE_FOLDER)
    reference = MarigoldDepthPipeline.from_pretrained(toy_folder, vae=toys.make_tiny_vae())
    reference.set_progress_bar_config(disable=True)
    expected = reference(PHOTO.rgb, generator=torch.Generator().manual_seed(2024)).prediction[0, ..., 0]
    full = DepthSettings(checkpoint=str(toy_folder))
    draft = DepthSettings(checkpoint=str(toy_folder), quality="draft")
    assert np.abs(depth_of(draft) - expected).max() < 1e-4
    assert np.abs(depth_of(full) - expected).max() > 1e-2


def test_draft_shares_the_unet_and_full_quality_stays_as_it_was(toy_folder, taesd):
    taesd.rename(toy_folder / TINY_VAE_FOLDER)
    settings = DepthSettings(checkpoint=str(toy_folder))
    before = depth_of(settings)
    depth_of(DepthSettings(checkpoint=str(toy_folder), quality="draft"))
    pipeline = load_pipeline(str(toy_folder))
    assert with_tiny_vae(pipeline, toy_folder / TINY_VAE_FOLDER).unet is pipeline.unet
    assert np.array_equal(depth_of(settings), before)


def test_draft_of_a_checkpoint_with_a_tiny_vae_is_its_depth(tmp_path):
    save_pipeline(toys.make_pipeline(tiny_vae=True), tmp_path / "tiny")
    settings = DepthSettings(checkpoint=str(tmp_path / "tiny"))
    assert np.array_equal(
        depth_of(settings), depth_of(DepthSettings(checkpoint=str(tmp_path / "tiny"), quality="draft"))
    )


def test_draft_vae_comes_from_the_hub_once(toy_folder, taesd, tmp_path):
    settings = DepthSettings(checkpoint=str(toy_folder), quality="draft")
    with serving({TAESD: taesd}, cache=tmp_path / "cache") as hub:
        steps = []
        depth = predict(PHOTO, settings, Run(steps.append))
        assert sorted(hub.fetched) == sorted(TAESD_FILES)
        stages = list(dict.fromkeys(step.stage for step in steps))
        assert stages == ["load", "download", "encode", "denoise", "decode", "align"]
        checkpoint.unload()
        hub.refuse = (500, "")
        assert np.array_equal(depth_of(settings), depth.values)


def test_draft_that_cannot_be_had_is_explained(toy_folder, tmp_path):
    with serving({}, cache=tmp_path), pytest.raises(CheckpointError, match="set quality to full"):
        predict(PHOTO, DepthSettings(checkpoint=str(toy_folder), quality="draft"))


def test_latents_of_another_kind_are_refused(toy_folder):
    config = toy_folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.13025}))
    with pytest.raises(SettingsError, match="set it to full"):
        predict(PHOTO, DepthSettings(checkpoint=str(toy_folder), quality="draft"))


def test_draft_and_full_quality_may_differ_in_number_format(taesd):
    """After an overflow the shared UNet is in float32 and the VAE of the other pipeline is not."""
    pipeline = toys.make_pipeline().to(torch.bfloat16)
    draft = with_tiny_vae(pipeline, taesd)
    draft.to(torch.float32)
    assert np.isfinite(pipeline(PHOTO, DepthSettings()).values).all()
