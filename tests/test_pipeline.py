import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from marigold_demo.depth import CancelledError, DepthMap, Run
from marigold_demo.errors import CheckpointError, SettingsError
from marigold_demo.network.checkpoint import load_pipeline, predict
from marigold_demo.network.memory import retry_at_lower_resolution
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.network.plan import CheckpointDefaults
from marigold_demo.settings import DepthSettings
from marigold_demo.workflow import Workflow
from tests import toys
from tests.conftest import make_photo


def counted(network, calls):
    """Append to `calls` whenever the network runs."""
    return network.register_forward_hook(lambda *_: calls.append(type(network).__name__))


def test_batches_of_members_do_not_change_the_depth(monkeypatch):
    photo, settings = make_photo(37, 53), DepthSettings(ensemble=5, seed=7)
    pipeline = toys.make_pipeline(scheduler="lcm")
    together = pipeline(photo, settings)
    monkeypatch.setattr("marigold_demo.network.memory.CPU_BATCH_BYTES", 1)
    calls = []
    counted(pipeline.unet, calls)
    one_by_one = pipeline(photo, settings)
    assert len(calls) == 5 * toys.STEPS
    assert np.abs(together.values - one_by_one.values).max() < 1e-4


def test_photo_is_encoded_once_for_all_members(toy_pipeline):
    calls = []
    with counted(toy_pipeline.vae.encoder, calls):
        toy_pipeline(make_photo(40, 64), DepthSettings(ensemble=4))
    assert len(calls) == 1


def test_depth_is_the_same_to_the_last_bit_every_time(toy_pipeline):
    photo, settings = make_photo(37, 53), DepthSettings(ensemble=3)
    first, again = toy_pipeline(photo, settings), toy_pipeline(photo, settings)
    assert np.array_equal(first.values, again.values)
    assert np.array_equal(first.uncertainty, again.uncertainty)
    other = toy_pipeline(photo, DepthSettings(ensemble=3, seed=1))
    assert not np.array_equal(first.values, other.values)


def test_prediction_leaves_the_global_random_state_alone(toy_pipeline):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    toy_pipeline(make_photo(32, 32), DepthSettings(ensemble=2))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("size", [(16, 320), (320, 16), (17, 16), (200, 150)])
def test_depth_has_the_size_of_the_photo(toy_pipeline, size):
    depth = toy_pipeline(make_photo(*size), DepthSettings(ensemble=2, steps=1))
    assert depth.values.shape == depth.uncertainty.shape == size
    assert depth.values.min() >= 0
    assert depth.values.max() <= 1


@given(width=st.integers(200, 4000), longer=st.floats(1, 5))
def test_photos_of_every_shape_are_seen_with_as_many_pixels(width, longer):
    size = (width, max(1, round(width / longer)))
    edge = CheckpointDefaults(steps=1, resolution=256, same_pixels=True).longest_edge(size)
    assert edge % 8 == 0
    assert edge**2 * size[1] / size[0] == pytest.approx(256 * 192, rel=0.08)
    assert CheckpointDefaults(steps=1, resolution=256).longest_edge(size) == 256


def test_longest_edge_of_a_panorama_is_bounded_and_a_usual_photo_has_the_stated_one():
    defaults = CheckpointDefaults(steps=1, resolution=256, same_pixels=True)
    assert defaults.longest_edge((4000, 100)) == 512
    assert defaults.longest_edge((1024, 768)) == defaults.longest_edge((300, 400)) == 256


def test_the_network_sees_a_photo_at_the_longest_edge_that_the_checkpoint_wants():
    pipeline, seen = toys.make_pipeline(), []
    pipeline.defaults = replace(pipeline.defaults, resolution=64, same_pixels=True)
    encode = pipeline.encode_image
    pipeline.encode_image = lambda rgb: seen.append(tuple(rgb.shape[-2:])) or encode(rgb)
    pipeline(make_photo(40, 160), DepthSettings())
    pipeline(make_photo(40, 160), DepthSettings(resolution=64))
    assert seen == [(32, 112), (16, 64)]


def test_progress_comes_before_each_network_call_and_adds_up(toy_pipeline):
    calls, counts = [], []
    hooks = [counted(toy_pipeline.unet, calls), counted(toy_pipeline.vae.encoder, calls)]
    progress = []

    def note(item):
        progress.append(item)
        counts.append(len(calls))

    depth = toy_pipeline(make_photo(40, 64), DepthSettings(ensemble=3, steps=4), Run(note))
    for hook in hooks:
        hook.remove()
    assert isinstance(depth, DepthMap)
    assert counts[0] == 0
    assert {item.total for item in progress} == {1 + 3 * 4 + 3}
    done = [item.done for item in progress]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, progress[0].total)
    assert list(dict.fromkeys(item.stage for item in progress)) == ["encode", "denoise", "decode", "align"]


@pytest.mark.parametrize("allowed", [0, 1, 3])
@pytest.mark.parametrize("raised", [False, True])
def test_cancelling_stops_before_the_next_unet_call(toy_pipeline, allowed, raised):
    calls = []

    def cancel(progress):
        if len(calls) == allowed and progress.stage == "denoise":
            run.cancelled = True
            if raised:
                raise KeyboardInterrupt

    run = Run(cancel)
    with counted(toy_pipeline.unet, calls), pytest.raises(KeyboardInterrupt if raised else CancelledError):
        toy_pipeline(make_photo(40, 64), DepthSettings(steps=4), run)
    assert len(calls) == allowed
    assert not torch.is_inference_mode_enabled()
    assert toy_pipeline(make_photo(40, 64), DepthSettings()).size == (64, 40)


def test_at_most_eight_frames_of_the_package_stand_above_the_first_unet_call(toy_folder, monkeypatch):
    """From the workflow, which page and command line ask, down to the network."""
    depths = []

    def count(*_):
        frame = sys._getframe()
        found = 0
        while frame is not None:
            found += frame.f_globals.get("__name__", "").startswith("marigold_demo.")
            frame = frame.f_back
        depths.append(found)

    load_pipeline(str(toy_folder)).unet.register_forward_pre_hook(count)
    settings = DepthSettings(checkpoint=str(toy_folder), ensemble=2)
    Workflow(predict).estimate(make_photo(40, 64), settings)
    assert 0 < depths[0] <= 8


def make_deterministic_pipeline():
    parts = toys.make_pipeline()
    return DepthPipeline(
        unet=parts.unet,
        vae=parts.vae,
        scheduler=parts.scheduler,
        empty_prompt=parts.empty_prompt,
        defaults=CheckpointDefaults(steps=1, resolution=64, start="zeros"),
    )


def test_start_from_zeros_is_that_of_diffusers_and_does_not_depend_on_the_seed():
    pipeline, photo = make_deterministic_pipeline(), make_photo(37, 53)
    depth, other = pipeline(photo, DepthSettings()), pipeline(photo, DepthSettings(seed=1))
    assert np.array_equal(depth.values, other.values)
    reference, zeros = toys.make_reference(), torch.zeros(1, 4, 6, 8)
    expected = reference(Image.fromarray(photo.rgb), num_inference_steps=1, latents=zeros).prediction
    assert np.abs(depth.values - expected[0, ..., 0]).max() < 1e-4


def test_members_of_a_deterministic_checkpoint_see_different_views_of_the_photo():
    pipeline, photo, seen = make_deterministic_pipeline(), make_photo(48, 64), []
    pipeline.vae.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    depth = pipeline(photo, DepthSettings(ensemble=3))
    assert torch.allclose(seen[1], seen[0].flip(-1), atol=1e-5)
    assert seen[2].shape[-1] == 72
    assert depth.uncertainty.max() > 0
    assert (depth.values.min(), depth.values.max()) == (0, pytest.approx(1))


def test_views_of_a_large_photo_are_those_of_all_its_pixels(monkeypatch):
    pipeline, photo = make_deterministic_pipeline(), make_photo(30, 40)
    large = replace(photo, rgb=np.asarray(Image.fromarray(photo.rgb).resize((1001, 750), Image.BICUBIC)))
    depth = pipeline(large, DepthSettings(ensemble=3, resolution=64))
    monkeypatch.setattr("marigold_demo.network.pipeline.reduced", lambda rgb, **_: rgb)
    whole = pipeline(large, DepthSettings(ensemble=3, resolution=64))
    assert depth.size == whole.size == (1001, 750)
    assert np.abs(depth.values - whole.values).mean() < 0.02


def test_depth_of_views_turns_with_the_photo():
    """With both mirror images among the augmented views, a mirrored photo has the mirrored depth."""
    pipeline, photo = make_deterministic_pipeline(), make_photo(48, 64)
    mirror = replace(photo, rgb=np.ascontiguousarray(photo.rgb[:, ::-1]))
    settings = DepthSettings(ensemble=2)
    depth, mirrored = pipeline(photo, settings), pipeline(mirror, settings)
    assert np.abs(depth.values - mirrored.values[:, ::-1]).max() < 1e-4


def test_progress_over_views_is_that_of_one_prediction():
    steps = []
    make_deterministic_pipeline()(make_photo(48, 64), DepthSettings(ensemble=4), Run(steps.append))
    assert {step.total for step in steps} == {4 * 3}
    assert [step.done for step in steps] == list(range(4 * 3 + 1))


class Average(torch.nn.Module):
    """Fake of an image encoder: the mean color of each cell, twice."""

    out_channels = 6

    def forward(self, rgb):
        return torch.nn.functional.avg_pool2d(rgb, 8).repeat(1, 2, 1, 1)


def test_features_of_an_image_encoder_are_the_last_input_channels():
    parts, seen = toys.make_pipeline(), []
    pipeline = DepthPipeline(
        unet=toys.make_unet(in_channels=14),
        vae=parts.vae,
        scheduler=parts.scheduler,
        empty_prompt=parts.empty_prompt,
        defaults=parts.defaults,
        image_encoder=Average(),
    )
    pipeline.unet.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    photo = make_photo(48, 64)
    depth = pipeline(photo, DepthSettings(ensemble=2))
    rgb = torch.tensor(photo.rgb).permute(2, 0, 1)[None] / 127.5 - 1
    assert np.isfinite(depth.values).all()
    assert seen[0].shape == (2, 14, 6, 8)
    with torch.no_grad():
        assert torch.allclose(seen[0][:, 8:], Average()(rgb).expand(2, -1, -1, -1), atol=1e-5)
        assert torch.allclose(seen[0][:1, :4], pipeline.encode_image(rgb), atol=1e-5)


def test_depth_that_overflows_in_half_precision_is_computed_again_in_float32():
    photo = make_photo(48, 64)
    exact = toys.make_pipeline()(photo, DepthSettings())
    pipeline = toys.make_pipeline().to(torch.bfloat16)
    assert pipeline.dtype == torch.bfloat16

    def overflow(_, __, output):
        return (output[0] * float("nan"),) if output[0].dtype == torch.bfloat16 else None

    pipeline.unet.register_forward_hook(overflow)
    depth = pipeline(photo, DepthSettings())
    assert pipeline.dtype == torch.float32
    assert np.abs(depth.values - exact.values).max() < 3e-2  # the weights keep their 16-bit rounding


@pytest.mark.parametrize("tiny_vae", [False, True])
def test_optimizing_does_not_change_the_depth_or_the_weights(tiny_vae, monkeypatch):
    monkeypatch.setattr("marigold_demo.network.cpu.patches.LEAST_CHANNELS", 1)
    photo, settings = make_photo(37, 53), DepthSettings(ensemble=3, steps=3)
    pipeline = toys.make_pipeline(tiny_vae=tiny_vae)
    plain, names = pipeline(photo, settings), list(pipeline.unet.state_dict())
    settled = pipeline.optimize()(photo, settings)
    assert np.abs(settled.values - plain.values).max() < 1e-4
    assert list(pipeline.unet.state_dict()) == names


def test_optimized_pipeline_can_still_be_cast():
    photo = make_photo(37, 53)
    exact = toys.make_pipeline()(photo, DepthSettings())
    pipeline = toys.make_pipeline().optimize().to(torch.float64).to(torch.float32)
    assert np.abs(pipeline(photo, DepthSettings()).values - exact.values).max() < 1e-4


def test_members_that_do_not_fit_into_memory_together_run_in_smaller_batches():
    photo, settings = make_photo(37, 53), DepthSettings(ensemble=5)
    pipeline = toys.make_pipeline()
    expected, sizes = pipeline(photo, settings), []

    def refuse(_, inputs):
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    pipeline.unet.register_forward_pre_hook(refuse)
    depth = pipeline(photo, settings)
    assert sizes[:2] == [5, 2]
    assert np.abs(depth.values - expected.values).max() < 1e-4


def greedy(network, *, most_rows):
    """Let a network want more memory than there is for maps of more rows."""

    def refuse(_, inputs):
        if inputs[0].shape[2] > most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return network.register_forward_pre_hook(refuse)


def test_vae_that_does_not_fit_works_in_chunks_and_the_depth_stays_the_same(monkeypatch):
    monkeypatch.setattr("marigold_demo.network.memory.ROWS", 8)
    pipeline, photo = toys.make_pipeline(), make_photo(64, 64)
    expected = pipeline(photo, DepthSettings(ensemble=2))
    greedy(pipeline.vae.encoder.down_blocks[0].resnets[0].conv1, most_rows=10)
    greedy(pipeline.vae.decoder.up_blocks[-1].resnets[0].conv1, most_rows=10)
    depth = pipeline(photo, DepthSettings(ensemble=2))
    assert np.abs(depth.values - expected.values).max() < 1e-4
    assert depth.notes == ()


def test_large_photos_begin_in_chunks(monkeypatch):
    pipeline, heights = toys.make_pipeline(), []
    conv = pipeline.vae.decoder.up_blocks[-1].resnets[0].conv1
    conv.register_forward_pre_hook(lambda _, inputs: heights.append(inputs[0].shape[2]))
    pipeline(make_photo(128, 64), DepthSettings(resolution=128, steps=1))
    monkeypatch.setattr("marigold_demo.network.memory.free_bytes", lambda _: 0)
    pipeline(make_photo(128, 64), DepthSettings(resolution=128, steps=1))
    assert (heights[0], max(heights[1:])) == (128, 64 + 1)  # two chunks, with a row of the other


def test_what_does_not_fit_at_all_is_computed_smaller_and_told():
    pipeline, photo = toys.make_pipeline(), make_photo(192, 256)
    greedy(pipeline.unet, most_rows=18)  # latent rows: 144 pixels
    settings = DepthSettings(resolution=256, steps=1)
    with pytest.raises(SettingsError, match="choose a lower one"):
        pipeline(photo, settings)
    progress = []
    predict_it = partial(pipeline, photo, run=Run(progress.append))
    depth = retry_at_lower_resolution(predict_it, settings, longest=256)
    assert depth.size == (256, 192)
    assert depth.notes == ("There was not enough memory for 256 px; this depth was computed at 192 px.",)
    assert np.array_equal(depth.values, pipeline(photo, replace(settings, resolution=192)).values)
    assert [step.stage for step in progress].count("encode") == 2


def test_what_fits_at_no_size_is_explained():
    pipeline = toys.make_pipeline()
    greedy(pipeline.unet, most_rows=1)
    with pytest.raises(SettingsError, match="not enough memory"):
        retry_at_lower_resolution(partial(pipeline, make_photo(192, 256)), DepthSettings(), longest=256)


def test_depth_that_is_never_a_number_is_reported_as_damaged_weights():
    pipeline = toys.make_pipeline()
    pipeline.unet.register_forward_hook(lambda _, __, output: (output[0] * float("nan"),))
    with pytest.raises(CheckpointError, match="not a number"):
        pipeline(make_photo(48, 64), DepthSettings())


def test_bfloat16_stays_close_to_float32():
    photo = make_photo(48, 64)
    exact = toys.make_pipeline()(photo, DepthSettings(steps=1))
    rough = toys.make_pipeline().to(torch.bfloat16)(photo, DepthSettings(steps=1))
    assert np.abs(rough.values - exact.values).mean() < 2e-2


def test_too_many_steps_for_a_distilled_checkpoint_are_refused():
    pipeline = toys.make_pipeline()
    pipeline.scheduler = LCMScheduler(**toys.BETAS, original_inference_steps=20)
    with pytest.raises(SettingsError, match="30 steps"):
        pipeline(make_photo(32, 32), DepthSettings(steps=30))


def test_encoding_and_decoding_depth_are_those_of_the_vae(toy_pipeline):
    vae = toy_pipeline.vae
    depth = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latent = toy_pipeline.encode_depth(depth)
        expected = vae.encode(depth.repeat(1, 3, 1, 1)).latent_dist.mode() * vae.config.scaling_factor
        decoded = vae.decode(latent / vae.config.scaling_factor).sample.mean(dim=1, keepdim=True).clip(-1, 1)
        assert torch.allclose(latent, expected, atol=1e-6)
        assert torch.allclose(toy_pipeline.decode_depth(latent), decoded, atol=1e-5)


def test_gradients_flow_through_decoding():
    pipeline = toys.make_pipeline()
    latent = torch.zeros(1, 4, 2, 2, requires_grad=True)
    pipeline.decode_depth(latent).sum().backward()
    assert latent.grad.abs().max() > 0
