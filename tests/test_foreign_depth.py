"""Depth of other tools: every form is read alike, and values are understood or what was taken is said."""

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.depth import DepthMap
from marigold_demo.errors import DepthFileError
from marigold_demo.geometry.heightfield import resample
from marigold_demo.geometry.relief import build_relief
from marigold_demo.io import export, isolated
from marigold_demo.io.depth_file import DepthFile, decode_depth, depth_form, read_depth_file
from marigold_demo.recipe import Recipe
from marigold_demo.settings import ReliefSettings
from tests.pages import ball

H, W = 48, 64
Floats = NDArray[np.float64]


def scene() -> tuple[Floats, NDArray[np.bool_]]:
    """Return meters [H, W] of a house on a plain under the sky, and where the sky is; nothing of it is 0."""
    row, column = np.mgrid[0:H, 0:W]
    metres = np.full((H, W), np.inf)
    metres[30:] = (20 - (row - 30) * 18 / 17)[30:]  # 20 m at the horizon, 2 m below
    house = (row >= 12) & (row < 36) & (column >= 20) & (column < 45)
    metres[house] = (8 + column * 0.02 + row * 0.01)[house]
    return metres, ~np.isfinite(metres)


METRES, SKY = scene()
KNOWN = np.where(SKY, 20.0, METRES)
UNIT = (KNOWN - 2) / 18  # 0 near .. 1 far, the sky as far as the horizon
U8, U16 = np.round(UNIT * 255).astype(np.uint8), np.round(UNIT * 65535).astype(np.uint16)
MM = np.round(KNOWN * 1000).astype(np.uint16)


def alike(depth: Floats, other: Floats = UNIT) -> float:
    return float(np.corrcoef(depth.ravel(), other.ravel())[0, 1])


def real_range(read: DepthFile) -> float:
    """Return how much of 0..1 the scene takes without its sky."""
    return float(np.ptp(read.depth.values[~SKY]))


def read(data: bytes, **options: object) -> DepthFile:
    return decode_depth(io.BytesIO(data), **options)


# -- writers -----------------------------------------------------------------------------------------


def npy(array: NDArray, **options: object) -> bytes:
    data = io.BytesIO()
    np.save(data, array, **options)
    return data.getvalue()


def npz(**arrays: NDArray) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    return data.getvalue()


def saved(array: NDArray, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    Image.fromarray(array).save(data, kind, **options)
    return data.getvalue()


def png16(*channels: NDArray[np.uint16]) -> bytes:
    """Return a 16-bit PNG of 2, 3 or 4 channels, whose rows use all five filters in turn."""
    pixels = np.stack(channels, axis=-1).astype(">u2")
    step, raw = 2 * len(channels), pixels.view(np.uint8).reshape(len(pixels), -1).astype(int)
    left, up = np.zeros_like(raw), np.zeros_like(raw)
    left[:, step:], up[1:] = raw[:, :-step], raw[:-1]
    corner = np.zeros_like(raw)
    corner[1:, step:] = raw[:-1, :-step]
    guess = left + up - corner
    distances = np.stack([abs(guess - left), abs(guess - up), abs(guess - corner)])
    paeth = np.choose(distances.argmin(axis=0), [left, up, corner])
    rows = b""
    for number, row in enumerate(raw):
        kind = number % 5
        predicted = (0 * row, left[number], up[number], (left[number] + up[number]) // 2, paeth[number])[kind]
        rows += bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
    header = struct.pack(">IIBBBBB", W, H, 16, {2: 4, 3: 2, 4: 6}[len(channels)], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def pfm(array: NDArray, order: str = "<", kind: str = "Pf") -> bytes:
    head = f"{kind}\n{W} {H}\n{'-' if order == '<' else ''}1.000000\n".encode()
    return head + array[::-1].astype(f"{order}f4").tobytes()


def tiff(array: NDArray, *, photometric: int = 1, deflated: bool = False, order: str = "<") -> bytes:
    """Return a TIFF of one strip and any number type."""
    body = array.astype(array.dtype.newbyteorder(order)).tobytes()
    body = zlib.compress(body) if deflated else body
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    tags = {256: W, 257: H, 258: 8 * array.itemsize, 259: 8 if deflated else 1, 262: photometric}
    tags |= {273: 8, 277: 1, 278: H, 279: len(body), 339: kind}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(body))
    return head + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def exr(compression: int = 3, **channels: NDArray) -> bytes:
    """Return an OpenEXR picture of scan lines: 0 uncompressed, 1 RLE, 2 ZIP of lines, 3 ZIP of 16 lines."""

    def attribute(name: str, kind: str, data: bytes) -> bytes:
        return f"{name}\0{kind}\0".encode() + struct.pack("<I", len(data)) + data

    def packed(raw: bytes) -> bytes:
        halves = raw[::2] + raw[1::2]
        steps = np.diff(np.frombuffer(halves, np.uint8), prepend=np.uint8(128)) + np.uint8(128)
        if compression > 1:
            return zlib.compress(steps.tobytes())
        runs = b""  # pairs of equal bytes as runs, all others as they are
        for at in range(0, len(steps), 2):
            pair = steps[at : at + 2].tobytes()
            runs += (
                b"\x01" + pair[:1]
                if len(set(pair)) == 1 and len(pair) == 2
                else bytes([256 - len(pair)]) + pair
            )
        return runs

    named = sorted((name.replace("__", "."), values) for name, values in channels.items())
    kinds = {"float32": 2, "float16": 1, "uint32": 0}
    listed = b"".join(
        name.encode() + b"\0" + struct.pack("<IIii", kinds[values.dtype.name], 0, 1, 1)
        for name, values in named
    )
    window = struct.pack("<4i", 5, -3, W + 4, H - 4)  # need not begin at 0
    head = b"v/1\x01\x02\0\0\0" + attribute("channels", "chlist", listed + b"\0")
    head += attribute("compression", "compression", bytes([compression]))
    head += attribute("dataWindow", "box2i", window) + attribute("owner", "string", b"me" * 300) + b"\0"
    step, chunks = 16 if compression == 3 else 1, []
    for top in range(0, H, step):
        lines = range(top, min(top + step, H))
        raw = b"".join(values[line].tobytes() for line in lines for _, values in named)
        body = packed(raw) if compression else raw
        body = body if len(body) < len(raw) else raw
        chunks.append(struct.pack("<iI", top - 3, len(body)) + body)
    starts = np.cumsum([len(head) + 8 * len(chunks), *map(len, chunks[:-1])])
    return head + starts.astype("<u8").tobytes() + b"".join(chunks)


def forms() -> dict[str, tuple[bytes, float]]:
    """Return one scene in many forms, and the largest error of each."""
    f4, fine, coarse = UNIT.astype(np.float32), 0.51 / 65535, 0.51 / 255
    two_pages = io.BytesIO()
    pages = [Image.fromarray(page) for page in (f4, 1 - f4)]
    pages[0].save(two_pages, "TIFF", save_all=True, append_images=pages[1:])
    gray = np.repeat(U8[..., None], 3, 2)
    full = np.full_like(U16, 65535)
    return {
        "pfm": (pfm(f4), 1e-6),
        "pfm, other byte order": (pfm(f4, ">"), 1e-6),
        "pfm, three channels": (pfm(np.repeat(f4[..., None], 3, 2), kind="PF"), 1e-6),
        "tiff, 16 bits": (saved(U16, "TIFF"), fine),
        "tiff, 16 bits, white is zero": (tiff(65535 - U16, photometric=0), fine),
        "tiff, 16 bits, other byte order": (tiff(U16, order=">"), fine),
        "tiff, 16 bits, packed": (saved(U16, "TIFF", compression="tiff_lzw"), fine),
        "tiff, float32": (saved(f4, "TIFF"), 1e-6),
        "tiff, float32, deflated": (saved(f4, "TIFF", compression="tiff_adobe_deflate"), 1e-6),
        "tiff, float64": (tiff(UNIT), 1e-6),
        "tiff, float64, deflated, other byte order": (tiff(UNIT, deflated=True, order=">"), 1e-6),
        "tiff, float16": (tiff(UNIT.astype(np.float16)), 1e-3),
        "tiff, two pages": (two_pages.getvalue(), 1e-6),
        "pgm, 16 bits": (saved(U16, "PPM"), fine),
        "pgm, 8 bits": (saved(U8, "PPM"), coarse),
        "png, 16 bits": (saved(U16, "PNG"), fine),
        "png, 16 bits with alpha": (png16(U16, full), fine),
        "png, 16 bits, colors": (png16(U16, U16, U16), fine),
        "png, 16 bits, colors with alpha": (png16(U16, U16, U16, full), fine),
        "png, 8 bits": (saved(U8, "PNG"), coarse),
        "png, 8 bits, colors": (saved(gray, "PNG"), coarse),
        "png, palette": (_palette(U8), coarse),
        "jpeg": (saved(U8, "JPEG", quality=100), 4 * coarse),
        "jpeg, colors": (saved(gray, "JPEG", quality=100), 4 * coarse),
        "webp": (saved(gray, "WEBP", lossless=True), coarse),
        "bmp": (saved(U8, "BMP"), coarse),
        "exr": (exr(Y=f4), 1e-6),
        "exr, uncompressed": (exr(0, Z=f4), 1e-6),
        "exr, RLE": (exr(1, Z=f4), 1e-6),
        "exr, ZIP of lines": (exr(2, R=f4, G=f4, B=f4), 1e-6),
        "exr, layer, half": (exr(R=0 * f4, View__Depth__Z=f4.astype(np.float16)), 1e-3),
        "npy, repeated": (npy(np.repeat(f4[..., None], 3, 2)), 1e-6),
        "npy, repeated, Fortran order": (npy(np.asfortranarray(np.repeat(f4[..., None], 3, 2))), 1e-6),
        "npy, long double": (npy(UNIT.astype(np.longdouble)), 1e-6),
        "npy, one frame": (npy(f4[None]), 1e-6),
        "npz, Depth Anything 3": (npz(depth=f4[None], conf=f4[None], intrinsics=np.eye(3)[None]), 1e-6),
        "npz, video": (npz(depths=np.stack([f4, 1 - f4, f4])), 1e-6),
        "npz, prediction": (npz(prediction=f4, rgb=np.zeros((H, W, 3), np.uint8)), 1e-6),
        "npz, unknown name": (npz(z=f4, pose=np.eye(4)), 1e-6),
    }


def _palette(levels: NDArray[np.uint8]) -> bytes:
    data, picture = io.BytesIO(), Image.fromarray(levels).convert("P")
    picture.save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def every_form():
    return forms()


# -- forms -------------------------------------------------------------------------------------------


def test_one_scene_is_read_alike_from_every_form(every_form):
    errors = {name: np.abs(read(data).depth.values - UNIT).max() for name, (data, _) in every_form.items()}
    assert {name: error for name, error in errors.items() if error > every_form[name][1]} == {}


def test_every_form_is_read_in_a_process_of_its_own_too(every_form, tmp_path):
    for name, (data, _) in every_form.items():
        path = tmp_path / "depth"
        path.write_bytes(data)
        here, there = read_depth_file(path), isolated.read_depth_file(path)
        assert (name, there.notes) == (name, here.notes)
        np.testing.assert_array_equal(there.depth.values, here.depth.values, err_msg=name)


def test_decoding_opens_no_file_and_imports_nothing(every_form, tmp_path):
    """A child that decodes can do neither; what would need it must be loaded before."""
    for number, (data, _) in enumerate(every_form.values()):
        (tmp_path / f"{number}").write_bytes(data)
    code = """
import sys
from pathlib import Path
from marigold_demo.io.depth_file import decode_depth
files = [path.open("rb") for path in sorted(Path(sys.argv[1]).iterdir())]
def audit(event, arguments):
    if event in ("open", "import"):
        raise RuntimeError(f"{event} {arguments}")
sys.addaudithook(audit)
for file in files:
    decode_depth(file, near="auto", inverse=False, frame=None)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("pack", [npy, lambda frames: npz(depths=frames)], ids=["npy", "npz"])
def test_frames_are_counted_from_0(pack, order, dtype):
    frames = np.asarray([UNIT, UNIT**2, UNIT**3], dtype=dtype, order=order)
    for number in range(3):
        found = read(pack(frames), frame=number)
        np.testing.assert_allclose(found.depth.values, UNIT ** (number + 1), atol=1e-6)
    assert "3 frames; the first, frame 0, was taken" in read(pack(frames)).notes[0]
    with pytest.raises(DepthFileError, match="frame must be from 0 to 2"):
        read(pack(frames), frame=3)
    with pytest.raises(DepthFileError, match="leave frame out"):
        read(pack(frames[0]), frame=1)


def test_pages_of_a_tiff_are_frames(every_form):
    data = every_form["tiff, two pages"][0]
    np.testing.assert_allclose(read(data, frame=1, near="black").depth.values, 1 - UNIT, atol=1e-6)
    assert "several pages" in read(data).notes[0]
    with pytest.raises(DepthFileError, match="no page 2"):
        read(data, frame=2)


def test_transparent_pixels_have_no_value():
    alpha = np.full_like(U16, 65535)
    alpha[40:44, 10:14] = 0
    found = read(png16(U16, alpha))
    around = np.r_[found.depth.values[39:45, 9], found.depth.values[39:45, 14]]
    assert around.min() <= found.depth.values[40:44, 10:14].min()
    assert "no value" in found.notes[-1]


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colors_are_no_depth(channels):
    planes = [U16, U16, U16 // 2, np.full_like(U16, 65535)][:channels]
    with pytest.raises(DepthFileError, match="colors"):
        read(png16(*planes))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (exr(R=U8.astype(np.float32), G=U8.astype(np.float32), B=UNIT.astype(np.float32)), "colors and no"),
        (exr(A=UNIT.astype(np.float32), N=UNIT.astype(np.float32)), "named Z or Depth"),
        (
            exr(0, Z=UNIT.astype(np.float32)).replace(
                b"compression\0\x01\0\0\0\0", b"compression\0\x01\0\0\0\4"
            ),
            "PIZ",
        ),
        (b"v/1\x01\2\2\0\0" + bytes(99), "tiles"),
    ],
    ids=["colors", "names", "compression", "tiles"],
)
def test_an_exr_that_is_not_read_says_how_to_save_it(data, reason):
    with pytest.raises(DepthFileError, match=reason) as refused:
        read(data)
    assert "save the depth as one channel in float, with ZIP compression" in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("array", npy(UNIT)),
        ("array", npz(depth=UNIT)),
        ("array", pfm(UNIT)),
        ("array", b"v/1\x01" + bytes(20)),
        ("gray picture", saved(U16, "PNG")),
        ("gray picture", png16(U16, U16)),
        ("gray picture", saved(U16, "TIFF")),
        ("gray picture", saved(UNIT.astype(np.float32), "TIFF")),
        ("gray picture", tiff(UNIT)),
        ("gray picture", saved(U16, "PPM")),
        (None, saved(U8, "PPM")),
        (None, saved(U8, "PNG")),
        (None, saved(U8, "TIFF")),
        (None, saved(U8, "JPEG")),
        (None, saved(np.zeros((H, W, 3), np.uint8), "TIFF")),
        (None, png16(U16, U16, U16)),
        (None, b"II*\0\xff\xff\xff\xff"),
        (None, b"II*\0\x08\0\0\0\xff\xff"),
        (None, b"P5"),
        (None, b""),
    ],
)
def test_forms_that_are_depth_are_told_from_photos_by_content(tmp_path, kind, data):
    (tmp_path / "picture.jpg").write_bytes(data)
    assert depth_form(tmp_path / "picture.jpg") == kind


def test_a_tiff_header_that_points_at_itself_costs_nothing(tmp_path):
    """Each of 4,000 tags claims the same 100 million values."""
    entry = struct.pack("<HHII", 258, 4, 100_000_000, 0)
    (tmp_path / "tags.tif").write_bytes(b"II*\0\x08\0\0\0" + struct.pack("<H", 4000) + 4000 * entry)
    assert depth_form(tmp_path / "tags.tif") is None


# -- values that mean nothing ------------------------------------------------------------------------

MISSING = {
    "nan": np.where(SKY, np.nan, METRES),
    "inf": METRES,
    "zero": np.where(SKY, 0, METRES),
    "minus one": np.where(SKY, -1, METRES),
    "minus 9999": np.where(SKY, -9999, METRES),
    "65504": np.where(SKY, 65504, METRES),
    "65535": np.where(SKY, 65535, METRES),
    "1e10": np.where(SKY, 1e10, METRES),
    "10 km": np.where(SKY, 1e4, METRES),
    "around 10 km": np.where(SKY, 1e4 + 50 * METRES.clip(0, 1) + np.arange(W), METRES),
    "uint16 zero": np.where(SKY, 0, MM).astype(np.uint16),
    "uint16 65535": np.where(SKY, 65535, MM).astype(np.uint16),
    "int32 zero": np.where(SKY, 0, MM).astype(np.int32),
    "KITTI": np.where(SKY, 0, np.round(KNOWN * 256)).astype(np.uint16),
}


@pytest.mark.parametrize("kind", MISSING)
def test_numbers_that_mean_nothing_are_told_and_are_sky_at_the_top(kind):
    for data in (npy(MISSING[kind]), npy(MISSING[kind].astype(np.float32))):
        found = read(data)
        assert (found.depth.values[SKY] == 1).all() and real_range(found) >= 0.8
        assert alike(found.depth.values) > 0.99
        assert "no value" in found.notes[-1] and "like sky" in found.notes[-1]


def test_pictures_in_millimeters_are_understood_too():
    for kind in ("uint16 zero", "uint16 65535", "KITTI"):
        for form in ("PNG", "TIFF", "PPM"):
            found = read(saved(MISSING[kind], form))
            assert (found.depth.values[SKY] == 1).all() and real_range(found) >= 0.8, (kind, form)


def test_the_number_that_a_tiff_declares_as_no_value_is_none(tmp_path):
    values = np.where(SKY, 7.5, METRES).astype(np.float32)  # amid the others, so nothing else gives it away
    image = Image.fromarray(values)
    image.save(tmp_path / "gdal.tif", tiffinfo={42113: "7.5"})
    found = read_depth_file(tmp_path / "gdal.tif")
    assert (found.depth.values[SKY] == 1).all() and real_range(found) >= 0.8


def test_holes_below_the_sky_are_as_their_neighbors():
    metres = METRES.copy()
    metres[20:24, 30:34] = np.nan
    found = read(npy(metres)).depth.values
    assert (found[SKY] == 1).all()
    assert np.ptp(found[19:25, 29:35]) < 0.02 and found[22, 32] < 0.5


def test_infinity_is_sky_wherever_it_is_seen():
    metres = METRES.copy()
    metres[20:24, 30:34] = np.inf  # through a window
    assert (read(npy(metres)).depth.values[20:24, 30:34] == 1).all()


def test_a_wall_behind_a_head_is_a_wall():
    """A gap alone means nothing: 4 m is a distance like any other."""
    y, x = np.mgrid[-1 : 1 : H * 1j, -1 : 1 : W * 1j]
    head = x**2 + y**2 < 0.4
    metres = np.where(head, 1.1 + x**2 + y**2, 4)
    found = read(npy(metres))
    assert found.depth.values[~head] == pytest.approx(1) and np.ptp(found.depth.values[head]) < 0.2
    assert not [note for note in found.notes if "no value" in note]


@pytest.mark.parametrize("levels", [2, 4, 12])
def test_stairs_are_no_gaps(levels):
    steps = (np.arange(W) * levels // W).astype(np.int32) * 100
    found = read(npy(np.broadcast_to(steps, (H, W))), near="black")
    assert np.unique(found.depth.values).size == levels and len(found.notes) == 1


def test_files_of_our_own_with_0_and_1_come_back_byte_for_byte():
    for values in (1 - ball(H, W), ball(H, W), np.where(SKY, 0, UNIT), np.where(SKY, 1, 0)):
        depth = DepthMap(values.astype(np.float32))
        np.testing.assert_array_equal(read(export.depth_npy(depth)).depth.values, depth.values)
        for recipe in (None, Recipe(relief=ReliefSettings())):
            found = read(export.depth_png16(depth, recipe=recipe))
            np.testing.assert_array_equal(found.depth.to_uint16(), depth.to_uint16())
            assert found.notes == ()


def test_a_few_values_far_out_are_cut_off():
    metres = KNOWN.copy()
    metres[40, 3:5] = 900
    found = read(npy(metres))
    assert real_range(found) >= 0.8 and np.median(found.depth.values[~SKY]) > 0.2
    assert "cut off" in found.notes[0]


def test_distances_to_the_horizon_are_shown_by_their_inverse():
    row = np.arange(H, 0, -1)[:, None] + np.zeros((1, W))
    metres = 5000.0 / (H + 1 - row) ** 2.5  # 2 m to 5 km
    metres[0] = 5000
    found = read(npy(metres))
    assert "inverse" in found.notes[0]
    assert np.ptp(found.depth.values[H // 2 :]) > 0.7  # the lower half reaches from 2 m to 5 m


# -- which end is near -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        saved(65535 - U16, "PNG"),
        saved(255 - U8, "JPEG", quality=95),
        saved(np.repeat(255 - U8[..., None], 3, 2), "PNG"),
        saved(1 - UNIT.astype(np.float32), "TIFF"),
        pfm(1 - UNIT),
        pfm(1000 / METRES),  # MiDaS
        npy(1000 / METRES),
        npz(disparity=1 / METRES),
    ],
    ids=["png16", "jpeg", "rgb", "tiff", "pfm", "midas", "npy", "named"],
)
def test_white_that_is_near_is_found_and_told(data):
    found = read(data)
    assert alike(np.argsort(np.argsort(found.depth.values[~SKY])), np.argsort(np.argsort(UNIT[~SKY]))) > 0.5
    assert np.median(found.depth.values[SKY]) > 0.95 and found.depth.values[-1].mean() < 0.1
    assert [note for note in found.notes if "white near" in note or "arge values were taken as near" in note]
    assert read(data, near="white").depth.values[-1].mean() < 0.1
    assert read(data, near="black").depth.values[-1].mean() > 0.8


def test_black_that_is_near_is_told_with_the_reason():
    found = read(saved(U16, "PNG"))
    assert "black near, because the area along the top border" in found.notes[0]
    assert "set near to white" in found.notes[0]


def test_where_nothing_tells_black_is_near_and_that_is_said():
    across = np.broadcast_to(np.linspace(0, 65535, W).astype(np.uint16), (H, W))
    found = read(saved(np.ascontiguousarray(across), "PNG"))
    np.testing.assert_allclose(found.depth.values, across / 65535, atol=1e-6)
    assert "nothing in the file tells" in found.notes[0] and "set near to white" in found.notes[0]
    assert "as distances are" in read(npy(across.astype(float))).notes[1]


def test_disparity_in_the_form_of_our_files_is_left_alone_but_doubted():
    values = (1 / METRES).astype(np.float32)
    found = read(npy(values))
    np.testing.assert_array_equal(found.depth.values, values)
    assert "as this app writes them, although" in found.notes[0] and "set near to white" in found.notes[0]


@pytest.mark.parametrize("scale", [1, 0.5, 1000])
def test_inverse_turns_disparity_into_distance(scale):
    for data in (npy(scale / METRES), pfm(scale / METRES)):
        found = read(data, inverse=True)
        assert alike(found.depth.values) > 0.99 and real_range(found) >= 0.8
    with pytest.raises(DepthFileError, match="set near to auto"):
        read(data, inverse=True, near="black")
    with pytest.raises(DepthFileError, match="leave inverse out"):
        read(npy(-UNIT), inverse=True)


@pytest.mark.parametrize("mode", ["emboss", "engrave"])
def test_a_height_map_of_ours_comes_back_as_itself(mode):
    made = build_relief(DepthMap(UNIT.astype(np.float32)), ReliefSettings(resolution=128, mode=mode))
    found = read(export.heightmap_png(made, recipe=Recipe()))
    assert found.is_relief and "height map of this app" in found.notes[0]
    heights = resample(made.heights, *found.depth.size)
    assert np.corrcoef(1 - found.depth.values.ravel(), heights.ravel())[0, 1] > 0.999


def test_sixteen_bits_as_photoshop_counts_them_have_the_range_of_others():
    whole = read(saved(U16, "PNG")).depth.values
    halved = read(saved(np.round(UNIT * 32768).astype(np.uint16), "PNG")).depth.values
    assert np.abs(whole - halved).max() < 1e-4


def test_a_recipe_that_is_none_is_no_evidence_of_heights():
    image, about = Image.fromarray(U16), __import__("PIL.PngImagePlugin").PngImagePlugin.PngInfo()
    about.add_text("marigold-demo-recipe", json.dumps([1, 2]))
    data = io.BytesIO()
    image.save(data, "PNG", pnginfo=about, dpi=(100, 100))
    np.testing.assert_array_equal(read(data.getvalue()).depth.to_uint16(), U16)


# -- cost --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_thirty_two_million_float64_pixels_with_holes_take_little_memory(tmp_path):
    side = np.linspace(20, 2, 5000)[:, None] + np.zeros((1, 6400))
    side[:1000], side[3000:3300, 2000:2600] = np.nan, 0
    np.save(tmp_path / "large.npy", side)
    del side
    code = """
import re, sys
from marigold_demo.io.depth_file import read_depth_file
depth = read_depth_file(sys.argv[1]).depth
assert depth.size == (6400, 5000) and depth.values[0, 0] == 1
# Not ru_maxrss: that begins with what the process that started this one had.
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "large.npy")], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 1200  # MB


@pytest.mark.parametrize(
    "make",
    [
        lambda: npy(np.zeros((20000, 20, 30), np.uint8)).replace(b"(20000, 20, 30)", b"(99999, 20, 30)"),
        lambda: png16(U16, U16)[:-60],
        lambda: pfm(UNIT)[:-9],
        lambda: tiff(UNIT)[:-9],
        lambda: saved(U16, "TIFF")[:200],
        lambda: saved(U16, "TIFF").replace(
            struct.pack("<HHII", 256, 4, 1, W), struct.pack("<HHII", 256, 4, 1, 2**31)
        ),
        lambda: exr(Z=UNIT.astype(np.float32))[:-9],
        lambda: b"Pf\n99999 99999\n-1\n",
        lambda: b"Pf\n20 30\nnan",
        lambda: b"PF" + b"1" * 5000,
        lambda: b"v/1\x01\x02\0\0\0" + bytes(90),
        lambda: npz(z=UNIT, other=UNIT),
    ],
)
def test_what_is_damaged_or_unclear_is_refused_in_a_sentence(make: Callable[[], bytes], capfd):
    with pytest.raises(DepthFileError) as refused:
        read(make())
    assert 20 < len(str(refused.value)) < 300
