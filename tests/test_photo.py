import io
import math
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from marigold_demo.errors import PhotoError
from marigold_demo.io import photo as photo_module
from marigold_demo.io.photo import MAX_PIXELS, Photo, field_of_view, load_photo, safe_stem

ORIENTATION, EXIF_IFD, FOCAL_35MM, DNG_VERSION = 0x0112, 0x8769, 0xA405, 0xC612
# What a camera does: the stored picture, turned by the tag, gives the upright one.
STORED_AS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def card(height: int = 24, width: int = 36) -> np.ndarray:
    """A picture without symmetry, uint8 [H, W, 3]."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 9 % 256, columns * 7, (rows * columns) % 251], axis=-1).astype(np.uint8)


def exif_with(tags: dict[int, object]) -> Image.Exif:
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    return exif


def save(folder: Path, image: Image.Image, name: str = "card.png", **options: object) -> Path:
    path = folder / name
    image.save(path, **options)
    return path


def png_of_size(width: int, height: int) -> bytes:
    """A PNG header with next to no data behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_all_eight_orientations_of_one_picture_give_one_array(tmp_path, orientation, kind):
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](card())))
    lossless = {"lossless": True} if kind == "WEBP" else {}
    path = save(tmp_path, stored, f"turned.{kind}", exif=exif_with({ORIENTATION: orientation}), **lossless)
    np.testing.assert_array_equal(load_photo(path).rgb, card())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "HEIF", "AVIF"])
def test_photos_of_phones_stand_upright(tmp_path, orientation, kind):
    pillow_heif.register_heif_opener()
    corners = np.array([[[220, 30, 30], [30, 170, 60]], [[40, 70, 220], [240, 210, 40]]], dtype=np.uint8)
    upright = corners.repeat(32, axis=0).repeat(48, axis=1)  # [64, 96, 3]
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](upright)))
    exif = exif_with({ORIENTATION: orientation}).tobytes()  # HEIF makes its own rotation from the bytes
    path = save(tmp_path, stored, "phone", format=kind, exif=exif, quality=95)
    rgb = load_photo(path).rgb
    assert rgb.shape == upright.shape
    np.testing.assert_allclose(rgb[16::32, 24::48], corners, atol=12)


def test_alpha_turns_with_its_picture(tmp_path):
    rgba = np.dstack([card(), np.arange(24 * 36).reshape(24, 36).astype(np.uint8)])
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[6](rgba)))
    loaded = load_photo(save(tmp_path, stored, exif=exif_with({ORIENTATION: 6})))
    np.testing.assert_array_equal(loaded.alpha, rgba[..., 3])


@pytest.mark.parametrize("tag", [0, 9, 255])
def test_an_orientation_that_does_not_exist_counts_as_upright(tmp_path, tag):
    path = save(tmp_path, Image.fromarray(card()), exif=exif_with({ORIENTATION: tag}))
    np.testing.assert_array_equal(load_photo(path).rgb, card())


def test_sixteen_bit_grey_is_scaled_and_never_clipped(tmp_path):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    rgb = load_photo(save(tmp_path, Image.fromarray(levels))).rgb
    np.testing.assert_array_equal(rgb, np.round(levels / 257)[..., None].repeat(3, axis=2))


def test_hidden_colors_never_appear(tmp_path):
    magenta = np.full((24, 36, 4), (255, 0, 255, 0), dtype=np.uint8)
    magenta[6:18, 6:18] = (10, 200, 30, 255)
    loaded = load_photo(save(tmp_path, Image.fromarray(magenta)))
    assert (loaded.rgb[0, 0] == 255).all()
    assert tuple(loaded.rgb[12, 12]) == (10, 200, 30)
    assert loaded.alpha[0, 0] == 0 and loaded.alpha[12, 12] == 255


def test_a_picture_that_is_opaque_throughout_has_no_alpha(tmp_path):
    rgba = np.dstack([card(), np.full((24, 36), 255, dtype=np.uint8)])
    loaded = load_photo(save(tmp_path, Image.fromarray(rgba)))
    np.testing.assert_array_equal(loaded.rgb, card())
    assert loaded.alpha is None


def test_half_transparent_pixels_are_blended_with_white(tmp_path):
    grey = np.full((24, 36, 2), (100, 51), dtype=np.uint8)
    rgb = load_photo(save(tmp_path, Image.fromarray(grey, "LA"))).rgb
    assert abs(int(rgb[0, 0, 0]) - (100 * 0.2 + 255 * 0.8)) <= 1


def test_the_see_through_entry_of_a_palette_becomes_white(tmp_path):
    image = Image.fromarray(np.eye(24, 36, dtype=np.uint8), "P")
    image.putpalette([255, 0, 255, 0, 128, 0])
    rgb = load_photo(save(tmp_path, image, transparency=0)).rgb
    assert set(map(tuple, rgb.reshape(-1, 3).tolist())) == {(255, 255, 255), (0, 128, 0)}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I", "F", "I;16"])
def test_every_mode_a_file_can_have_shows_the_same_grey(tmp_path, mode):
    level = 255 if mode == "1" else 120
    if mode in ("I", "I;16"):
        image = Image.fromarray(np.full((24, 36), level * 257, dtype=np.int32 if mode == "I" else np.uint16))
    elif mode == "F":
        image = Image.fromarray(np.full((24, 36), level / 255, dtype=np.float32))
    elif mode == "LAB":
        image = Image.new("LAB", (36, 24), (round(50.43 * 2.55), 128, 128))
    elif mode == "P":
        image = Image.new("L", (36, 24), level).quantize(2)
    else:
        image = Image.new("RGB", (36, 24), (level,) * 3).convert(mode)
    loaded = load_photo(save(tmp_path, image, "grey.tiff"))
    assert loaded.rgb.shape == (24, 36, 3)
    assert np.abs(loaded.rgb.astype(int) - level).max() <= 2


def test_numbers_without_a_range_are_stretched_and_the_visitor_is_told(tmp_path):
    values = np.linspace(-3, 900, 24 * 36, dtype=np.float32).reshape(24, 36)
    values[0, 0] = np.nan
    loaded = load_photo(save(tmp_path, Image.fromarray(values), "float.tiff"))
    assert loaded.rgb.min() == 0 and loaded.rgb.max() == 255
    assert "stretched" in loaded.notes[0]


def profile_with_red_and_blue_swapped() -> bytes:
    """The sRGB profile with two entries of its table of contents renamed."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    head, body = profile[:300], profile[300:]
    return head.replace(b"rXYZ", b"xXYZ").replace(b"bXYZ", b"rXYZ").replace(b"xXYZ", b"bXYZ") + body


def test_colors_follow_the_embedded_profile(tmp_path):
    red = Image.new("RGB", (36, 24), (255, 0, 0))
    rgb = load_photo(save(tmp_path, red, icc_profile=profile_with_red_and_blue_swapped())).rgb
    np.testing.assert_allclose(rgb[0, 0], (0, 0, 255), atol=2)


def test_a_damaged_profile_is_left_aside_with_a_note(tmp_path):
    loaded = load_photo(save(tmp_path, Image.fromarray(card()), icc_profile=b"no profile at all" * 9))
    np.testing.assert_array_equal(loaded.rgb, card())
    assert "profile" in loaded.notes[0]


def test_field_of_view_of_a_50_mm_lens_is_39_6_degrees(tmp_path):
    exif = exif_with({EXIF_IFD: {FOCAL_35MM: 50}})
    upright = load_photo(save(tmp_path, Image.new("RGB", (36, 24)), exif=exif))
    assert upright.fov_deg == pytest.approx(39.6, abs=0.05)  # the long side of a 3:2 frame is 36 mm
    assert load_photo(save(tmp_path, Image.new("RGB", (36, 24)), "no_exif.png")).fov_deg is None


@given(st.floats(5, 1000), st.integers(16, 9000), st.integers(16, 9000))
@settings(max_examples=30)
def test_field_of_view_knows_no_upright_or_lying_frame(focal, width, height):
    fov = field_of_view(focal, width, height)
    assert fov == field_of_view(focal, height, width)
    assert 0 < fov <= math.degrees(2 * math.atan(43.27 / (2 * focal)))


@pytest.mark.parametrize(
    ("kind", "word"), [("GIF", "frames"), ("TIFF", "pages"), ("WEBP", "frames"), ("PNG", "frames")]
)
def test_the_first_of_many_is_used_and_the_visitor_is_told(tmp_path, kind, word):
    first, others = (
        Image.new("RGB", (36, 24), "red"),
        [Image.new("RGB", (36, 24), c) for c in ("lime", "blue")],
    )
    loaded = load_photo(
        save(tmp_path, first, f"many.{kind}", format=kind, save_all=True, append_images=others)
    )
    assert loaded.rgb[0, 0, 0] > 200 and loaded.rgb[0, 0, 1] < 50
    assert loaded.notes == (f"This is the first of 3 {word}; the others are not used.",)


def test_the_gain_map_in_a_phone_photo_is_not_worth_a_note(tmp_path):
    image = Image.new("RGB", (36, 24), "red")
    path = save(
        tmp_path, image, "phone.jpg", format="MPO", save_all=True, append_images=[image.resize((18, 12))]
    )
    assert load_photo(path).notes == ()


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_photos_of_new_phones_are_read(tmp_path, kind):
    pillow_heif.register_heif_opener()
    image = Image.new("RGB", (64, 48), (200, 100, 50))
    rgb = load_photo(save(tmp_path, image, f"phone.{kind.lower()}", format=kind)).rgb
    np.testing.assert_allclose(rgb[20, 20], (200, 100, 50), atol=6)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((30_000, 30_000), "900 million"),
        ((10_001, 10_000), "too large"),
        ((1, 1), "too small"),
        ((15, 15), "too small"),
        ((1, 4000), "too narrow"),
        ((4000, 199), "too narrow"),
    ],
)
def test_sizes_out_of_bounds_are_refused_from_the_header(tmp_path, size, reason):
    path = tmp_path / "size.png"
    path.write_bytes(png_of_size(*size))  # decoding it would say "damaged"
    with pytest.raises(PhotoError, match=reason):
        load_photo(path)


def test_the_largest_photos_are_shrunk_with_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(photo_module, "WORKING_PIXELS", 1200)
    rgba = Image.new("RGBA", (80, 60), (0, 0, 0, 0))
    rgba.paste("black", (40, 0, 80, 60))
    loaded = load_photo(save(tmp_path, rgba))
    assert loaded.size == (40, 30) and loaded.alpha.shape == (30, 40)
    assert (loaded.rgb[:, :14] == 255).all() and (loaded.rgb[:, 26:] == 0).all()
    assert loaded.notes == ("The photo has 80 × 60 pixels; it is used at 40 × 30.",)
    assert MAX_PIXELS == 100_000_000


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"%PDF-1.7\n", "PDF"),
        (b'<?xml version="1.0"?>\n<!-- a -->\n<svg xmlns="x">', "SVG"),
        (b"\xef\xbb\xbf<svg>", "SVG"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"\x93NUMPY\x01\0", "NumPy"),
        (b"PK\x03\x04" + bytes(40), "ZIP"),
        (b"\0\0\0\x20ftypisom" + bytes(40), "video"),
        (b"\0\0\0\x18ftypcrx " + bytes(40), "raw"),
        (b"8BPS" + bytes(40), "Photoshop"),
        (b"just some words" * 9, "not a picture"),
        (b"\xff\xd8\xff\xe0 is all there is", "damaged"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
    ],
)
def test_what_is_not_a_photo_is_named(tmp_path, content, word):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=word) as refusal:
        load_photo(path)
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


def test_a_file_is_judged_by_content_and_not_by_its_ending(tmp_path):
    path = save(tmp_path, Image.fromarray(card()), "really_a_png.jpg", format="PNG")
    np.testing.assert_array_equal(load_photo(path).rgb, card())


def test_camera_raw_is_refused_before_its_thumbnail_is_taken_for_the_photo(tmp_path):
    path = save(
        tmp_path, Image.fromarray(card()), "raw.dng", format="TIFF", tiffinfo={DNG_VERSION: b"\1\4\0\0"}
    )
    with pytest.raises(PhotoError, match="DNG"):
        load_photo(path)


@pytest.mark.parametrize("name", ["missing.jpg", ".", "nul\0name.jpg", "x" * 400])
def test_what_cannot_be_opened_is_refused(tmp_path, name):
    with pytest.raises(PhotoError):
        load_photo(f"{tmp_path}/{name}")


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_truncated_files_are_refused_as_damaged(tmp_path, share):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        data = io.BytesIO()
        noise.save(data, kind)
        path = tmp_path / "cut"
        path.write_bytes(data.getvalue()[: int(share * len(data.getvalue()))])
        with pytest.raises(PhotoError, match="damaged or incomplete"):
            load_photo(path)


@given(st.text(max_size=300))
@settings(max_examples=100)
def test_every_name_gives_a_safe_stem(name):
    stem = safe_stem(name)
    assert stem and len(stem.encode()) <= 86 and stem.isprintable()
    assert not set(stem) & set("/\\:*?\"<>|'& \t\n")
    assert not stem.startswith((".", "-")) and not stem.endswith(".") and ".." not in stem
    assert safe_stem(f"{stem}.jpg") == stem


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("spaces, ünï 'quoted' \"name\" & 日本語 🏔.jpg", "spaces_ünï_quoted_name_日本語"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\con.jpg", "photo_con"),
        ("a\u202egpj.exe.png", "a_gpj.exe"),
        ("....png", "photo"),
        ("", "photo"),
        ("IMG_2034.HEIC", "IMG_2034"),
    ],
)
def test_stems_stay_speaking(name, stem):
    assert safe_stem(name) == stem


def test_a_photo_is_frozen_and_known_by_its_pixels():
    rgb = card()
    photo = Photo(rgb=rgb)
    rgb[:] = 0
    np.testing.assert_array_equal(photo.rgb, card())
    with pytest.raises(ValueError, match="read-only"):
        photo.rgb[0] = 0
    assert photo.digest == Photo(rgb=card(), stem="other").digest
    assert photo.digest != Photo(rgb=card().reshape(36, 24, 3)).digest


def test_photos_are_read_safely_from_many_threads_at_once(tmp_path):
    paths = [save(tmp_path, Image.fromarray(np.roll(card(), n, axis=0)), f"{n}.png") for n in range(8)]
    filters, read = list(warnings.filters), {}

    def work(n: int) -> None:
        read[n] = load_photo(paths[n]).rgb

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((read[n] == np.roll(card(), n, axis=0)).all() for n in range(8))
    assert list(warnings.filters) == filters


@pytest.mark.parametrize(
    "start", [b"<!---->" * 60, b"<?xml " * 600, b" " * 4096, b"<!--" * 1000, b"<!doctype svg[" * 200]
)
def test_text_that_never_reaches_an_element_is_refused_at_once(tmp_path, start):
    """A pattern with nested repetition took exponential time on the first of these."""
    path = tmp_path / "drawing.svg"
    path.write_bytes(start)
    began_s = time.monotonic()
    with pytest.raises(PhotoError, match=r"not a picture|XML text"):
        load_photo(path)
    assert time.monotonic() - began_s < 1
