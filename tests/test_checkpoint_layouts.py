"""Checkpoint folders as users have them: each loads, or an error names what is there and what is expected."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from marigold_demo.cli.main import main
from marigold_demo.errors import CheckpointError, SettingsError
from marigold_demo.network import checkpoint, checkpoint_folder
from marigold_demo.network.checkpoint import load_pipeline, open_pipeline
from marigold_demo.network.checkpoint_files import SUMS, changed_file, check_complete, write_sums
from marigold_demo.network.checkpoint_folder import save_pipeline
from marigold_demo.settings import DepthSettings
from tests import toys
from tests.conftest import make_photo
from tests.pages import draw_photo

PHOTO = make_photo(37, 53)
SETTINGS = DepthSettings(steps=1, resolution=64)
STEM = "diffusion_pytorch_model"
UNET, VAE, TEXT = f"unet/{STEM}.safetensors", f"vae/{STEM}.safetensors", "text_encoder/model.safetensors"


@pytest.fixture(autouse=True)
def nothing_loaded():
    checkpoint.unload()


@pytest.fixture(scope="module")
def expected(toy_original, tmp_path_factory) -> np.ndarray:
    """Return the depth of the toy as it is."""
    folder = shutil.copytree(toy_original, tmp_path_factory.mktemp("toy") / "checkpoint")
    return open_pipeline(str(folder))(PHOTO, SETTINGS).values


def change(path: Path, **entries: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def drop(path: Path, *keys: str) -> None:
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in keys}))


def rename(old: str, new: str, *, dtype: torch.dtype | None = None):
    """Return what gives weights another name and number format."""

    def spoil(folder: Path) -> None:
        weights = load_file(folder / old)
        (folder / old).unlink()
        save_file({k: v.to(dtype or v.dtype) for k, v in weights.items()}, folder / new)

    return spoil


def all_of(*spoilers):
    def spoil(folder: Path) -> None:
        for one in spoilers:
            one(folder)

    return spoil


def config(path: str, **entries: object):
    return lambda folder: change(folder / path, **entries)


def without(path: str, *keys: str):
    return lambda folder: drop(folder / path, *keys)


def in_parts(folder: Path, *, half: bool = False) -> None:
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / UNET).unlink()
    (unet.half() if half else unet).save_pretrained(
        folder / "unet", max_shard_size="300KB", variant="fp16" if half else None
    )


def with_bom(folder: Path) -> None:
    path = folder / "model_index.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def copied(folder: Path) -> None:
    shutil.copy(folder / UNET, folder / f"unet/{STEM}.non_ema.safetensors")


def wrapped(folder: Path) -> None:
    inner = folder / "marigold-depth"
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path != inner:
            path.rename(inner / path.name)


def of_the_cache(folder: Path) -> None:
    wrapped(folder)
    (folder / "snapshots").mkdir()
    (folder / "marigold-depth").rename(folder / "snapshots" / ("a" * 40))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)


def beside(folder: Path) -> None:
    """Lay what others leave beside weights: another format, an adapter."""
    (folder / "unet" / "model.onnx").write_bytes(b"x")
    (folder / "vae" / "openvino_model.bin").write_bytes(b"x")
    save_file({"lora_A.weight": torch.zeros(4, 4)}, folder / "pytorch_lora_weights.safetensors")


SCHEDULER, INDEX = "scheduler/scheduler_config.json", "model_index.json"
NOTHING_SAID = ("prediction_type", "scale_invariant", "shift_invariant")
LOADS = {
    "16 bits only": all_of(
        *(rename(f, f.replace(".safe", ".fp16.safe"), dtype=torch.float16) for f in (UNET, VAE, TEXT))
    ),
    "bf16 only": rename(UNET, f"unet/{STEM}.bf16.safetensors", dtype=torch.bfloat16),
    "not averaged only": rename(UNET, f"unet/{STEM}.non_ema.safetensors"),
    "averaged and not": copied,
    "8 bits": rename(UNET, UNET, dtype=torch.float8_e4m3fn),
    "in parts": in_parts,
    "16 bits in parts": lambda folder: in_parts(folder, half=True),
    "a folder that holds it": wrapped,
    "a repository of the hub's cache": of_the_cache,
    "no class": without(INDEX, "_class_name", *NOTHING_SAID),
    "an old class": all_of(config(INDEX, _class_name="MarigoldPipeline"), without(INDEX, *NOTHING_SAID)),
    "scheduler without a class": without(SCHEDULER, "_class_name"),
    "byte order mark": with_bom,
    "steps as a float": config(INDEX, default_denoising_steps=4.0),
    "files of others beside": beside,
    "DDPM": config(SCHEDULER, _class_name="DDPMScheduler", variance_type="fixed_small"),
    "no scaling factor": without("vae/config.json", "scaling_factor"),
}


@pytest.mark.parametrize("layout", LOADS)
def test_layout_loads_and_gives_the_depth_of_the_checkpoint(layout, toy_folder, expected):
    LOADS[layout](toy_folder)
    depth = load_pipeline(str(toy_folder))(PHOTO, SETTINGS).values
    assert np.abs(depth - expected).max() < (0.3 if "8 bits" in layout else 0.02)


def pickled(path: str, name: str):
    def spoil(folder: Path) -> None:
        torch.save(load_file(folder / path), (folder / path).with_name(name))
        (folder / path).unlink()

    return spoil


def one_part_missing(folder: Path) -> None:
    in_parts(folder)
    sorted((folder / "unet").glob("*-of-*"))[1].unlink()


def no_list_of_parts(folder: Path) -> None:
    in_parts(folder)
    (folder / "unet" / f"{STEM}.safetensors.index.json").unlink()


def flat(folder: Path) -> None:
    for path in list(folder.rglob("*")):
        if path.is_file() and path.parent != folder:
            path.replace(folder / path.name)
    for path in [path for path in folder.iterdir() if path.is_dir()]:
        path.rmdir()


def only_unet(folder: Path) -> None:
    for path in list(folder.iterdir()):
        if path.name != "unet":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def pointer(folder: Path) -> None:
    (folder / UNET).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3463642128\n")


def dangling(folder: Path) -> None:
    (folder / UNET).unlink()
    (folder / UNET).symlink_to("../../blobs/gone")


def unet_with(**entries: object):
    def spoil(folder: Path) -> None:
        made = UNet2DConditionModel.from_config(
            {**json.loads((folder / "unet/config.json").read_text()), **entries}
        )
        made.save_pretrained(folder / "unet")

    return spoil


def two_checkpoints(folder: Path) -> None:
    wrapped(folder)
    shutil.copytree(folder / "marigold-depth", folder / "other")


LABELED = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 4}
LIKE_SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}


def quantized(part: str, **how: object):
    return config(f"{part}/config.json", quantization_config=how)


def with_clip(folder: Path) -> None:
    (folder / "image_encoder").mkdir()
    (folder / "image_encoder" / "config.json").write_text('{"architectures": ["CLIP"]}')


def written(path: str, text: str):
    return lambda folder: (folder / path).write_text(text)


EXPLAINED = {
    "pickled unet": (pickled(UNET, f"{STEM}.bin"), f"{STEM}.bin, a pickle, .*{STEM}.safetensors is needed"),
    "pickled text": (pickled(TEXT, "pytorch_model.bin"), "pytorch_model.bin, .* model.safetensors is needed"),
    "renamed": (rename(UNET, "unet/model.safetensors"), f"in model.safetensors; rename .* to {STEM}.safe"),
    "git-LFS pointer": (pointer, f"unet/{STEM}.safetensors of .* is a git-LFS pointer, .* `git lfs pull`"),
    "web page": (written(UNET, "<!DOCTYPE html>" * 9), "is not a safetensors file"),
    "dangling link": (dangling, f"unet/{STEM}.safetensors of .* is a link to a file that is gone"),
    "part missing": (one_part_missing, r"unet has \d+ of \d+ parts .*-00002-of-\d+.safetensors is missing"),
    "no list of parts": (no_list_of_parts, f"{STEM}.safetensors.index.json, which lists them, is missing"),
    "flat": (flat, "lies beside model_index.json instead of in the folder of its part"),
    "unet alone": (only_unet, "model_index.json is missing, it holds unet"),
    "two checkpoints": (two_checkpoints, "holds 2 checkpoints; name one of them: marigold-depth, other"),
    "no scheduler": (lambda f: (f / SCHEDULER).unlink(), f"is not complete: {SCHEDULER} is missing"),
    "Euler": (
        config(SCHEDULER, _class_name="EulerDiscreteScheduler"), "the scheduler Euler.*; .*DDIMScheduler"
    ),
    "own scale": (config(INDEX, scale_invariant=False), "a scale of its own .scale_invariant is false"),
    "own shift": (config(INDEX, shift_invariant=False), "a shift of its own .shift_invariant is false"),
    "Lotus by name": (config(INDEX, _class_name="LotusGPipeline"), "is a Lotus checkpoint"),
    "Lotus by its UNet": (unet_with(**LABELED), "asks for another input .class_embed_type is projection"),
    "GeoWizard": (config(INDEX, _class_name="DepthNormalEstimationPipeline"), "is a GeoWizard checkpoint"),
    "SDXL": (config(INDEX, _class_name="StableDiffusionXLPipeline"), "is a Stable Diffusion XL checkpoint"),
    "SDXL by its UNet": (unet_with(**LIKE_SDXL), "asks for another input as Stable Diffusion XL does"),
    "another image encoder": (with_clip, "image_encoder of .* is of the kind CLIP; only EfficientNetLite"),
    "does not fit": (config("vae/config.json", in_channels=4), "networks of .* do not fit together"),
    "half a step": (config(INDEX, default_denoising_steps=4.5), "4.5 in default_denoising_steps; .* whole"),
    "a million members": (config(INDEX, default_ensemble_size=10**6), "1000000 in default_ensemble_size"),
    "many brackets": (written(INDEX, "[" * 100_000), "model_index.json of .* is damaged"),
    "4-bit": (quantized("unet", quant_method="bitsandbytes"), "unet of .* `pip install bitsandbytes`"),
    "torchao": (quantized("unet", quant_method="torchao"), "unet of .* `pip install torchao`"),
    "quanto": (quantized("unet", quant_method="quanto"), "unet of .* `pip install optimum-quanto`"),
    "sdnq": (quantized("vae", quant_method="sdnq"), "vae of .* `pip install sdnq`"),
    "4-bit text": (quantized("text_encoder", load_in_4bit=True), "text_encoder of .* `pip install bits"),
    "unheard-of": (quantized("unet", quant_method="x" * 99), "by x{40}, which is not known"),
}  # fmt: skip


@pytest.mark.parametrize("layout", EXPLAINED)
def test_layout_is_explained_by_what_is_there_and_what_is_wanted(layout, toy_folder):
    spoil, said = EXPLAINED[layout]
    spoil(toy_folder)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_pipeline(str(toy_folder))
    sentence = str(caught.value)
    assert sentence.endswith(".") and len(sentence) - len(str(toy_folder)) < 300
    assert "Traceback" not in sentence and "another photo" not in sentence


def test_networks_that_fail_at_work_are_the_checkpoints_fault_and_not_the_photos(toy_folder, monkeypatch):
    load_pipeline(str(toy_folder))

    def fail(*_, **__):
        raise ValueError("class_labels should be provided")

    monkeypatch.setattr(UNet2DConditionModel, "forward", fail)
    with pytest.raises(CheckpointError, match=r"networks of .* cannot be run by this app; choose a Marigold"):
        checkpoint.predict(PHOTO, DepthSettings(checkpoint=str(toy_folder), steps=1, resolution=64))


def test_import_errors_of_quantized_weights_name_the_library(toy_folder, monkeypatch):
    monkeypatch.setattr("marigold_demo.network.weights.version", lambda _: "1.0")  # as if it were here

    def refuse(*_, **__):
        raise PackageNotFoundError("bitsandbytes")

    monkeypatch.setattr(UNet2DConditionModel, "from_pretrained", refuse)
    with pytest.raises(CheckpointError, match=r"unet of .* needs bitsandbytes, .* `pip install"):
        load_pipeline(str(toy_folder))


ABSURD = {
    "a billion training steps": ({"num_train_timesteps": 10**9}, "1000000000 in num_train_timesteps"),
    "steps as a float": ({"num_train_timesteps": 1000.5}, "1000.5 in num_train_timesteps"),
    "beta that is none": ({"beta_start": float("nan")}, "nan in beta_start"),
    "beta above 1": ({"beta_end": 12.0}, "12.0 in beta_end"),
    "falling betas": ({"beta_start": 0.5, "beta_end": 0.1}, "0.5 in beta_start; it must not be above"),
    "infinite beta": ({"beta_end": float("inf")}, "inf in beta_end"),
    "beta as a word": ({"beta_start": "seven"}, "seven in beta_start"),
    "offset": ({"steps_offset": 10**12}, "1000000000000 in steps_offset"),
    "negative offset": ({"steps_offset": -5}, "-5 in steps_offset"),
    "unknown noise": ({"beta_schedule": "moon"}, "moon in beta_schedule"),
    "unknown spacing": ({"timestep_spacing": ["leading"]}, "in timestep_spacing"),
    "trained betas": ({"trained_betas": [0.1] * 200_000}, "in trained_betas"),
    "betas that are none": ({"trained_betas": [0.1, float("nan")]}, "in trained_betas"),
}


@pytest.fixture
def small_memory() -> Iterator[None]:
    """Let no allocation of more than 2 GB beyond what is in use succeed."""
    import resource

    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("absurd", ABSURD)
def test_scheduler_with_absurd_numbers_is_refused_before_memory_is_taken(absurd, toy_folder, small_memory):
    entries, said = ABSURD[absurd]
    change(toy_folder / SCHEDULER, **entries)
    with pytest.raises(CheckpointError, match=f"scheduler/scheduler_config.json of .*{re.escape(said)}"):
        load_pipeline(str(toy_folder))


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("unet/config.json", {"block_out_channels": [10**9, 10**9]}),
        ("unet/config.json", {"layers_per_block": 10**9}),
        ("unet/config.json", {"cross_attention_dim": 10**12}),
        ("unet/config.json", {"cross_attention_dim": 10**400}),
        ("unet/config.json", {"transformer_layers_per_block": [10**7, 1]}),
        (
            "unet/config.json",
            {"block_out_channels": [100_000, 100_000]},
        ),  # allowed one by one, not in the weights
        ("unet/config.json", {"down_block_types": ["DownBlock2D"] * 10_000}),
        ("vae/config.json", {"scaling_factor": float("nan")}),
        ("vae/config.json", {"latent_channels": 10**9}),
        ("vae/config.json", {"layers_per_block": -1}),
        ("text_encoder/config.json", {"hidden_size": 10**10}),
        ("text_encoder/config.json", {"num_hidden_layers": 10**9}),
    ],
)
def test_network_of_an_absurd_size_is_refused_before_memory_is_taken(file, entries, toy_folder, small_memory):
    change(toy_folder / file, **entries)
    with pytest.raises(CheckpointError, match=file.split("/")[0] + "|config|networks"):
        load_pipeline(str(toy_folder))


# Whose files may be read


@pytest.fixture
def open_folder(toy_folder) -> Iterator[Path]:
    """Return a toy below a folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        folder = Path(shutil.copytree(toy_folder, Path(name) / "checkpoint"))
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield folder
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)


@contextmanager
def as_another_user() -> Iterator[None]:
    if os.geteuid():
        yield  # what is closed to its owner is closed to this one too
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_saved_prompt_can_be_read_by_whoever_reads_the_rest(toy_folder):
    before = os.umask(0o077)
    try:
        load_pipeline(str(toy_folder))
    finally:
        os.umask(before)
    prompt, index = toy_folder / "empty_prompt.safetensors", toy_folder / INDEX
    assert prompt.stat().st_mode == index.stat().st_mode


@pytest.mark.parametrize("file", [INDEX, UNET, "vae/config.json", "unet"])
def test_file_that_may_not_be_read_is_called_so_and_not_damaged(file, open_folder):
    (open_folder / file).chmod(0)
    with as_another_user(), pytest.raises(CheckpointError, match="may not be read by this user") as caught:
        check_complete(open_folder, name="mine")
    assert file.split("/")[-1] in str(caught.value)


@pytest.mark.parametrize(("above", "mode"), [(True, 0), (False, 0), (False, 0o444)])
def test_folder_that_may_not_be_entered_is_called_so(above, mode, open_folder):
    closed = open_folder.parent if above else open_folder
    closed.chmod(mode)
    try:
        with as_another_user(), pytest.raises(CheckpointError, match="may not be read by this user"):
            checkpoint.local_folder(str(open_folder))
    finally:
        closed.chmod(0o755)


def test_prompt_that_may_not_be_read_is_made_again_where_the_text_encoder_is(
    toy_folder, expected, monkeypatch
):
    prompt = toy_folder / "empty_prompt.safetensors"
    prompt.write_bytes(b"of another user")
    monkeypatch.setattr("marigold_demo.network.weights.may_read", lambda path: path != prompt)
    assert np.abs(load_pipeline(str(toy_folder))(PHOTO, SETTINGS).values - expected).max() < 1e-5


# Names


@pytest.mark.parametrize("file", [UNET, INDEX])
def test_file_of_a_checkpoint_is_answered_with_its_folder(file, toy_folder):
    with pytest.raises(
        CheckpointError, match=f"is a file of the checkpoint {toy_folder.name}, which can be named"
    ):
        load_pipeline(str(toy_folder / file))


def test_other_file_given_as_a_checkpoint_is_called_a_file(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is a file; a folder in diffusers' layout"):
        load_pipeline(str(tmp_path / "model.ckpt"))


HUB_NAME = "prs-eth/marigold-depth-v1-1"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (HUB_NAME, HUB_NAME),
        (f" {HUB_NAME}\n", HUB_NAME),
        (f'"{HUB_NAME}"', HUB_NAME),
        (f"'{HUB_NAME}/'", HUB_NAME),
        (f"“{HUB_NAME}”", HUB_NAME),
        (f"https://huggingface.co/{HUB_NAME}", HUB_NAME),
        (f"https://huggingface.co/{HUB_NAME}/tree/main", HUB_NAME),
        (f"https://huggingface.co/{HUB_NAME}/tree/fp16?x=1#top", f"{HUB_NAME}@fp16"),
        (f"http://hf.co/{HUB_NAME}/blob/refs%2Fpr%2F3/unet/config.json", f"{HUB_NAME}@refs/pr/3"),
        (f"huggingface.co/{HUB_NAME}/", HUB_NAME),
        (f"hf://{HUB_NAME}", HUB_NAME),
        (f"{HUB_NAME}@fp16", f"{HUB_NAME}@fp16"),
        ("embedded", "embedded"),
        ("~/my weights/", "~/my weights"),
        ("/", "/"),
        ("C:\\weights", "C:\\weights"),
        ("https://example.com/a/b", "https://example.com/a/b"),
        ("https://huggingface.co/datasets/a/b", "https://huggingface.co/datasets/a/b"),
    ],
)
def test_name_is_understood_as_it_is_typed_and_pasted(typed, meant):
    assert DepthSettings(checkpoint=typed).checkpoint == meant
    assert DepthSettings(checkpoint=meant).checkpoint == meant


@pytest.mark.parametrize("name", ["x" * 10_000, "a/" * 5000, "a\x00b", "one\ntwo", '"' * 9999])
def test_name_that_is_none_is_refused_in_a_sentence_that_does_not_repeat_it(name):
    with pytest.raises(SettingsError, match="checkpoint must be a name of at most 1000 characters") as caught:
        DepthSettings(checkpoint=name)
    assert len(str(caught.value)) < 100
    with pytest.raises(SettingsError):
        load_pipeline(name)


@pytest.mark.parametrize(
    "name", ["x" * 999, "a/" * 499, f"me/{'x' * 300}", "me/mine@../../refs", "~nobody/x"]
)
def test_odd_name_is_one_sentence(name):
    with pytest.raises(CheckpointError) as caught:
        load_pipeline(name)
    assert len(str(caught.value)) < 700


# The embedded checkpoint


def test_embedded_checkpoint_is_as_it_was_recorded():
    assert changed_file(checkpoint.EMBEDDED_FOLDER) == ""
    recorded = (checkpoint.EMBEDDED_FOLDER / SUMS).read_text()
    for path in checkpoint.EMBEDDED_FOLDER.rglob("*"):
        if path.suffix in (".safetensors", ".json"):
            assert path.relative_to(checkpoint.EMBEDDED_FOLDER).as_posix() in recorded


def test_saving_a_checkpoint_records_its_digests(tmp_path):
    """What training writes is what is copied into the package, digests and all."""
    save_pipeline(toys.make_pipeline(), tmp_path / "saved")
    assert changed_file(tmp_path / "saved") == ""
    before = (tmp_path / "saved" / SUMS).read_bytes()
    write_sums(tmp_path / "saved")
    assert (tmp_path / "saved" / SUMS).read_bytes() == before


def flip(folder: Path, file: str) -> None:
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)


@pytest.mark.parametrize("file", [UNET, SCHEDULER, INDEX, SUMS])
@pytest.mark.parametrize("damage", [flip, lambda folder, file: (folder / file).unlink()])
def test_embedded_checkpoint_that_is_damaged_is_found_by_its_digest(file, damage, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "EMBEDDED_FOLDER", tmp_path / "embedded")
    save_pipeline(toys.make_pipeline(), tmp_path / "embedded")
    load_pipeline("embedded")
    checkpoint.unload()
    damage(tmp_path / "embedded", file)
    with pytest.raises(
        CheckpointError, match=r"embedded checkpoint is damaged: \S+ is not as it was installed"
    ):
        load_pipeline("embedded")


def test_command_line_names_the_damaged_checkpoint_and_not_the_photo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "EMBEDDED_FOLDER", tmp_path / "embedded")
    save_pipeline(toys.make_pipeline(), tmp_path / "embedded")
    flip(tmp_path / "embedded", UNET)
    assert main(["depth", str(draw_photo(tmp_path)), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert f"The embedded checkpoint is damaged: {UNET} is not as it was installed." in told
    assert "another photo" not in told and "Traceback" not in told


def test_checkpoints_that_cannot_be_run_are_refused_without_reading_weights(toy_folder, monkeypatch):
    read = []
    monkeypatch.setattr(checkpoint_folder, "read_network", lambda *_, **__: read.append(1))
    unet_with(**LABELED)(toy_folder)
    with pytest.raises(CheckpointError):
        load_pipeline(str(toy_folder))
    assert not read
