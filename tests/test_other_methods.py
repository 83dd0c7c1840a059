"""Depth networks beside Marigold against transformers' own processors and post-processing, at toy width."""

import json
import math
import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from marigold_demo.app import App
from marigold_demo.catalog import OTHER_METHODS, SMALL, find
from marigold_demo.cli.main import main
from marigold_demo.depth import CancelledError, DepthMap, Run, invert
from marigold_demo.errors import CheckpointError
from marigold_demo.evaluation.evaluate import fit_affine
from marigold_demo.geometry.textured_mesh import ARBITRARY, METERS, build_surface
from marigold_demo.network import checkpoint, feedforward, hub, leres
from marigold_demo.network.checkpoint import load_pipeline, open_pipeline, predict, status
from marigold_demo.network.feedforward import (
    DISPARITY_NOTE,
    FeedForwardPipeline,
    Preprocessing,
    read_feedforward,
)
from marigold_demo.network.hub import check_repository, wanted_files
from marigold_demo.recipe import load_recipe
from marigold_demo.serving.config import Configuration
from marigold_demo.serving.middleware import State
from marigold_demo.settings import DepthSettings, MeshSettings
from marigold_demo.ui.model_picker import refinement
from marigold_demo.ui.session_store import DepthResult
from tests import other_methods
from tests.conftest import make_photo
from tests.loopback_hub import serving
from tests.other_methods import TOYS
from tests.pages import draw_photo

SIZES = [(48, 64), (101, 57)]  # H, W
DISPARITY = ("dpt", "depth_anything")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)
    yield
    checkpoint.unload()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    """Return a folder of each toy, to look at only."""
    folder = tmp_path_factory.mktemp("methods")
    return {kind: other_methods.save(kind, folder / kind) for kind in TOYS}


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """Return a Depth Anything of the test's own."""
    return Path(shutil.copytree(saved["depth_anything"], tmp_path / "mine"))


def run(network, pixels):
    with torch.no_grad():
        return network(torch.as_tensor(np.asarray(pixels), dtype=torch.float32))


def reference(kind: str, rgb: np.ndarray, folder: Path) -> np.ndarray:
    """Return what transformers' own processing gives, [H, W]: disparity or meters."""
    network = other_methods.make(kind)
    said, size = TOYS[kind][1], rgb.shape[:2]
    if kind == "depth_pro":  # its processor needs torchvision: normalized, resized, no antialiasing
        image = torch.tensor(rgb).permute(2, 0, 1)[None].float() / 255 * 2 - 1
        output = run(network, functional.interpolate(image, (64, 64), mode="bilinear"))
        focal = 0.5 * size[1] / math.tan(math.radians(float(output.field_of_view[0])) / 2)
        inverse = functional.interpolate(
            output.predicted_depth[None] * size[1] / focal, size, mode="bilinear"
        )
        return (1 / inverse[0, 0].clamp(1e-4, 1e4)).numpy()
    name = {"zoedepth": "ZoeDepth", "glpn": "GLPN"}.get(kind, "DPT")
    processor = getattr(transformers, f"{name}ImageProcessorPil")(**said)
    pixels = processor(images=rgb, return_tensors="pt").pixel_values
    output = run(network, pixels)
    if kind != "zoedepth":
        [found] = processor.post_process_depth_estimation(output, target_sizes=[size])
        return found["predicted_depth"].numpy()
    # Its post-processing needs torchvision: the mean with the flipped pass, enlarged, without the padding.
    both = (output.predicted_depth + run(network, pixels.flip(-1)).predicted_depth.flip(-1)) / 2
    above, beside = (int(np.sqrt(side / 2) * 3) for side in size)
    whole = (size[0] + 2 * above, size[1] + 2 * beside)
    big = functional.interpolate(both[None], whole, mode="bicubic")[0, 0].numpy()
    return big[above : above + size[0], beside : beside + size[1]]


def in_meters(depth: DepthMap) -> np.ndarray:
    near, far = depth.meters
    return near + depth.values * (far - near)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", TOYS)
def test_depth_equals_that_of_transformers(kind, size, saved):
    photo = make_photo(*size)
    expected = reference(kind, photo.rgb, saved[kind])
    depth = load_pipeline(str(saved[kind]))(photo, DepthSettings())
    assert depth.values.shape == size and depth.values.min() == 0 and depth.values.max() == pytest.approx(1)
    if kind in DISPARITY:
        assert depth.prediction == "affine_disparity" and depth.notes == (DISPARITY_NOTE,)
        found = invert(depth.values)
        found = fit_affine(found, expected)(found)
        span = np.ptp(expected)
    else:
        assert depth.prediction == "metric_depth" and not depth.notes
        found, span = in_meters(depth), 1
    assert np.ptp(expected) > 0.02
    assert np.abs(found - expected).max() < 1e-4 * max(span, 1)


def test_neither_torchvision_nor_cv2_is_loaded(saved, tmp_path):
    """A process of its own: another test may have loaded anything."""
    folders = [str(saved[kind]) for kind in ("zoedepth", "depth_pro", "dpt")]
    program = f"""
import sys
from marigold_demo.network.checkpoint import load_pipeline
from marigold_demo.settings import DepthSettings
from tests.conftest import make_photo
for folder in {folders!r}:
    load_pipeline(folder)(make_photo(40, 50), DepthSettings())
assert not {{"torchvision", "cv2"}} & set(sys.modules)
"""
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "|" not in done.stderr  # no progress bar


class Plane(torch.nn.Module):
    """A made-up network: the disparity of a slanted plane, whatever the photo, of an odd scale and shift."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image):
        height, width = image.shape[-2:]
        rows = (torch.arange(height)[:, None] + 0.5) / height
        columns = (torch.arange(width)[None] + 0.5) / width
        return SimpleNamespace(predicted_depth=(7 * rows + 3 * columns + 40)[None])


def test_disparity_of_a_slanted_plane_gives_a_plane():
    photo = make_photo(90, 120)
    whole = Preprocessing((90, 120))
    depth = FeedForwardPipeline(Plane(), whole, prediction="affine_disparity")(photo, DepthSettings())
    assert depth.values[0, 0] == 1 and depth.values[-1, -1] == 0  # larger is nearer
    vertices = build_surface(depth, photo, MeshSettings(edges="stretch", tolerance=0)).vertices
    center = vertices - vertices.mean(axis=0)
    _, spread, axes = np.linalg.svd(center, full_matrices=False)
    rms = np.sqrt(np.mean((center @ axes[2]) ** 2))
    assert spread[1] > 1 and rms < 1e-3 * np.ptp(vertices, axis=0).max()
    # Taken for depth it would be bent.
    bent = FeedForwardPipeline(Plane(), whole, prediction="affine_depth")(photo, DepthSettings())
    vertices = build_surface(bent, photo, MeshSettings(edges="stretch", tolerance=0)).vertices
    center = vertices - vertices.mean(axis=0)
    axes = np.linalg.svd(center, full_matrices=False)[2]
    assert np.sqrt(np.mean((center @ axes[2]) ** 2)) > 1e-2 * np.ptp(vertices, axis=0).max()


def test_meters_and_field_of_view_reach_the_mesh(saved):
    photo = make_photo(48, 64)
    depth = predict(photo, DepthSettings(checkpoint=str(saved["depth_pro"])))
    made = build_surface(depth, photo, MeshSettings(edges="stretch", tolerance=0))
    assert made.scale_note == METERS and ARBITRARY not in made.notes
    assert (made.camera.near, made.camera.far) == pytest.approx(depth.meters)
    assert -made.vertices[:, 2].min() == pytest.approx(depth.meters[1], rel=0.05)
    assert made.camera.fov_deg == depth.fov_deg and depth.fov_deg > 10
    asked = build_surface(depth, photo, MeshSettings(near_m=7, far_near_ratio=3, fov_deg=60))
    assert (asked.camera.near, asked.camera.far, asked.camera.fov_deg) == (7, 21, 60)
    tall = predict(make_photo(64, 48), DepthSettings(checkpoint=str(saved["depth_pro"])))
    assert tall.fov_deg > depth.fov_deg  # of the long side, of which the network sees the short one


def test_views_give_uncertainty_and_their_mean(saved):
    photo, pipeline = make_photo(48, 64), load_pipeline(str(saved["metric"]))
    mirrored = make_photo(48, 64)
    mirrored.rgb.flags.writeable = True
    mirrored.rgb[:] = photo.rgb[:, ::-1]
    one, other = (in_meters(pipeline(shown, DepthSettings())) for shown in (photo, mirrored))
    both = pipeline(photo, DepthSettings(ensemble=2))
    assert np.abs(in_meters(both) - (one + other[:, ::-1]) / 2).max() < 1e-3
    assert both.uncertainty.max() > 0
    four = load_pipeline(str(saved["depth_anything"]))(photo, DepthSettings(ensemble=4))
    assert four.uncertainty.shape == photo.rgb.shape[:2] and np.isfinite(four.uncertainty).all()


def test_resolution_is_the_longest_edge_and_steps_are_noted(saved):
    photo, pipeline = make_photo(60, 90), load_pipeline(str(saved["depth_anything"]))
    assert pipeline.longest_edge(photo.size, DepthSettings()) == 84  # the short side meets 56
    assert pipeline.longest_edge(photo.size, DepthSettings(resolution=112)) == 112
    assert pipeline.longest_edge(photo.size, DepthSettings(resolution=0)) == 84
    depth = pipeline(photo, DepthSettings(resolution=112, steps=4))
    assert depth.values.shape == (60, 90) and "one step" in depth.notes[1]


def test_run_is_canceled_before_the_network_and_draft_needs_no_download(saved):
    calls = []

    def stop(progress):
        calls.append(progress.stage)
        raise CancelledError

    settings = DepthSettings(checkpoint=str(saved["glpn"]), quality="draft")
    assert status(settings).download_bytes == 0
    with pytest.raises(CancelledError):
        load_pipeline(str(saved["glpn"]))(make_photo(40, 50), settings, Run(stop))
    assert calls == ["predict"]


def test_command_line_takes_such_a_folder_and_its_recipe_says_what_it_predicts(folder, tmp_path, capsys):
    photo = draw_photo(tmp_path)
    assert main(["depth", str(photo), "--checkpoint", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert DISPARITY_NOTE in capsys.readouterr().err
    recipe = load_recipe(tmp_path / "out" / f"{photo.stem}_depth_16bit.png")
    assert recipe.prediction == "affine_disparity" and recipe.revision.startswith("sha256:")
    assert np.load(tmp_path / "out" / f"{photo.stem}_depth.npy").max() == 1


def change(path: Path, **entries: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


PREPROCESSOR = "preprocessor_config.json"
EXPLAINED = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "complete: model.safetensors is missing"),
    "a pickle": (pickled, "pytorch_model.bin, a pickle, .* model.safetensors is needed"),
    "cut off": (cut, "is cut off after"),
    "another kind": (lambda f: change(f / "config.json", model_type="bert"), "of the kind bert, .*Depth Pro"),
    "no depth": (
        lambda f: change(f / "config.json", architectures=["DPTForSemanticSegmentation"]),
        "is a DPTForSemanticSegmentation, which predicts no depth",
    ),
    "another width": (lambda f: change(f / "config.json", fusion_hidden_size=32), "do not fit its config"),
    "absurd": (lambda f: change(f / "config.json", fusion_hidden_size=10**9), "1000000000 in fusion_hidden"),
    "odd prediction": (lambda f: change(f / "config.json", prediction="normals"), "normals in prediction"),
    "size is a word": (lambda f: change(f / PREPROCESSOR, size="large"), f"{PREPROCESSOR} of .* is damaged"),
    "no size": (lambda f: change(f / PREPROCESSOR, size={"height": 0, "width": 5}), "sizes that no network"),
    "two colors": (lambda f: change(f / PREPROCESSOR, image_mean=[0, 0]), "not for photos of three colors"),
}


@pytest.mark.parametrize("layout", EXPLAINED)
def test_layout_is_explained(layout, folder, capsys):
    spoil, said = EXPLAINED[layout]
    spoil(folder)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_pipeline(str(folder))
    assert str(caught.value).endswith(".") and len(str(caught.value)) - len(str(folder)) < 300


def test_what_is_predicted_follows_from_the_config(saved, folder, tmp_path):
    change(folder / "config.json", prediction="affine_depth")
    assert load_pipeline(str(folder)).prediction == "affine_depth"
    outer = tmp_path / "outer"
    shutil.copytree(saved["dpt"], outer / "inner")
    assert load_pipeline(str(outer)).prediction == "affine_disparity"
    assert find("depth-anything/Depth-Anything-V2-Small-hf").prediction == "affine_disparity"
    with pytest.raises(CheckpointError, match="no Marigold, which is needed here"):
        open_pipeline(str(folder))  # training


def test_repository_of_a_network_is_downloaded_without_pickles():
    files = ["README.md", "config.json", "preprocessor_config.json", "model.safetensors", "pytorch_model.bin"]
    check_repository(files, name="me/mine", with_text=True)
    assert wanted_files(files, half=True, with_text=True) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    with pytest.raises(CheckpointError, match=r"network of me/mine has its weights in pytorch_model\.bin"):
        check_repository(["config.json", "pytorch_model.bin"], name="me/mine", with_text=True)


def test_catalog_says_size_kind_and_terms_before_a_download(monkeypatch):
    for known in OTHER_METHODS:
        assert known.prediction != "log_depth" and re.fullmatch(r"[\w-]+/[\w-]+", known.name)
        assert status(DepthSettings(checkpoint=known.name)).download_bytes == known.download_mb * 10**6
    restricted = {known.short_title for known in OTHER_METHODS if known.terms}
    assert restricted == {"Depth Anything V2 Base", "Depth Anything V2 Large", "Depth Pro"}


def test_command_line_says_the_terms_before_the_network_is_asked_for(tmp_path, capsys):
    def refuse(*_):
        assert "no commercial use" in capsys.readouterr().err
        raise CheckpointError("Not here.")

    arguments = ["--checkpoint", "apple/DepthPro-hf", "--out", str(tmp_path)]
    assert main(["depth", str(draw_photo(tmp_path)), *arguments], predict=refuse) == 2


# LeReS


@pytest.mark.parametrize(
    ("encoder", "entries", "million"), [("resnet50", 406, 52.13), ("resnext101", 712, 115.36)]
)
def test_leres_has_the_sizes_of_the_published_weights(encoder, entries, million):
    with torch.device("meta"):
        network = leres.LeReS(encoder)
    shapes = {name: tuple(weights.shape) for name, weights in network.state_dict().items()}
    assert len(shapes) == entries
    assert sum(weights.numel() for weights in network.parameters()) / 1e6 == pytest.approx(million, abs=0.01)
    assert shapes["decoder_modules.ffm2.ftb1.conv1.weight"] == (256, 1024, 3, 3)
    assert shapes["decoder_modules.outconv.adapt_conv.3.weight"] == (1, 128, 3, 3)


def test_a_large_encoder_multiplies_in_16_bits_and_depth_has_no_steps(saved, monkeypatch):
    photo = make_photo(64, 48)
    plain = read_feedforward(saved["depth_anything"], name="toy")
    assert plain.encode_in(torch.bfloat16).encoder_dtype is None  # it is small
    expected = plain(photo, DepthSettings(outlines="network")).values
    monkeypatch.setattr(feedforward, "LARGE_ENCODER", 0)
    half = plain.encode_in(torch.bfloat16)(photo, DepthSettings(outlines="network")).values
    assert 0 < np.abs(half - expected).max() < 0.05
    assert len(np.unique(half)) > 0.9 * len(np.unique(expected)) > 1000
    assert "encoder bfloat16" in checkpoint.device_name(plain)


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("controlnet_aux") is None, reason="pip install --no-deps controlnet-aux==0.0.10"
)
@pytest.mark.parametrize("encoder", ["resnet50", "resnext101"])
def test_leres_equals_the_class_of_controlnet_aux(encoder, monkeypatch):
    root = Path(find_spec("controlnet_aux").submodule_search_locations[0])
    for name, place in (("controlnet_aux", root), ("controlnet_aux.leres", root / "leres")):
        package = ModuleType(name)  # its own __init__ would import torchvision
        package.__path__ = [str(place)]
        monkeypatch.setitem(sys.modules, name, package)
    theirs = (
        import_module("controlnet_aux.leres.leres.multi_depth_model_woauxi").RelDepthModel(encoder).eval()
    )
    ours = leres.LeReS(encoder).eval()
    weights = theirs.state_dict()
    ours.load_state_dict({name.removeprefix("depth_model."): value for name, value in weights.items()})
    rgb = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        expected = theirs.depth_model(rgb)[:, 0]
        assert (ours(rgb).predicted_depth - expected).abs().max() < 1e-6 < expected.std()


@pytest.fixture
def published(monkeypatch, tmp_path) -> Path:
    """Return a folder with a narrow LeReS in the form in which its authors publish it."""
    monkeypatch.setattr(leres, "FUSED", 16)
    monkeypatch.setitem(leres.ENCODERS, "resnet50", leres.Encoder((1, 1, 1, 1), width=8, channels=16))
    torch.manual_seed(3)
    weights = leres.LeReS("resnet50").state_dict()
    folder = tmp_path / "LeReS"
    folder.mkdir()
    stored = {f"module.depth_model.{name}": value for name, value in weights.items()}
    torch.save({"depth_model": stored, "epoch": 3}, folder / "res50.pth")
    return folder


def test_published_leres_is_read_and_converted_once(published, tmp_path):
    photo, settings = make_photo(48, 64), DepthSettings(checkpoint=str(published))
    depth = predict(photo, settings)
    assert depth.prediction == "affine_depth" and depth.notes == (leres.TERMS,) and depth.meters is None
    assert {path.name for path in published.iterdir()} == {"config.json", "model.safetensors", "res50.pth"}
    # Float32 pixels, ImageNet's mean and deviation, 448 x 448 whatever the shape, and back.
    stored = torch.load(published / "res50.pth", weights_only=True)["depth_model"]
    network = leres.LeReS("resnet50").eval()
    network.load_state_dict({name.removeprefix("module.depth_model."): v for name, v in stored.items()})
    mean, std = (
        torch.tensor(other_methods.IMAGENET[f"image_{what}"])[:, None, None] for what in ("mean", "std")
    )
    image = (torch.tensor(photo.rgb).permute(2, 0, 1) / 255 - mean) / std
    seen = functional.interpolate(image[None], (448, 448), mode="bilinear")
    raw = functional.interpolate(run(network, seen).predicted_depth[None], (48, 64), mode="bilinear")[0, 0]
    expected = ((raw - raw.min()) / (raw.max() - raw.min())).numpy()
    assert np.abs(depth.values - expected).max() < 1e-4
    (published / "res50.pth").unlink()
    checkpoint.unload()
    again = predict(photo, settings)
    assert np.array_equal(again.values, depth.values)


def test_leres_that_cannot_be_read_is_explained(published):
    whole = (published / "res50.pth").read_bytes()
    (published / "res50.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        CheckpointError, match=r"res50\.pth of .* is damaged, or not of a LeReS with resnet50"
    ):
        load_pipeline(str(published))

    class Harmful:
        def __reduce__(self):
            return Path.touch, (published / "ran",)

    torch.save({"depth_model": Harmful()}, published / "res50.pth")
    with pytest.raises(CheckpointError, match=r"res50\.pth of .* is damaged"):
        load_pipeline(str(published))
    assert not (published / "ran").exists()
    (published / "config.json").write_text('{"model_type": "leres", "encoder": "vgg"}')
    (published / "res50.pth").rename(published / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"vgg in encoder|not a safetensors"):
        load_pipeline(str(published))


def test_the_small_model_is_offered_downloaded_once_and_used_without_the_hub(saved, tmp_path, monkeypatch):
    steps, photo, settings = [], make_photo(40, 50), DepthSettings(checkpoint=SMALL.name)
    draft = DepthResult(photo, DepthMap(np.zeros((40, 50), np.float32)), DepthSettings())
    both = {SMALL.name: saved["depth_anything"], checkpoint.BEST: saved["dpt"]}
    with serving(both, cache=tmp_path / "cache") as loopback:
        monkeypatch.setattr(hub, "_answered", {})
        assert refinement(status, draft).words == "Refine · 99 MB · about 1 s"
        depth = predict(photo, settings, Run(steps.append))
        assert steps[0].stage == "download" and depth.prediction == "affine_disparity"
        assert len(depth.revision) == 40  # the hub's commit
        checkpoint.unload()
        asked = len(loopback.asked)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr(hub, "_answered", {})
        assert refinement(status, draft).words == "Refine with Depth Anything V2 Small"
        app = App(Configuration(checkpoint=SMALL.name))  # the page's default
        app.warm_up()
        assert app.service.health.state is State.READY and app.first_checkpoint == SMALL.name
        np.testing.assert_array_equal(predict(photo, settings).values, depth.values)
        assert len(loopback.asked) == asked
        checkpoint.unload()
