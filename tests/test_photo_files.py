"""Photos as people have them: cut short, with damaged text, of unusual kinds, from cameras, or hostile."""

import io
import resource
import struct
import subprocess
import sys
import tracemalloc
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from benchmarks.hostile_files import exif_in, exif_in_jpeg, exif_in_png, exif_pointers
from marigold_demo.errors import PhotoError
from marigold_demo.io import jpeg
from marigold_demo.io.photo import Photo, decode_photo, field_of_view
from tests.picture_files import (
    COLORS,
    chunk,
    corners,
    directory,
    encoded,
    png,
    quarters,
    raw_file,
    tall_jpeg,
    tiff,
)

GREYS = np.round(np.linspace(0, 255, 144)).astype(np.uint8)[None].repeat(96, axis=0)  # [96, 144]
EXIF_IFD, FOCAL_35MM, ORIENTATION = 0x8769, 0xA405, 0x0112


def read(data: bytes, name: str = "photo.jpg") -> Photo:
    return decode_photo(io.BytesIO(data), name=name)


def gray(photo: Photo) -> np.ndarray:
    assert (photo.rgb == photo.rgb[..., :1]).all()
    return photo.rgb[..., 0]


def assert_shows_quarters(photo: Photo, *, within: int = 4) -> None:
    assert photo.size == (144, 96)
    np.testing.assert_allclose(corners(photo.rgb), COLORS, atol=within)


# JPEG


JPEG = encoded(quarters(640, 960), "JPEG", quality=95, subsampling=0)


@pytest.mark.parametrize(
    "data",
    [JPEG[:-2], JPEG[:-1], JPEG[:-2] + bytes(9000), JPEG[:-2] + b"\xff", JPEG + bytes(9000)],
    ids=["no end", "half an end", "zeros for an end", "a marker's half", "zeros behind"],
)
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_with_all_its_pixels_is_taken_whatever_became_of_its_end(data, options):
    whole = encoded(quarters(640, 960), "JPEG", quality=95, subsampling=0, **options)
    photo = read(whole[:-2] + data[len(JPEG) - 2 :])
    np.testing.assert_array_equal(photo.rgb, np.asarray(Image.open(io.BytesIO(whole))))
    assert photo.notes == ()


def noisy(height: int = 640, width: int = 960) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_of_a_jpeg_whose_last_rows_are_missing_it_is_told_how_many():
    whole = encoded(noisy(), "JPEG")
    photo = read(whole[: int(0.985 * len(whole))])
    true = np.asarray(Image.open(io.BytesIO(whole)))
    np.testing.assert_array_equal(photo.rgb[:600], true[:600])
    missing = next(row for row in range(640) if (photo.rgb[row] != true[row]).any())
    (note,) = photo.notes
    assert f"the lowest {640 - missing} of 640 rows" in note and "(2." in note


@pytest.mark.parametrize("blank", [b"", bytes(20_000)], ids=["cut", "filled with zeros"])
def test_a_jpeg_without_its_lower_third_is_refused_and_the_third_is_named(blank):
    whole = encoded(noisy(), "JPEG")
    with pytest.raises(PhotoError, match=r"damaged or incomplete: the lowest 3[2-6]% of it is missing"):
        read(whole[: int(0.66 * len(whole))] + blank)


def test_a_progressive_jpeg_without_its_last_scans_is_whole_and_less_sharp():
    whole = encoded(noisy(), "JPEG", progressive=True)
    photo = read(whole[: int(0.8 * len(whole))])
    assert "finest details" in photo.notes[0]
    true = np.asarray(Image.open(io.BytesIO(whole))).astype(float)
    blocks = (photo.rgb - true).reshape(80, 8, 120, 8, 3).mean(axis=(1, 3))
    assert np.abs(blocks).mean() < 3  # each block has its own mean
    with pytest.raises(PhotoError, match="is missing"):
        read(whole[: whole.index(b"\xff\xda") + 2000])


def test_kinds_of_jpeg_that_are_not_read_are_named_and_not_called_damaged():
    sof = JPEG.index(b"\xff\xc0")
    twelve_bits = JPEG[: sof + 4] + b"\x0c" + JPEG[sof + 5 :]
    lossless = JPEG[: sof + 1] + b"\xc3" + JPEG[sof + 2 :]
    for data, words in ((twelve_bits, "12 bits"), (lossless, "lossless")):
        with pytest.raises(PhotoError, match=f"{words}.* not supported"):
            read(data)


def test_a_very_large_jpeg_is_decoded_at_half_its_size_and_the_size_is_told(monkeypatch):
    monkeypatch.setattr(jpeg, "DECODED_PIXELS", 960 * 640 // 4)
    photo = read(JPEG)
    assert photo.size == (480, 320)
    assert photo.notes == ("The photo has 960 × 640 pixels; it is used at 480 × 320.",)
    np.testing.assert_allclose(corners(photo.rgb), COLORS, atol=3)


def test_a_jpeg_of_thousands_of_scans_is_refused_before_it_is_decoded():
    data = encoded(noisy(64, 64), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(PhotoError, match="too many scans"):
        read(data[:-2] + data[last : last + 10] * 5000 + b"\xff\xd9")


# PNG


def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def packed_profile(data: bytes) -> bytes:
    return b"icc\0\0" + zlib.compress(data)


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        (chunk(b"tEXt", b"Title\0card", checksum=1), b"", ""),
        (chunk(b"pHYs", bytes(9), checksum=1), b"", ""),
        (chunk(b"gAMA", struct.pack(">I", 100_000), checksum=1), b"", ""),
        (chunk(b"iCCP", packed_profile(profile()), checksum=1), b"", "profile"),
        (b"", chunk(b"tIME", bytes(7), checksum=1), ""),
    ],
    ids=["tEXt", "pHYs", "gAMA", "iCCP", "tIME"],
)
def test_a_wrong_checksum_outside_the_pixels_costs_no_png(before, after, note):
    photo = read(png(quarters(), [before], [after]))
    np.testing.assert_array_equal(photo.rgb, quarters())
    assert [note in told for told in photo.notes] == ([True] if note else [])


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT"])
def test_a_wrong_checksum_of_the_pixels_refuses_a_png(kind):
    data = bytearray(png(quarters()))
    at = data.index(kind)
    (length,) = struct.unpack_from(">I", data, at - 4)
    data[at + 4 + length] ^= 1
    with pytest.raises(PhotoError, match="damaged or incomplete"):
        read(bytes(data))


@pytest.mark.parametrize(
    "missing", [0, 2, 4, 6], ids=["no end", "half a checksum", "no checksum", "no Adler-32"]
)
def test_a_png_with_all_its_pixels_is_taken_without_its_end(missing):
    data = png(quarters(), end=False)
    photo = read(data[: len(data) - missing])
    np.testing.assert_array_equal(photo.rgb, quarters())
    assert photo.notes == ()


def test_of_a_png_whose_last_rows_are_missing_it_is_told_how_many():
    data = png(noisy(200, 100), end=False)
    photo = read(data[: int(0.98 * len(data))])
    np.testing.assert_array_equal(photo.rgb[:195], noisy(200, 100)[:195])
    assert "the lowest 4 of 200 rows (2.0%) are missing" in photo.notes[0]
    with pytest.raises(PhotoError, match=r"the lowest 5\d% of it is missing"):
        read(data[: len(data) // 2])


LONG = b"Comment\0" + bytes(1)


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", LONG + zlib.compress(bytes(50_000_000))),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(50_000_000))),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\n" * 50_000_000)),
        chunk(b"tEXt", b"Comment\0" + b"x" * 3_000_000),
        chunk(b"iCCP", packed_profile(profile() + bytes(1_500_000))),
        chunk(b"iCCP", packed_profile(bytes(50_000_000))),
    ],
    ids=["zTXt", "iTXt", "EXIF text", "tEXt", "long profile", "bomb for a profile"],
)
def test_a_png_with_long_text_or_profile_is_taken_and_costs_little_memory(extra):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.testing.assert_allclose(read(png(quarters(), [extra])).rgb, quarters(), atol=1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # KB


def test_a_film_whose_still_picture_is_no_part_of_it_shows_its_first_frame():
    """As browsers do: the still is for programs that know no films."""
    control = struct.pack(">5I2H2B", 0, 144, 96, 0, 0, 1, 10, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in quarters())
    frame = chunk(b"fdAT", struct.pack(">I", 1) + zlib.compress(rows))
    still = png(np.full((96, 144, 3), 255, np.uint8), [chunk(b"acTL", struct.pack(">2I", 2, 0))],
                [chunk(b"fcTL", control), frame])  # fmt: skip
    photo = read(still)
    np.testing.assert_array_equal(photo.rgb, quarters())
    assert photo.notes == ("This is the first of 2 frames; the others are not used.",)


def test_a_png_of_a_million_empty_chunks_is_refused():
    with pytest.raises(PhotoError, match="too many parts"):
        read(png(quarters(), [chunk(b"teSt", b"") * 1_000_000]))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_wholly_transparent_picture_is_taken_as_opaque_with_a_note(kind):
    rgba = np.dstack([quarters(), np.zeros((96, 144), np.uint8)])
    photo = read(encoded(rgba, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    np.testing.assert_array_equal(photo.rgb, quarters())
    assert photo.alpha is None and "transparent" in photo.notes[0]


def test_a_bitmap_of_32_bits_with_nothing_in_the_fourth_byte_is_opaque():
    bgra = np.dstack([quarters()[..., ::-1], np.zeros((96, 144), np.uint8)])[::-1]
    header = struct.pack("<I2i2H6I", 124, 144, 96, 1, 32, 3, bgra.size, 0, 0, 0, 0)
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    data = header + masks + bytes(124 - len(header) - len(masks)) + bgra.tobytes()
    photo = read(b"BM" + struct.pack("<IHHI", 14 + len(data), 0, 0, 138) + data)
    np.testing.assert_array_equal(photo.rgb, quarters())
    assert "transparent" in photo.notes[0]


# EXIF


@pytest.mark.parametrize(
    ("focal", "length_mm"), [((26, 26), 26), ("26mm", 26), ("26", 26), ("wide", None), (b"\xff\xfe", None)]
)
def test_an_odd_focal_length_does_not_cost_the_orientation(focal, length_mm):
    kind, data = (
        (3, focal) if isinstance(focal, tuple) else (2, focal.encode() if isinstance(focal, str) else focal)
    )
    tags = {ORIENTATION: (3, [6]), EXIF_IFD: (4, [200])}
    exif = b"II*\0\x08\0\0\0" + directory(tags, 8, "<")
    exif = exif.ljust(200, b"\0") + directory({FOCAL_35MM: (kind, data)}, 200, "<")
    stored = np.ascontiguousarray(np.rot90(quarters()))
    photo = read(encoded(stored, "JPEG", exif=b"Exif\0\0" + exif, quality=95, subsampling=0))
    assert_shows_quarters(photo)
    assert photo.fov_deg == (None if length_mm is None else pytest.approx(field_of_view(length_mm, 144, 96)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
def test_exif_whose_tags_name_the_same_bytes_takes_no_more_memory_than_other_exif(kind):
    exif = exif_pointers(size=200_000)  # 380 MB
    data = {"JPEG": exif_in_jpeg, "PNG": exif_in_png}.get(kind, partial(exif_in, kind))(exif)
    tracemalloc.start()
    read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def test_a_tiff_with_damaged_exif_and_text_is_read():
    more = {
        315: (2, b"\xff" * 40),
        EXIF_IFD: (4, [2**31]),
        34853: (4, [7]),
        700: (1, b"<x"),
        ORIENTATION: (3, [3]),
    }
    photo = read(tiff(np.ascontiguousarray(quarters()[::-1, ::-1]), more=more))
    np.testing.assert_array_equal(photo.rgb, quarters())


# TIFF


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_gray_in_which_white_is_zero_is_no_negative(order, dtype):
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    stored = ((1 - GREYS / 255) * top).astype(np.float64)
    stored = (stored if dtype == np.float32 else np.round(stored)).astype(dtype)
    np.testing.assert_allclose(gray(read(tiff(stored, order=order, photometric=0))), GREYS, atol=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("predictor", [1, 2])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_color_of_more_than_8_bits_is_read(order, predictor, dtype):
    stored = (quarters() / 255 * np.iinfo(dtype).max).astype(dtype)
    np.testing.assert_allclose(read(tiff(stored, order=order, predictor=predictor)).rgb, quarters(), atol=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_color_in_floats_is_read(order, packed, dtype):
    stored = (quarters() / 255).astype(dtype)
    photo = read(tiff(stored, order=order, packed=packed))
    np.testing.assert_allclose(photo.rgb, quarters(), atol=1)
    assert photo.notes == ()


def test_the_predictor_of_floats_is_undone():
    numbers = (quarters() / 255).astype(np.float32)
    big = numbers.astype(">f4").tobytes()
    bytes_of = np.frombuffer(big, np.uint8).reshape(96, 144 * 3, 4).swapaxes(1, 2).reshape(96, 4 * 144, 3)
    steps = np.diff(bytes_of, axis=1, prepend=np.zeros_like(bytes_of[:, :1])).reshape(96, -1)
    data = tiff(steps.view(np.float32).reshape(96, 144, 3), more={317: (3, [3])})
    np.testing.assert_allclose(read(data).rgb, quarters(), atol=1)


def test_light_beyond_white_is_shown_white_with_a_note():
    stored = (quarters() / 255).astype(np.float32)
    stored[0, 0] = 3.5
    photo = read(tiff(stored))
    assert_shows_quarters(photo)
    assert tuple(photo.rgb[0, 0]) == (255, 255, 255) and "3.5 times" in photo.notes[0]


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_gray_with_alpha_beyond_8_bits_is_read(dtype):
    top = 1 if dtype == np.float32 else 65535
    pair = np.dstack([GREYS / 255 * top, np.tile(np.linspace(0, top, 96)[:, None], 144)]).astype(dtype)
    photo = read(tiff(pair, more={338: (3, [2])}))
    np.testing.assert_allclose(photo.alpha[:, 5], np.linspace(0, 255, 96), atol=1)
    np.testing.assert_allclose(gray(photo)[-1], GREYS[-1], atol=1)


def test_inks_with_alpha_are_read():
    inks = 255 - np.dstack([quarters(), np.full((96, 144), 255, np.uint8), np.zeros((96, 144), np.uint8)])
    assert_shows_quarters(read(tiff(inks, photometric=5, more={338: (3, [2])})))


def test_numbers_that_use_a_part_of_their_range_are_taken_as_stored_with_a_note():
    twelve = (GREYS.astype(np.uint16) * 16).astype(np.uint16)
    photo = read(tiff(twelve))
    np.testing.assert_allclose(gray(photo), np.round(twelve / 257), atol=1)
    assert "reach 4080 of 65535" in photo.notes[0]
    signed = read(tiff((GREYS.astype(np.int16) * 100).astype(np.int16)))
    np.testing.assert_allclose(gray(signed), GREYS * 100.0 / 32767 * 255, atol=1)
    assert "signed" in signed.notes[0]


def test_kinds_of_tiff_that_are_not_read_are_named_and_not_called_damaged():
    odd = tiff(np.zeros((96, 144), np.uint8), more={258: (3, [24])})
    for data, words in (
        (tiff(quarters(), more={259: (3, [50002])}), "JPEG XL compression"),
        (tiff(quarters(), more={259: (3, [34887])}), "LERC compression"),
        (odd, "24-bit unsigned numbers, gray"),
    ):
        with pytest.raises(PhotoError, match=f"{words}.* not supported"):
            read(data)


def pyramid(*, under: bool) -> bytes:
    """A small copy first, the whole picture after it or under it."""
    small, whole = quarters(24, 36).tobytes(), zlib.compress(quarters().tobytes())

    def page(size: tuple[int, int], at: int, data: bytes, packing: int) -> dict[int, tuple[int, list[int]]]:
        return {
            254: (4, [int(size[0] < 100)]), 256: (4, [size[0]]), 257: (4, [size[1]]), 258: (3, [8, 8, 8]),
            259: (3, [packing]), 262: (3, [2]), 273: (4, [at]), 277: (3, [3]), 278: (4, [size[1]]),
            279: (4, [len(data)]),
        }  # fmt: skip

    at = 8 + len(small) + len(whole) + len(whole) % 2
    second = directory(page((144, 96), 8 + len(small), whole, 8), at, "<")
    first_at = at + len(second)
    first = page((36, 24), 8, small, 1) | ({330: (4, [at])} if under else {})
    body = b"II*\0" + struct.pack("<I", first_at) + small + whole
    return body.ljust(at, b"\0") + second + directory(first, first_at, "<", 0 if under else at)


@pytest.mark.parametrize("under", [False, True])
def test_of_a_pyramid_the_full_page_is_taken(under):
    photo = read(pyramid(under=under))
    np.testing.assert_array_equal(photo.rgb, quarters())
    assert photo.notes == ()


def test_a_tiff_of_thousands_of_pages_is_read_and_they_are_not_all_counted():
    data = tiff(quarters())
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entries = data[at + 2 : at + 2 + 12 * count]
    size = 2 + len(entries) + 4
    pages = [
        struct.pack("<H", count) + entries + struct.pack("<I", len(data) + (number + 1) * size)
        for number in range(50_000)
    ]
    data = data[:4] + struct.pack("<I", len(data)) + data[8:] + b"".join(pages)
    photo = read(data)
    np.testing.assert_array_equal(photo.rgb, quarters())
    assert photo.notes == ("This is the first of more than 1000 pages; the others are not used.",)


def test_a_tiff_whose_tags_claim_the_same_bytes_again_and_again_is_refused():
    more = {tag: (1, bytes(40_000)) for tag in (292, 293, 320, 332, 333, 334, 336, 347, 529, 530, 531, 532)}
    data = bytearray(tiff(quarters(), packed=False, more=more))
    (at,) = struct.unpack_from("<I", data, 4)
    for number in range(struct.unpack_from("<H", data, at)[0]):
        _, _, count = struct.unpack_from("<HHI", data, at + 2 + 12 * number)
        if count == 40_000:
            struct.pack_into("<II", data, at + 6 + 12 * number, len(data) - 100, 0)
    with pytest.raises(PhotoError, match="tags claim more data"):
        read(bytes(data))


# Camera raw


@pytest.mark.parametrize(
    ("make", "kind"),
    [(b"NIKON CORPORATION", "NEF"), (b"PENTAX", "PEF"), (b"SEIKO EPSON CORP.", "ERF"), (b"X", "raw")],
)
def test_of_camera_raw_the_full_size_preview_is_taken_with_a_note(make, kind):
    preview = encoded(np.ascontiguousarray(np.rot90(quarters())), "JPEG", quality=95, subsampling=0)
    photo = read(raw_file(preview, make=make, raw_size=(100, 150), orientation=6), name="shot.tif")
    assert_shows_quarters(photo)
    (note,) = photo.notes
    assert f"camera raw file ({kind})" in note and "96 × 144" in note


@pytest.mark.parametrize(
    "begin", [b"FUJIFILMCCD-RAW ", b"IIRO\x08\0\0\0", b"\0\0\0\x18ftypcrx ", b"FOVb", b"IIU\0"]
)
def test_previews_are_found_in_raw_files_of_every_layout(begin):
    small, large = encoded(quarters(240, 320), "JPEG"), encoded(quarters(768, 1152), "JPEG")
    photo = read(begin.ljust(5000, b"\1") + small + bytes(3000) + large + bytes(9000))
    assert photo.size == (1152, 768) and "camera raw" in photo.notes[0]
    np.testing.assert_allclose(corners(photo.rgb), COLORS, atol=6)


@pytest.mark.parametrize(
    "data",
    [
        raw_file(encoded(quarters(), "JPEG"), make=b"NIKON", raw_size=(6000, 4000)),
        raw_file(b"", make=b"SONY", raw_size=(600, 400)),
        b"IIRO\x08\0\0\0" + bytes(3000),
        b"FUJIFILMCCD-RAW " + encoded(quarters(), "JPEG"),
        b"II*\0\x10\0\0\0CR\2\0" + encoded(quarters(), "JPEG"),
    ],
    ids=["small preview", "no preview", "ORF", "RAF", "CR2"],
)
def test_camera_raw_without_a_full_size_preview_is_refused_by_name(data):
    with pytest.raises(PhotoError, match="camera raw file"):
        read(data, name="shot.jpg")


def test_a_film_of_heif_pictures_is_named_and_not_called_damaged():
    with pytest.raises(PhotoError, match=r"HEIF film.* not supported"):
        read(b"\0\0\0\x18ftyphevc\0\0\0\0msf1hevc" + bytes(400))


# GIF


def test_megabytes_of_comments_in_a_gif_cost_no_time():
    """Joined piece by piece, as Pillow does it, they took minutes."""
    first, second = (Image.new("RGB", (64, 48), color) for color in ("red", "blue"))
    data = encoded(first, "GIF", save_all=True, append_images=[second])
    at = 13 + (3 << (data[10] & 7) + 1)  # after the colors
    comment = b"!\xfe" + (b"\xff" + b"x" * 255) * 60_000 + b"\0"
    photo = read(data[:at] + comment + data[at:])
    assert photo.size == (64, 48)
    assert photo.notes == ("This is the first of 2 frames; the others are not used.",)


# Memory

MEASURE = """
import re, resource, sys
from marigold_demo.io.photo import load_photo
def peak_kb():  # not ru_maxrss: that begins with what the process that started this one had
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))
before = peak_kb()
photo = load_photo(sys.argv[1])
after = peak_kb()
print(*photo.size, (after - before) // 1000, photo.notes[0], sep="|")
"""


def measured(path: Path) -> tuple[tuple[int, int], int, str]:
    """Return size, peak memory in MB and the note of a photo that a process of its own reads."""
    run = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    width, height, most, note = run.stdout.strip().split("|")
    return (int(width), int(height)), int(most), note


@pytest.mark.parametrize(
    ("width", "rows", "used", "most_mb"),
    [(12_000, 563, (6000, 4504), 400), (16_320, 765, (6531, 4898), 700)],
    ids=["108 MP", "200 MP"],
)
def test_photos_of_the_largest_phones_are_read_at_a_reduced_size(tmp_path, width, rows, used, most_mb):
    path = tmp_path / "phone.jpg"
    path.write_bytes(tall_jpeg(width, rows))
    size, most, note = measured(path)
    assert size == used and most < most_mb
    assert note == f"The photo has {width} × {16 * rows} pixels; it is used at {size[0]} × {size[1]}."


@pytest.mark.slow
@pytest.mark.slow
def test_100_megapixels_of_floats_take_less_than_1_2_gb(tmp_path):
    side, rows = 10_000, 100
    strip = zlib.compress(np.linspace(0, 1, side, dtype=np.float32).tobytes() * rows)
    tags = {
        256: (4, [side]), 257: (4, [side]), 258: (3, [32]), 259: (3, [8]), 262: (3, [1]), 277: (3, [1]),
        273: (4, [8] * (side // rows)), 278: (4, [rows]), 279: (4, [len(strip)] * (side // rows)),
        339: (3, [3]),
    }  # fmt: skip
    at = 8 + len(strip) + len(strip) % 2
    path = tmp_path / "float.tif"
    path.write_bytes((b"II*\0" + struct.pack("<I", at) + strip).ljust(at, b"\0") + directory(tags, at, "<"))
    size, most, _ = measured(path)
    assert size == (5656, 5656) and most < 1200
