"""The depth that phones put into portrait photos: read from the photo, on the command line, in the page."""

import base64
import hashlib
import io
import struct
from pathlib import Path

import gradio as gr
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from marigold_demo.cli.main import DONE, WRONG, main
from marigold_demo.errors import PhotoError
from marigold_demo.io.photo import Photo, decode_photo
from marigold_demo.settings import DepthSettings
from marigold_demo.ui.layers import DEPTH, PHOTO, DepthStyle
from marigold_demo.ui.session_store import SessionStore
from marigold_demo.workflow import Workflow, phone_depth
from tests.pages import LENIENT, make_tabs
from tests.picture_files import encoded, quarters
from tests.predictors import stepwise

RAMP = np.linspace(0, 255, 60).round().astype(np.uint8)[None].repeat(40, axis=0)  # [40, 60]
GDEPTH = "http://ns.google.com/photos/1.0/depthmap/"
DYNAMIC = "http://ns.google.com/photos/dd/1.0/depthmap/"
PLAIN = encoded(quarters(), "JPEG")
XMP, EXTENSION = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
RDF = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
NEAR, FAR = 0.3, 4.1


def read(data: bytes) -> Photo:
    return decode_photo(io.BytesIO(data), name="portrait.jpg")


def segment(data: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(data) + 2) + data


def with_xmp(jpeg: bytes, xmp: str, extended: str = "") -> bytes:
    """A JPEG with XMP, and extended XMP in results that do not come in their order."""
    data = extended.encode()
    guid = hashlib.md5(data).hexdigest().upper()
    results = [
        segment(EXTENSION + guid.encode() + struct.pack(">2I", len(data), at) + data[at : at + 500])
        for at in range(0, len(data), 500)
    ]
    whole = f"{RDF}{xmp.replace('GUID', guid)}</rdf:RDF></x:xmpmeta>".encode()
    return jpeg[:2] + segment(XMP + whole) + b"".join(reversed(results)) + jpeg[2:]


def gdepth(
    form: str,
    *,
    jpeg: bytes = PLAIN,
    extended: bool = True,
    levels: np.ndarray = RAMP,
    as_element: bool = False,
) -> bytes:
    picture = base64.b64encode(encoded(levels, "PNG")).decode()
    facts = f'GDepth:Format="{form}" GDepth:Near="{NEAR}" GDepth:Far="{FAR}" GDepth:Mime="image/png"'
    begin = f'<rdf:Description rdf:about="" xmlns:GDepth="{GDEPTH}"'
    if as_element:
        return with_xmp(jpeg, f"{begin} {facts}><GDepth:Data>{picture}</GDepth:Data></rdf:Description>")
    if not extended:
        return with_xmp(jpeg, f'{begin} {facts} GDepth:Data="{picture}"/>')
    note = 'xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="GUID"'
    return with_xmp(jpeg, f"{begin} {facts} {note}/>", f'{RDF}{begin} GDepth:Data="{picture}"/></rdf:RDF>')


def dynamic_depth(*, own_name: str = "android/depthmap", semantic: str = "") -> bytes:
    depth, other = encoded(RAMP, "JPEG", quality=100), encoded(255 - RAMP, "JPEG")
    item = "<rdf:li><Container:Item Item:Mime='image/jpeg' {}/></rdf:li>"
    meaning = f'Item:Semantic="{semantic}"' if semantic else f'Item:DataURI="{own_name}"'
    xmp = (
        f'<rdf:Description xmlns:DepthMap="{DYNAMIC}" DepthMap:Format="RangeInverse" DepthMap:Near="{NEAR}"'
        f' DepthMap:Far="{FAR}" DepthMap:DepthURI="{own_name}" xmlns:Item="i" xmlns:Container="c">'
        "<Container:Directory><rdf:Seq>"
        + item.format('Item:DataURI="primary_image"')
        + item.format(f'Item:Length="{len(other)}" Item:DataURI="android/original_image"')
        + item.format(f'Item:Length="{len(depth)}" {meaning}')
        + item.format(f'Item:Length="{len(other)}" Item:DataURI="android/confidencemap"')
        + "</rdf:Seq></Container:Directory></rdf:Description>"
    )
    return with_xmp(encoded(quarters(), "JPEG"), xmp) + other + depth + other


def heic_with_depth() -> bytes:
    """A HEIC whose auxiliary picture is called depth; pillow-heif writes none, but for alpha."""
    pillow_heif.register_heif_opener()
    rgba = np.dstack([quarters(), np.linspace(0, 255, 144).astype(np.uint8)[None].repeat(96, axis=0)])
    return encoded(rgba, "HEIF", quality=95).replace(b"hevc:2015:auxid:1", b"hevc:2015:auxid:2")


# What is found


def distance_of(levels: np.ndarray) -> np.ndarray:
    """What the format says: 0 is near, 255 far, in steps of inverse distance; brought into 0..1."""
    distance = FAR * NEAR / (FAR - levels / 255 * (FAR - NEAR))
    return (distance - NEAR) / (FAR - NEAR)


@pytest.mark.parametrize("options", [{}, {"extended": False}, {"as_element": True}])
def test_gdepth_is_found_and_its_inverse_depth_is_turned_into_distance(options):
    photo = read(gdepth("RangeInverse", **options))
    assert photo.phone_depth_kind == "GDepth" and photo.phone_depth.dtype == np.float32
    np.testing.assert_allclose(photo.phone_depth, distance_of(RAMP), atol=1e-5)
    assert photo.notes == ()


def test_linear_gdepth_of_16_bits_is_taken_as_it_is():
    levels = np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)
    np.testing.assert_allclose(
        read(gdepth("RangeLinear", levels=levels)).phone_depth, levels / 65535, atol=1e-6
    )


@pytest.mark.parametrize("names", [{}, {"own_name": "depth/of/mine"}, {"semantic": "Depth"}])
def test_dynamic_depth_is_found_behind_the_photo(names):
    photo = read(dynamic_depth(**names))
    assert photo.phone_depth_kind == "Dynamic Depth"
    np.testing.assert_allclose(photo.phone_depth, distance_of(RAMP), atol=0.03)


def test_disparity_of_a_heic_is_turned_into_depth():
    photo = read(heic_with_depth())
    assert photo.phone_depth_kind == "HEIC" and photo.phone_depth.shape == (96, 144)
    np.testing.assert_allclose(photo.phone_depth[40], np.linspace(1, 0, 144), atol=0.03)
    assert photo.alpha is None


def test_depth_of_a_heic_that_tells_its_range_is_distance():
    from marigold_demo.io.phone_depth import heic_distance

    levels = np.linspace(0, 1, 9, dtype=np.float32)[None]
    told = {"representation_type": 1, "d_min": 0.25, "d_max": 2.0}
    np.testing.assert_allclose(heic_distance(levels, told), 1 / (0.25 + levels * 1.75), rtol=1e-6)
    planes = {"representation_type": 0, "z_near": 0.5, "z_far": 4.0}
    np.testing.assert_allclose(heic_distance(levels, planes), 1 / (0.25 + levels * 1.75), rtol=1e-6)
    np.testing.assert_array_equal(heic_distance(levels, {"representation_type": 2}), levels)


def test_depth_is_turned_as_its_photo_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = read(gdepth("RangeLinear", jpeg=encoded(quarters(), "JPEG", exif=exif)))
    assert photo.size == (96, 144)
    np.testing.assert_allclose(photo.phone_depth, np.rot90(RAMP, -1) / 255, atol=1e-6)


def test_depth_of_another_shape_is_stretched_to_its_photo():
    photo = read(gdepth("RangeLinear", levels=RAMP[:36]))
    assert photo.phone_depth.shape == (40, 60)
    assert read(gdepth("RangeLinear", levels=RAMP.T.copy())).phone_depth is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.replace(b"iVBOR", b"!!!!!", 1),
        lambda data: data.replace(b"GDepth:Data", b"GDepth:Date", 1),
        lambda data: data.replace(EXTENSION[:20], b"x" * 20),
        lambda data: gdepth("RangeInverse", levels=np.full((40, 60), 7, np.uint8)),
        lambda data: dynamic_depth()[:-40],
        lambda data: dynamic_depth().replace(b'Item:Length="', b'Item:Length="9999'),
        lambda data: dynamic_depth().replace(b'Item:Length="', b'Item:Length="x'),
    ],
)
def test_damaged_depth_costs_no_photo(damage):
    photo = read(damage(gdepth("RangeInverse")))
    assert photo.size == (144, 96)
    assert photo.phone_depth is None and photo.phone_depth_kind == ""


def test_near_and_far_that_mean_nothing_leave_the_levels():
    data = gdepth("RangeInverse").replace(b'Near="0.3"', b'Near="nan"')
    np.testing.assert_allclose(read(data).phone_depth, RAMP / 255, atol=1e-6)


def test_a_photo_without_depth_has_none():
    assert read(encoded(quarters(), "JPEG")).phone_depth is None


# Where it is offered


class Never:
    """A predictor that must not be asked."""

    @stepwise
    def __call__(self, photo: Photo, settings: DepthSettings):
        raise AssertionError("the network was asked")
        yield


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    path = tmp_path / "portrait.jpg"
    path.write_bytes(gdepth("RangeLinear"))
    return path


def test_depth_from_the_phone_on_the_command_line(portrait, tmp_path, capsys):
    out = tmp_path / "out"
    for command in ("depth", "relief", "mesh"):
        arguments = [command, str(portrait), "--out", str(out), "--depth-source", "phone"]
        assert main(arguments, predict=Never()) == DONE
    np.testing.assert_allclose(np.load(out / "portrait_depth.npy"), RAMP / 255, atol=1e-6)
    assert list(out.glob("portrait_relief_*.stl")) and (out / "portrait_mesh.glb").is_file()


def test_where_there_is_no_depth_inside_the_command_line_says_so(tmp_path, capsys):
    path = tmp_path / "plain.jpg"
    path.write_bytes(encoded(quarters(), "JPEG"))
    np.save(tmp_path / "depth.npy", RAMP / 255)
    for source, words in ((path, "no depth inside this photo"), (tmp_path / "depth.npy", "is a depth file")):
        arguments = ["relief", str(source), "--out", str(tmp_path / "out"), "--depth-source", "phone"]
        assert main(arguments, predict=Never()) == WRONG
        assert words in capsys.readouterr().err


@LENIENT
def test_depth_from_the_phone_stands_beside_the_prediction_in_the_page(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    store = SessionStore(Workflow(Never()))
    with_depth, without = read(gdepth("RangeLinear")), read(encoded(quarters(), "JPEG"))
    assert with_depth.digest == without.digest  # which no prediction may be kept by
    tabs, style = make_tabs(store), vars(DepthStyle()).values()
    for photo in (with_depth, without):
        key = store.add_photo(photo)
        [button] = tabs.photo.show_phone_button(key).values()
        assert button.visible is (photo is with_depth)
    [button] = tabs.photo.show_phone_button(None).values()
    assert button.visible is False
    with pytest.raises(PhotoError, match="no depth inside"):
        tabs.depth.take_phone_depth(key, PHOTO, DEPTH, *style)
    key = store.add_photo(with_depth)
    shown = tabs.depth.take_phone_depth(key, PHOTO, DEPTH, *style)
    result = store.result(shown[tabs.depth.key])
    assert result.name == "Depth from the phone" and result.settings is None
    np.testing.assert_array_equal(result.depth.values, with_depth.phone_depth)
    assert shown[tabs.photo.run].interactive and "phone" in shown[tabs.photo.status]
    assert isinstance(shown[tabs.depth.stage], gr.Column)
    assert store.workflow.kept_bytes == 0


def test_the_depth_map_has_the_resolution_of_the_phone():
    assert phone_depth(read(gdepth("RangeLinear"))).size == (60, 40)
