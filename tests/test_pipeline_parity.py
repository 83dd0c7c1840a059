"""Our loop against diffusers' MarigoldDepthPipeline: same weights, same noise, same depth."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from marigold_demo.depth import DepthMap
from marigold_demo.evaluation.evaluate import fit_affine
from marigold_demo.settings import DepthSettings
from tests import toys
from tests.conftest import make_photo

SIZES = [(48, 64), (37, 53), (101, 40), (64, 64)]  # H, W; all but the first and last need padding


def run_reference(photo, *, steps, ensemble, resolution=toys.RESOLUTION, **choices):
    """Run diffusers' own pipeline: depth [H, W] and uncertainty [H, W] or None."""
    output = toys.make_reference(**choices)(
        photo.rgb,
        num_inference_steps=steps,
        ensemble_size=ensemble,
        processing_resolution=resolution,
        batch_size=ensemble,
        generator=torch.Generator().manual_seed(7),
        output_uncertainty=ensemble > 1,
    )
    return output.prediction[0, ..., 0], None if ensemble == 1 else output.uncertainty[0, ..., 0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("scheduler", ["trailing", "leading", "lcm"])
def test_depth_equals_that_of_diffusers(scheduler, steps, size):
    photo = make_photo(*size)
    expected, _ = run_reference(photo, steps=steps, ensemble=1, scheduler=scheduler)
    depth = toys.make_pipeline(scheduler=scheduler)(photo, DepthSettings(steps=steps, seed=7))
    assert np.ptp(expected) > 0.3
    assert np.abs(depth.values - expected).max() < 1e-4


def test_start_from_zeros_with_trailing_steps_equals_that_of_diffusers():
    photo = make_photo(37, 53)
    reference = toys.make_reference(scheduler="trailing_plain")
    image, zeros = torch.tensor(photo.rgb).permute(2, 0, 1)[None], torch.zeros(1, 4, 6, 8)
    expected = reference(image, num_inference_steps=1, latents=zeros).prediction[0, ..., 0]
    depths = [
        toys.make_pipeline(scheduler=scheduler)(photo, DepthSettings(steps=1, start="zeros", ensemble=1))
        for scheduler in ("trailing_plain", "leading")  # steps from zeros are trailing, whatever the config
    ]
    for depth in depths:
        assert np.abs(depth.values - expected).max() < 1e-4 and not depth.notes


def test_few_steps_of_leading_spacing_are_noted_and_trailing_spacing_is_taken():
    photo, pipeline = make_photo(48, 64), toys.make_pipeline(scheduler="leading")
    expected, _ = run_reference(photo, steps=2, ensemble=1, scheduler="trailing_plain")
    plain = pipeline(photo, DepthSettings(steps=2, seed=7))
    trailing = pipeline(photo, DepthSettings(steps=2, seed=7, spacing="trailing"))
    assert np.abs(trailing.values - expected).max() < 1e-4 and not trailing.notes
    assert "set spacing to trailing" in " ".join(plain.notes)
    assert np.abs(plain.values - expected).max() > 1e-3
    assert not pipeline(photo, DepthSettings(steps=10, resolution=64)).notes


@pytest.mark.parametrize("resolution", [0, 96, 128])
def test_depth_equals_that_of_diffusers_at_any_resolution(resolution):
    photo = make_photo(45, 83)
    expected, _ = run_reference(photo, steps=1, ensemble=1, resolution=resolution)
    depth = toys.make_pipeline()(photo, DepthSettings(steps=1, seed=7, resolution=resolution))
    assert np.abs(depth.values - expected).max() < 1e-4


@pytest.mark.parametrize("scheduler", ["trailing", "lcm"])
def test_depth_equals_that_of_diffusers_with_a_tiny_vae(scheduler):
    photo = make_photo(37, 53)
    expected, _ = run_reference(photo, steps=2, ensemble=1, scheduler=scheduler, tiny_vae=True)
    depth = toys.make_pipeline(scheduler=scheduler, tiny_vae=True)(photo, DepthSettings(steps=2, seed=7))
    assert np.abs(depth.values - expected).max() < 1e-4


@pytest.mark.parametrize("scheduler", ["trailing", "leading", "lcm"])
@pytest.mark.parametrize("ensemble", [3, 4])
def test_members_equal_those_of_diffusers(scheduler, ensemble, monkeypatch):
    photo, seen = make_photo(37, 53), {}
    reference = toys.make_reference(scheduler=scheduler)
    monkeypatch.setattr(
        reference, "ensemble_depth", lambda members, *_: (seen.setdefault("theirs", members)[:1], None)
    )
    reference(
        photo.rgb,
        num_inference_steps=3,
        ensemble_size=ensemble,
        batch_size=ensemble,
        generator=torch.Generator().manual_seed(7),
    )

    def keep(members, **_):
        seen["ours"] = members
        return DepthMap(values=members[0])

    monkeypatch.setattr("marigold_demo.network.pipeline.reduce_members", keep)
    toys.make_pipeline(scheduler=scheduler)(photo, DepthSettings(steps=3, ensemble=ensemble, seed=7))
    assert np.abs(seen["ours"] - seen["theirs"][:, 0].numpy()).max() < 1e-4


def test_ensemble_agrees_with_that_of_diffusers(monkeypatch):
    """Members differ by some hundredths, as those of trained weights, and not by half of the range."""
    make_unet, betas = toys.make_unet, {**toys.BETAS, "set_alpha_to_one": True}

    def steadier(**choices):
        unet = make_unet(**choices)
        unet.conv_in.weight.data[:, 4:] *= 5e-4
        return unet

    monkeypatch.setattr(toys, "make_unet", steadier)
    monkeypatch.setitem(toys.SCHEDULERS, "steady", lambda: DDIMScheduler(**betas, **toys.TRAILING))
    photo = make_photo(37, 53)
    expected, uncertainty = run_reference(photo, steps=1, ensemble=5, scheduler="steady")
    depth = toys.make_pipeline(scheduler="steady")(photo, DepthSettings(steps=1, ensemble=5, seed=7))
    fitted = fit_affine(depth.values, expected)(depth.values)
    assert uncertainty.max() > 1e-2
    assert np.abs(fitted - expected).max() < 1e-2
    assert depth.uncertainty.mean() < 1.02 * uncertainty.mean()  # better aligned members are less apart
