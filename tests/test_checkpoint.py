import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import MarigoldDepthPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from marigold_demo.catalog import CATALOG
from marigold_demo.depth import DepthMap
from marigold_demo.errors import CheckpointError
from marigold_demo.network import checkpoint, checkpoint_folder
from marigold_demo.network.checkpoint import load_pipeline, open_pipeline, predict
from marigold_demo.network.checkpoint_folder import read_pipeline, save_pipeline, sketch_pipeline
from marigold_demo.settings import DepthSettings
from tests import toys
from tests.conftest import make_photo

PHOTO = make_photo(37, 53)


@pytest.fixture(autouse=True)
def nothing_loaded():
    checkpoint.unload()


@pytest.fixture
def folder(toy_folder, tmp_path):
    """Return a copy of the toy checkpoint to spoil."""
    return Path(shutil.copytree(toy_folder, tmp_path / "checkpoint"))


def change(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_folder_from_diffusers_gives_its_depth(folder):
    reference = MarigoldDepthPipeline.from_pretrained(folder)
    reference.set_progress_bar_config(disable=True)
    expected = reference(PHOTO.rgb, generator=torch.Generator().manual_seed(5)).prediction[0, ..., 0]
    depth = load_pipeline(str(folder))(PHOTO, DepthSettings(seed=5))
    assert np.abs(depth.values - expected).max() < 1e-4


def test_defaults_are_those_of_the_checkpoint(folder):
    change(folder / "model_index.json", default_denoising_steps=3, default_processing_resolution=96)
    defaults = read_pipeline(folder, name="x").defaults
    assert (defaults.steps, defaults.resolution, defaults.start) == (3, 96, "noise")
    change(folder / "model_index.json", start_latent="zeros")
    assert read_pipeline(folder, name="x").defaults.start == "zeros"


@pytest.mark.parametrize(("scheduler", "steps"), [("trailing", 4), ("leading", 10), ("lcm", 4)])
def test_checkpoint_that_says_nothing_gets_the_steps_of_its_scheduler(folder, scheduler, steps):
    change(folder / "model_index.json", default_denoising_steps=None, default_processing_resolution=None)
    toys.SCHEDULERS[scheduler]().save_pretrained(folder / "scheduler")
    defaults = read_pipeline(folder, name="x").defaults
    assert (defaults.steps, defaults.resolution) == (steps, 768)


def test_end_to_end_checkpoint_of_the_hub_starts_from_zeros(folder):
    name = next(known.name for known in CATALOG if known.start_zeros)
    assert read_pipeline(folder, name=name).defaults.start == "zeros"


# As E2E-FT saves it: trailing steps, one of them, betas that are not rescaled.
LIKE_E2E = {"timestep_spacing": "trailing", "rescale_betas_zero_snr": False}


@pytest.mark.parametrize(
    ("place", "scheduler", "index", "start"),
    [
        ("marigold-e2e-ft-depth", {}, {}, "zeros"),
        ("models--me--my_E2E_depth/snapshots/0123", {}, {}, "zeros"),
        ("tuned end-to-end", {}, {}, "zeros"),
        ("mine", {}, {"_name_or_path": "GonzaloMG/marigold-e2e-ft-depth"}, "zeros"),
        ("mine", LIKE_E2E, {"default_denoising_steps": 1}, "zeros"),
        ("mine", LIKE_E2E, {"default_denoising_steps": 4}, "noise"),
        ("mine", {"rescale_betas_zero_snr": True}, {"default_denoising_steps": 1}, "noise"),
        ("mine-e2e", {}, {"start_latent": "noise"}, "noise"),
        ("theme2end", {}, {}, "noise"),
    ],
)
def test_end_to_end_checkpoint_is_known_by_name_and_config(place, scheduler, index, start, folder, tmp_path):
    named = Path(shutil.copytree(folder, tmp_path / place))
    change(named / "model_index.json", **index)
    change(named / "scheduler/scheduler_config.json", **scheduler)
    assert sketch_pipeline(named, name=str(named)).defaults.start == start


def test_loading_twice_gives_the_same_object_under_any_spelling(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    first = load_pipeline(str(folder))
    assert load_pipeline(str(folder)) is first
    assert load_pipeline(folder.name) is first
    assert load_pipeline(f"{folder}/") is first


def test_threads_load_a_checkpoint_once(folder):
    found = []
    threads = [threading.Thread(target=lambda: found.append(load_pipeline(str(folder)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len({id(pipeline) for pipeline in found}) == 1


def test_only_the_checkpoints_used_last_stay_in_memory(toy_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MOST_LOADED", 2)
    folders = [shutil.copytree(toy_folder, tmp_path / str(number)) for number in range(3)]
    first, second, _ = [load_pipeline(str(folder)) for folder in folders]
    assert load_pipeline(str(folders[1])) is second
    assert load_pipeline(str(folders[0])) is not first


def test_loaded_pipeline_is_optimized_and_an_opened_one_can_be_trained(folder):
    loaded, opened = load_pipeline(str(folder)), open_pipeline(str(folder))
    assert not any(weight.requires_grad for weight in loaded.unet.parameters())
    assert all(weight.requires_grad for weight in opened.unet.parameters())
    assert open_pipeline(str(folder)) is not opened
    assert np.abs(loaded(PHOTO, DepthSettings()).values - opened(PHOTO, DepthSettings()).values).max() < 1e-5


@pytest.mark.parametrize(
    ("device", "capabilities", "size", "expected"),
    [
        ("cuda", {}, 1000, torch.float16),
        ("cuda:1", {"avx512_bf16": True}, 10, torch.float32),
        ("cpu", {"avx512_bf16": True}, 1000, torch.bfloat16),
        ("cpu", {"amx_bf16": True}, 1000, torch.bfloat16),
        ("cpu", {"avx512_bf16": True}, 10, torch.float32),
        ("cpu", {"avx512_bf16": False}, 1000, torch.float32),
        ("mps", {"avx512_bf16": True}, 1000, torch.float32),
    ],
)
def test_number_format_suits_device_and_size(device, capabilities, size, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(checkpoint, "LARGE_BYTES", 100)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").write_bytes(bytes(size))
    assert checkpoint.best_dtype(device, folder=tmp_path) == expected


def test_predict_loads_the_checkpoint_of_the_settings(folder):
    depth = predict(PHOTO, DepthSettings(checkpoint=str(folder)))
    assert isinstance(depth, DepthMap)
    assert np.array_equal(depth.values, load_pipeline(str(folder))(PHOTO, DepthSettings()).values)


def test_text_encoder_is_run_once_and_not_kept(folder):
    first = load_pipeline(str(folder))
    assert not any("text" in name or "token" in name for name in vars(first))
    shutil.rmtree(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    again = read_pipeline(folder, name="x")
    assert torch.equal(again.empty_prompt, first.empty_prompt)


def test_folder_that_cannot_be_written_to_still_loads(folder, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr("marigold_demo.network.weights.save_file", refuse)
    before = sorted(os.listdir(folder))
    assert read_pipeline(folder, name="x").empty_prompt.shape == (1, 2, toys.PROMPT_WIDTH)
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize("tiny_vae", [False, True])
def test_saved_folder_comes_back_the_same(tmp_path, tiny_vae):
    pipeline = toys.make_pipeline(tiny_vae=tiny_vae)
    pipeline.defaults = replace(pipeline.defaults, same_pixels=True, ensemble=3)
    save_pipeline(pipeline, tmp_path / "saved")
    again = read_pipeline(tmp_path / "saved", name="saved")
    assert again.defaults == pipeline.defaults
    save_pipeline(again, tmp_path / "twice")
    for config in (tmp_path / "twice").rglob("*.json"):
        assert str(tmp_path) not in config.read_text()  # nobody else's business
    settings = DepthSettings(ensemble=2)
    assert np.array_equal(again(PHOTO, settings).values, pipeline(PHOTO, settings).values)
    for network in ("unet", "vae"):
        for name, weight in getattr(pipeline, network).state_dict().items():
            assert torch.equal(getattr(again, network).state_dict()[name], weight)


def test_saved_folder_opens_in_diffusers(tmp_path):
    pipeline = toys.make_pipeline()
    save_pipeline(pipeline, tmp_path / "saved")
    parts = toys.make_parts()
    reference = MarigoldDepthPipeline.from_pretrained(
        tmp_path / "saved", text_encoder=parts["text_encoder"], tokenizer=parts["tokenizer"]
    )
    reference.set_progress_bar_config(disable=True)
    expected = reference(PHOTO.rgb, generator=torch.Generator().manual_seed(5)).prediction[0, ..., 0]
    assert np.abs(pipeline(PHOTO, DepthSettings(seed=5)).values - expected).max() < 1e-4


def test_unet_is_saved_in_shards_that_a_plain_push_takes(tmp_path, monkeypatch, capfd):
    pipeline = toys.make_pipeline()
    monkeypatch.setattr(checkpoint_folder, "SHARD_BYTES", 300_000)
    save_pipeline(pipeline, tmp_path / "saved")
    shards = sorted((tmp_path / "saved" / "unet").glob("*.safetensors"))
    assert len(shards) > 2 and max(shard.stat().st_size for shard in shards) < 10**6
    capfd.readouterr()
    again = read_pipeline(tmp_path / "saved", name="saved")
    assert capfd.readouterr().err == ""  # no bar of diffusers
    theirs = UNet2DConditionModel.from_pretrained(tmp_path / "saved", subfolder="unet")
    for weights in (again.unet.state_dict(), theirs.state_dict()):
        expected = pipeline.unet.state_dict()
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_saved_tiny_vae_loads_without_a_warning(tmp_path, caplog):
    save_pipeline(toys.make_pipeline(tiny_vae=True), tmp_path / "saved")
    load_pipeline(str(tmp_path / "saved"))
    assert not caplog.records


def test_saving_replaces_a_folder_whole_and_leaves_nothing_beside_it(tmp_path):
    target = tmp_path / "saved"
    target.mkdir()
    (target / "old.txt").write_text("old")
    save_pipeline(toys.make_pipeline(), target)
    assert os.listdir(tmp_path) == ["saved"]
    assert not (target / "old.txt").exists()
    assert len({file.stat().st_mode for file in target.rglob("*.*") if file.is_file()}) == 1


def test_save_that_breaks_off_leaves_the_old_folder(tmp_path, monkeypatch):
    pipeline, target = toys.make_pipeline(), tmp_path / "saved"
    save_pipeline(pipeline, target)

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(pipeline.vae, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        save_pipeline(pipeline, target)
    assert os.listdir(tmp_path) == ["saved"]
    assert read_pipeline(target, name="x").defaults == pipeline.defaults


def spoil_missing(part):
    def remove(folder):
        if (folder / part).is_dir():
            shutil.rmtree(folder / part)
        else:
            (folder / part).unlink()

    return remove


def spoil_cut(part):
    def cut(folder):
        content = (folder / part).read_bytes()
        (folder / part).write_bytes(content[: len(content) // 2])

    return cut


def spoil_weights(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights.pop("conv_out.weight")
    save_file(weights, path, metadata={"format": "pt"})


def spoil_prompt(folder):
    save_file({"empty_prompt": torch.zeros(1, 2, 7)}, folder / "empty_prompt.safetensors")


UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SPOILED = {
    "no index": (spoil_missing("model_index.json"), "model_index.json is missing"),
    "no unet": (spoil_missing("unet"), "unet/config.json is missing"),
    "no vae": (spoil_missing("vae"), "vae/config.json is missing"),
    "no scheduler": (spoil_missing("scheduler"), "scheduler/scheduler_config.json is missing"),
    "no text encoder": (spoil_missing("text_encoder"), "text_encoder/config.json is missing"),
    "no tokenizer": (spoil_missing("tokenizer"), "tokenizer_config.json is missing"),
    "no unet weights": (spoil_missing(UNET_WEIGHTS), "unet/diffusion_pytorch_model.safetensors is missing"),
    "cut index": (spoil_cut("model_index.json"), "model_index.json of .* is damaged"),
    "cut unet config": (spoil_cut("unet/config.json"), "unet/config.json of .* is damaged"),
    "cut unet": (spoil_cut(UNET_WEIGHTS), r"unet/\S+ of .* is cut off after \d+ of \d+ bytes"),
    "cut vae": (spoil_cut("vae/diffusion_pytorch_model.safetensors"), r"vae/\S+ of .* is cut off"),
    "cut text encoder": (spoil_cut("text_encoder/model.safetensors"), r"text_encoder/\S+ of .* is cut off"),
    "unet without a weight": (spoil_weights, "unet of .* lacks some of its weights"),
    "foreign prompt": (spoil_prompt, "does not fit its UNet"),
    "normals": (
        lambda folder: change(folder / "model_index.json", _class_name="MarigoldNormalsPipeline"),
        "predicts surface normals, not depth",
    ),
    "disparity": (
        lambda folder: change(folder / "model_index.json", prediction_type="disparity"),
        "predicts disparity, not depth",
    ),
    "scheduler of another kind": (
        lambda folder: change(folder / "scheduler" / "scheduler_config.json", _class_name="PNDMScheduler"),
        "wants the scheduler PNDMScheduler",
    ),
    "vae of another kind": (
        lambda folder: change(folder / "vae" / "config.json", _class_name="VQModel"),
        "vae of .* is of the kind VQModel",
    ),
    "plain stable diffusion": (
        lambda folder: toys.make_unet(in_channels=4).save_pretrained(folder / "unet"),
        "maps 4 to 4 channels where 8 to 4 are expected",
    ),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_spoiled_folder_is_explained(folder, spoiled):
    spoil, expected = SPOILED[spoiled]
    spoil(folder)
    with pytest.raises(CheckpointError, match=expected) as caught:
        load_pipeline(str(folder))
    assert str(caught.value).endswith((".", "'embedded'."))


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere/at/all", "a/b/c", "C:\\weights"])
def test_missing_folder_is_explained(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="There is no checkpoint folder"):
        load_pipeline(name)


def test_hub_checkpoint_without_a_network_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="the hub cannot be reached"):
        load_pipeline("prs-eth/marigold-depth-v1-1")


def test_half_precision_weights_are_read_as_such(folder):
    half = read_pipeline(folder, name="x", dtype=torch.float16)
    half.unet.save_pretrained(folder / "unet", variant="fp16")
    half.vae.save_pretrained(folder / "vae", variant="fp16")
    (folder / UNET_WEIGHTS).unlink()
    again = read_pipeline(folder, name="x", dtype=torch.float32)
    assert again.dtype == torch.float32
    for name, weight in half.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[name], weight.float())
