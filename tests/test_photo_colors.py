"""Colors that a file defines without a profile are shown as in Chromium 150, values recorded here."""

import io
import struct

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from marigold_demo.io.photo import Photo, decode_photo
from tests.picture_files import COLORS, chunk, corners, encoded, png, quarters

LEVELS = (16, 64, 128, 150, 160, 180, 200, 220, 240, 255)
PQ, HLG, P3, BT_709, GAMMA_22, REC_2020 = (9, 16), (9, 18), (12, 13), (1, 1), (1, 4), (9, 14)
# What Chromium makes of gray of each level, and of the level in red, a half in green and a quarter in blue.
CHROMIUM = {
    PQ: (
        [1, 30, 132, 193, 213, 242, 255, 255, 255, 255],
        [(1, 0, 0), (39, 0, 0), (165, 0, 0), (241, 0, 0), *[(255, 0, 0)] * 6],
    ),
    HLG: (
        [3, 43, 99, 122, 135, 166, 202, 224, 243, 255],
        [(4, 0, 0), (49, 11, 2), (112, 35, 9), (137, 43, 13), (151, 45, 14), (186, 49, 17), (230, 48, 17),
         (255, 33, 12), (255, 0, 0), (255, 0, 0)],
    ),
    P3: (
        list(LEVELS),
        [(17, 8, 3), (69, 30, 12), (138, 59, 21), (161, 70, 23), (172, 74, 26), (193, 83, 28), (215, 93, 31),
         (236, 102, 34), (255, 111, 36), (255, 117, 37)],
    ),
    BT_709: (
        [4, 54, 121, 144, 155, 176, 197, 218, 239, 255],
        [(4, 1, 0), (54, 20, 4), (121, 54, 20), (144, 65, 25), (155, 70, 28), (176, 81, 33), (197, 91, 39),
         (218, 102, 44), (239, 113, 49), (255, 120, 52)],
    ),
    GAMMA_22: (
        [7, 62, 129, 151, 161, 181, 201, 221, 240, 255],
        [(7, 2, 0), (62, 26, 7), (129, 62, 26), (151, 74, 32), (161, 79, 35), (181, 90, 41), (201, 100, 46),
         (221, 110, 52), (240, 121, 57), (255, 128, 61)],
    ),
    REC_2020: (
        [4, 53, 121, 144, 155, 176, 197, 218, 239, 255],
        [(7, 0, 0), (67, 11, 0), (148, 35, 2), (176, 44, 2), (188, 48, 3), (214, 56, 4), (239, 63, 5),
         (255, 71, 7), (255, 79, 8), (255, 84, 7)],
    ),
}  # fmt: skip
LINEAR = np.where(
    np.array(COLORS) <= 10.31, np.array(COLORS) / 12.92, ((np.array(COLORS) + 14.025) / 269.025) ** 2.4 * 255
)


def read(data: bytes) -> Photo:
    return decode_photo(io.BytesIO(data), name="photo.png")


def ramp(*shares: float, dtype: type = np.uint16) -> np.ndarray:
    """Columns of 16 pixels of each level, times the share of each channel: [32, 160, channels]."""
    levels = np.repeat(LEVELS, 16)[:, None] * np.array(shares)  # [160, channels]
    scaled = levels * 257 if dtype == np.uint16 else levels
    return np.broadcast_to(scaled, (32, *scaled.shape)).astype(dtype)


def shown(photo: Photo) -> np.ndarray:
    return photo.rgb[16, 8::16].astype(int)  # [levels, 3]


@pytest.mark.parametrize(
    "codes", CHROMIUM, ids=["PQ", "HLG", "Display P3", "BT.709", "gamma 2.2", "Rec. 2020"]
)
def test_png_with_cicp_is_shown_as_chromium_does(codes):
    for shares, found in (((1, 1, 1), CHROMIUM[codes][0]), ((1, 0.5, 0.25), CHROMIUM[codes][1])):
        photo = read(png(ramp(*shares), [chunk(b"cICP", bytes((*codes, 0, 1)))]))
        wanted = np.array(found)[:, None].repeat(3, axis=1) if shares == (1, 1, 1) else np.array(found)
        np.testing.assert_allclose(shown(photo), wanted, atol=4)
        assert any("HDR" in note for note in photo.notes) == (codes in (PQ, HLG))


@pytest.mark.parametrize("codes", [PQ, HLG])
def test_gray_png_with_cicp_is_tone_mapped(codes):
    photo = read(png(ramp(1), [chunk(b"cICP", bytes((*codes, 0, 1)))]))
    np.testing.assert_allclose(shown(photo)[:, 0], CHROMIUM[codes][0], atol=4)


def patched(data: bytes, primaries: int, transfer: int) -> bytes:
    """A HEIF or AVIF with other codes in its nclx box."""
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("codes", [PQ, HLG, P3], ids=["PQ", "HLG", "Display P3"])
def test_heif_and_avif_with_nclx_are_shown_as_chromium_does(kind, codes):
    pillow_heif.register_heif_opener()
    picture = ramp(1, 1, 1, dtype=np.uint8)
    data = patched(encoded(picture, kind, quality=100, **({"chroma": 444} if kind == "HEIF" else {})), *codes)
    np.testing.assert_allclose(shown(read(data))[:, 1], CHROMIUM[codes][0], atol=8)


@pytest.mark.parametrize("codes", [(1, 1), (1, 6), (2, 2)])
@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_the_curve_of_video_means_srgb_in_heif_and_avif(kind, codes):
    """Encoders of photos write it, and Chromium shows such pictures unchanged."""
    pillow_heif.register_heif_opener()
    data = encoded(ramp(1, 1, 1, dtype=np.uint8), kind, quality=100)
    np.testing.assert_array_equal(read(patched(data, *codes)).rgb, read(data).rgb)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_linear_light_with_gama_is_shown_as_chromium_does(dtype):
    top = np.iinfo(dtype).max
    corner = (LINEAR / 255 * top).reshape(2, 2, 3).repeat(48, axis=0).repeat(72, axis=1)
    photo = read(png(corner.astype(dtype), [chunk(b"gAMA", struct.pack(">I", 100_000))]))
    np.testing.assert_allclose(corners(photo.rgb), COLORS, atol=12)


def test_a_mac_gamma_and_wide_primaries_are_followed():
    mac = read(png(ramp(1, 1, 1), [chunk(b"gAMA", struct.pack(">I", 55_556))]))
    np.testing.assert_allclose(shown(mac)[:, 0], [20, 81, 146, 167, 176, 193, 210, 227, 243, 255], atol=1)
    wide = chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
    photo = read(png(ramp(1, 0.5, 0.25), [chunk(b"gAMA", struct.pack(">I", 45_455)), wide]))
    np.testing.assert_allclose(shown(photo)[[1, 4, 6]], [(67, 23, 2), (174, 73, 17), (216, 93, 24)], atol=3)


@pytest.mark.parametrize(
    "before",
    [
        [chunk(b"gAMA", struct.pack(">I", 45_455))],
        [chunk(b"sRGB", b"\0"), chunk(b"gAMA", struct.pack(">I", 100_000))],
        [chunk(b"gAMA", bytes(4))],
        [chunk(b"gAMA", struct.pack(">I", 45_455)), chunk(b"cHRM", struct.pack(">8I", *[33_333] * 8))],
        [chunk(b"gAMA", struct.pack(">I", 45_455)), chunk(b"cHRM", bytes(32))],
        [chunk(b"cICP", bytes((1, 13, 0, 1))), chunk(b"gAMA", struct.pack(">I", 100_000))],
    ],
    ids=["gAMA of sRGB", "sRGB goes first", "no gAMA", "one point for all", "no cHRM", "cICP goes first"],
)
def test_what_means_srgb_or_nothing_changes_no_pixel(before):
    np.testing.assert_array_equal(read(png(quarters(), before)).rgb, quarters())


def test_half_transparent_linear_light_is_blended_with_white_after_its_colors_are_known():
    rgba = np.full((32, 32, 4), (55, 55, 55, 128), np.uint8)
    rgba[:16, :, 3] = 255
    photo = read(png(rgba, [chunk(b"gAMA", struct.pack(">I", 100_000))]))
    assert photo.rgb[4, 4, 0] == pytest.approx(128, abs=2)
    assert photo.rgb[28, 4, 0] == pytest.approx((128 + 255) / 2, abs=2)


def test_a_picture_shrunk_for_its_size_has_the_same_colors(monkeypatch):
    from marigold_demo.io import photo as photo_module

    data = png(quarters(480, 720), [chunk(b"cICP", bytes((*PQ, 0, 1)))])
    whole = read(data)
    monkeypatch.setattr(photo_module, "WORKING_PIXELS", 480 * 720 // 4)
    np.testing.assert_allclose(corners(read(data).rgb), corners(whole.rgb), atol=2)
    assert Image.fromarray(whole.rgb).getextrema() != ((0, 0),) * 3
