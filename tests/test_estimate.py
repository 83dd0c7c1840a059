"""What a run is said to cost beforehand, against counts, caches and real runs."""

import threading
import time
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from marigold_demo.advice import Advice
from marigold_demo.errors import CheckpointError
from marigold_demo.network import checkpoint, cost, draft, estimate, hub, pace, packing
from marigold_demo.network.checkpoint import load_pipeline, predict
from marigold_demo.network.checkpoint_folder import save_pipeline
from marigold_demo.settings import DepthSettings
from tests import toys
from tests.conftest import make_photo
from tests.loopback_hub import serving

BEST = "prs-eth/marigold-depth-v1-1"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoint, "_loaded", type(checkpoint._loaded)())
    monkeypatch.setattr(estimate, "_plans", {})
    monkeypatch.setattr(estimate, "_counting", set())
    monkeypatch.setattr(pace, "_runs", {})


def test_cost_at_any_size_follows_from_two_small_ones():
    vae = toys.make_vae().to("meta")

    def decode(pixels):
        side = round(pixels**0.5) // 8
        return cost.count(lambda: vae.decode(torch.empty(1, 4, side, side, device="meta")))

    model = cost.CostModel(decode(cost.SMALL), decode(cost.LARGE))
    foreseen, counted = model.at(512 * 512), decode(512 * 512)
    assert foreseen.flop == pytest.approx(counted.flop, rel=1e-6)
    assert foreseen.moved_bytes == pytest.approx(counted.moved_bytes, rel=1e-2)
    assert foreseen.peak_bytes == pytest.approx(counted.peak_bytes, rel=1e-2)


def test_peak_counts_what_is_there_at_the_same_time():
    def run():
        first = torch.empty(1000, device="meta")  # 4000 bytes
        second = first + 1
        del first
        return second + 1  # two at a time, never three

    assert cost.count(run).peak_bytes == 8000
    assert cost.count(run).moved_bytes == 12000


def test_flop_of_the_toy_are_those_of_a_real_run(toy_folder, monkeypatch):
    monkeypatch.setattr(packing, "_can_pack", lambda: False)  # torch does not know how to count that
    settings = DepthSettings(checkpoint=str(toy_folder), steps=3, ensemble=2, resolution=128)
    estimate.prepare(settings)
    (plan,) = estimate._plans.values()
    foreseen, _ = plan.price((128, 96), settings)
    photo, pipeline = make_photo(96, 128), load_pipeline(str(toy_folder))
    with FlopCounterMode(display=False) as counter:
        list(pipeline.stream(photo, settings))
    assert foreseen.flop == pytest.approx(counter.get_total_flops(), rel=0.1)  # attention is counted apart


def test_advice_is_quick_counts_in_the_background_and_grows_with_the_work(toy_folder):
    settings = DepthSettings(checkpoint=str(toy_folder))
    first = estimate.advise((640, 480), settings)
    assert first.download_bytes == 0
    for thread in threading.enumerate():
        if thread.name == estimate.COUNTING:
            thread.join()
    advice = estimate.advise((640, 480), settings)
    assert advice.seconds > 0
    assert advice.memory_bytes > 0
    start = time.process_time()
    more = [
        estimate.advise((640, 480), replace(settings, ensemble=10)),
        estimate.advise((640, 480), replace(settings, steps=20)),
        estimate.advise((640, 480), replace(settings, resolution=768)),
    ]
    assert (time.process_time() - start) / len(more) < 0.05
    assert all(other.seconds > advice.seconds for other in more)
    assert more[2].memory_bytes > advice.memory_bytes


def test_real_runs_correct_the_time(toy_folder):
    settings = DepthSettings(checkpoint=str(toy_folder))
    estimate.prepare(settings)
    before = estimate.advise((53, 37), settings).seconds
    pace.note_run((53, 37), settings, seconds=3 * before)
    assert estimate.advise((53, 37), settings).seconds == pytest.approx(3 * before)
    list(predict(make_photo(37, 53), settings))
    assert len(pace.last_runs(settings)) == 2
    assert estimate.advise((53, 37), replace(settings, quality="draft")).seconds != 3 * before


def test_toy_estimate_is_near_a_measured_run(toy_folder):
    """The limits are wide for busy machines; the benchmark prints the figures."""
    settings = DepthSettings(checkpoint=str(toy_folder), resolution=128)
    estimate.prepare(settings)
    list(predict(make_photo(96, 128), settings))
    list(predict(make_photo(96, 128), settings))
    for wish in (
        replace(settings, ensemble=4),
        replace(settings, resolution=256),
        replace(settings, steps=6),
    ):
        foreseen = estimate.advise((128, 96), wish).seconds
        times = []
        for _ in range(3):
            start = time.perf_counter()
            list(load_pipeline(str(toy_folder)).stream(make_photo(96, 128), wish))
            times.append(time.perf_counter() - start)
        assert 0.25 < foreseen / min(times) < 8


@pytest.fixture
def uncounted(monkeypatch):
    """Leave the background alone: networks of real size take it seconds."""
    monkeypatch.setattr(estimate, "_prepare", lambda _: None)


def test_checkpoint_of_the_catalog_is_known_before_it_is_downloaded(uncounted):
    settings = DepthSettings(checkpoint=BEST)
    advice = estimate.advise((1024, 768), settings)
    expected = next(known.download_mb for known in checkpoint.CATALOG if known.name == BEST)
    assert advice.download_bytes == 2 * expected * 10**6  # whole precision, on a CPU
    drafted = estimate.advise((1024, 768), replace(settings, quality="draft"))
    assert drafted.download_bytes == advice.download_bytes + draft.TAESD_BYTES


def test_what_is_not_known_is_not_guessed():
    assert estimate.advise((64, 48), DepthSettings(checkpoint="someone/else")) == Advice(
        seconds=None, memory_bytes=None, download_bytes=None
    )
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        estimate.advise((64, 48), DepthSettings(checkpoint="./nowhere"))


def test_downloaded_checkpoint_is_ready_and_half_a_download_is_not(toy_folder, tmp_path, uncounted):
    settings = DepthSettings(checkpoint=BEST)
    with serving({BEST: toy_folder}, cache=tmp_path / "cache"):
        folder = hub.fetch_checkpoint(BEST, half=False)
        assert estimate.advise((64, 48), settings).download_bytes == 0
        assert estimate.advise((64, 48), replace(settings, quality="draft")).download_bytes > 0
        here = hub.cached_bytes(BEST)
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        missing = estimate.advise((64, 48), settings).download_bytes
        assert 0 < missing <= 5200 * 10**6 - here


def test_a_tiny_vae_needs_no_other_for_drafts(tmp_path, uncounted):
    save_pipeline(toys.make_pipeline(tiny_vae=True), tmp_path / "tiny")
    settings = DepthSettings(checkpoint=str(tmp_path / "tiny"), quality="draft")
    assert estimate.advise((64, 48), settings).download_bytes == 0


@pytest.mark.parametrize(
    ("device", "here", "answering", "expected"),
    [
        ("cpu", True, True, "embedded"),
        ("mps", True, True, "embedded"),
        ("cuda", True, False, BEST),
        ("cuda", False, True, BEST),
        ("cuda", False, False, "embedded"),
    ],
)
def test_default_checkpoint_is_the_best_that_answers_in_seconds(
    device, here, answering, expected, monkeypatch, toy_folder
):
    monkeypatch.setattr(checkpoint, "best_device", lambda: device)
    monkeypatch.setattr(checkpoint, "cached", lambda _: toy_folder if here else None)
    monkeypatch.setattr(checkpoint, "answers", lambda *_, within_s: answering)
    assert checkpoint.default_checkpoint() == expected


def test_folder_that_lacks_a_part_is_told_before_a_run(toy_folder):
    (toy_folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"vae/\S+ is missing"):
        estimate.advise((640, 480), DepthSettings(checkpoint=str(toy_folder)))
