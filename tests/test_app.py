"""The endpoints for programs, through the real server and client."""

import io
import urllib.request

import numpy as np
import pytest
import trimesh
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from marigold_demo.io.photo import load_photo
from marigold_demo.recipe import load_recipe
from marigold_demo.settings import DepthSettings
from tests.pages import LENIENT, Ball, ball, draw_photo, readme_examples, served
from tests.predictors import stepwise

pytestmark = [pytest.mark.slow, LENIENT]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="module")
def predict():
    return Ball()


@pytest.fixture(scope="module")
def client(folder, predict):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
        with served(predict) as url:
            yield Client(url, verbose=False, download_files=str(folder / "downloads"))


@pytest.fixture(scope="module")
def photo(folder):
    return draw_photo(folder)


@pytest.fixture(scope="module")
def depth_files(client, photo):
    return client.predict(handle_file(photo), api_name="/depth")


def test_a_photo_becomes_three_depth_files_of_its_size(depth_files):
    npy, png16, colored = depth_files
    values = np.load(npy)
    assert (values.shape, values.dtype) == ((480, 640), np.float32)
    assert 0 <= values.min() < values.max() <= 1
    np.testing.assert_array_equal(values, ball(480, 640))
    with Image.open(png16) as image:
        assert image.mode == "I;16"
        assert np.abs(np.asarray(image) / 65535 - values).max() <= 0.5 / 65535 + 1e-7
    with Image.open(colored) as image:
        assert (image.mode, image.size) == ("RGB", (640, 480))


def test_the_example_in_the_readme_works(client, photo, folder, monkeypatch):
    [example] = [text for text in readme_examples() if "handle_file" in text]
    monkeypatch.chdir(folder)
    (folder / "photo.jpg").write_bytes(photo.read_bytes())
    made = {}
    exec(example.replace("http://127.0.0.1:7860", client.src), made)
    assert np.load(made["npy"]).shape == (480, 640)
    assert max(trimesh.load(made["stl"]).extents) == pytest.approx(120, abs=0.01)
    assert trimesh.load(made["glb"]).geometry


def test_depth_files_carry_a_recipe(depth_files, photo):
    recipe = load_recipe(depth_files[1])
    assert recipe.photo == load_photo(photo).digest and recipe.depth == DepthSettings()


def test_files_are_named_after_the_photo(depth_files):
    names = [path.replace("\\", "/").split("/")[-1] for path in depth_files]
    assert names == ["holiday_depth.npy", "holiday_depth_16bit.png", "holiday_depth_colored.png"]


def test_the_same_photo_is_predicted_once(client, photo, depth_files, predict):
    runs = predict.runs
    client.predict(handle_file(photo), colormap="magma", api_name="/depth")
    assert predict.runs == runs


def test_depth_becomes_a_relief_of_the_asked_size(client, depth_files, predict):
    runs = predict.runs
    path = client.predict(handle_file(depth_files[1]), width_mm=80, resolution=256, api_name="/relief")
    solid = trimesh.load(path)
    assert solid.is_volume
    assert solid.extents[0] == pytest.approx(80, abs=1e-3)
    assert "holiday_relief_80x" in path
    assert predict.runs == runs


def test_earlier_spellings_are_taken_by_the_endpoints(client, depth_files):
    options = {"resolution": 128, "width_mm": 60, "api_name": "/relief"}
    now, earlier = (
        client.predict(handle_file(depth_files[1]), mode=mode, material=material, **options)
        for mode, material in (("mold", "aluminum"), ("mould", "aluminium"))
    )
    assert open(now, "rb").read() == open(earlier, "rb").read()


def test_depth_and_photo_become_a_textured_mesh(client, depth_files, photo):
    path = client.predict(handle_file(depth_files[0]), handle_file(photo), resolution=256, api_name="/mesh")
    (surface,) = trimesh.load(path).geometry.values()
    assert surface.visual.uv.shape == (len(surface.vertices), 2)
    assert surface.visual.material.baseColorTexture.size == (640, 480)


def test_settings_out_of_range_get_a_sentence_that_names_them(client, depth_files):
    with pytest.raises(AppError, match=r"width_mm is 5; it must be a number from 10 to 1000 mm"):
        client.predict(handle_file(depth_files[0]), width_mm=5, api_name="/relief")


def test_a_file_that_is_no_photo_gets_a_sentence(client, folder):
    (folder / "story.jpg").write_bytes(b"%PDF-1.7 once upon a time")
    with pytest.raises(AppError, match="PDF"):
        client.predict(handle_file(folder / "story.jpg"), api_name="/depth")


def test_depth_of_other_tools_is_read_as_it_is_said(client, folder):
    white_near = np.round(255 * (1 - ball(48, 64))).astype(np.uint8)
    Image.fromarray(white_near).save(folder / "gray.png")  # 8 bits, as any photo

    def height(near_is):
        options = {"near_is": near_is, "resolution": 128, "frame": "none", "api_name": "/relief"}
        vertices = trimesh.load_mesh(client.predict(handle_file(folder / "gray.png"), **options)).vertices
        middle = np.abs(vertices[:, :2] - vertices[:, :2].max(axis=0) / 2).max(axis=1) < 3
        return vertices[middle, 2].max()

    assert height("white") > height("black") + 1
    frames = np.stack([ball(48, 64), ball(48, 64)[::-1]])
    np.save(folder / "video.npy", frames)
    with pytest.raises(AppError, match="frame must be from 0 to 1"):
        client.predict(handle_file(folder / "video.npy"), depth_frame=2, api_name="/mesh")
    assert client.predict(handle_file(folder / "video.npy"), depth_frame=1, api_name="/mesh")
    with pytest.raises(AppError, match="send it to /relief or /mesh"):
        client.predict(handle_file(folder / "video.npy"), api_name="/depth")


def test_a_photo_of_another_shape_is_refused(client, depth_files, folder):
    other = draw_photo(folder, "tall.png", size=(300, 480))
    with pytest.raises(AppError, match="not the same shape"):
        client.predict(handle_file(depth_files[0]), handle_file(other), api_name="/mesh")


def test_only_the_documented_endpoints_are_public(client):
    assert sorted(client.view_api(return_format="dict")["named_endpoints"]) == ["/depth", "/mesh", "/relief"]


def test_every_answer_has_security_headers(client):
    with urllib.request.urlopen(client.src) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_other_files_of_the_server_cannot_be_named(client):
    stolen = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError):
        client.predict(stolen, api_name="/depth")


def test_the_real_pipeline_stands_behind_the_page(photo, folder, toy_folder, monkeypatch):
    from marigold_demo.network import checkpoint

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
    with served(checkpoint.predict) as url:
        client = Client(url, verbose=False, download_files=str(folder / "downloads"))
        npy, *_ = client.predict(
            handle_file(photo), checkpoint=str(toy_folder), steps=1, resolution=64, api_name="/depth"
        )
    values = np.load(npy)
    assert values.shape == (480, 640)
    assert 0 <= values.min() < values.max() <= 1


def test_an_error_nobody_foresaw_is_one_calm_sentence_and_is_logged(photo, folder, monkeypatch, caplog):
    @stepwise
    def breaks(photo, settings):
        raise ZeroDivisionError("secret detail")
        yield

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder / "cache"))
    with served(breaks) as url:
        client = Client(url, verbose=False, download_files=str(folder / "downloads"))
        with pytest.raises(AppError) as raised:
            client.predict(handle_file(photo), api_name="/depth")
    assert "Something went wrong on our side" in str(raised.value)
    assert "secret" not in str(raised.value)
    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)


def test_a_picture_with_transparency_is_composited_on_white(client, folder):
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 48), (255, 0, 255, 0)).save(buffer, "PNG")
    (folder / "ghost.png").write_bytes(buffer.getvalue())
    npy, *_ = client.predict(handle_file(folder / "ghost.png"), api_name="/depth")
    assert np.load(npy).shape == (48, 64)
