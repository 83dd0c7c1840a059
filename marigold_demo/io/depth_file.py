"""A depth file -> DepthMap, or a sentence why not; and pictures that hold depth: PNG, PGM, PFM, TIFF, 8 bits.

A file is judged by its content, never by its ending: `depth_arrays` and the readers of pictures here read
what is stored, `depth_values` makes depth of it. Levels of pictures are taken as they are stored: no profile,
no gamma, 16 bits stay 16 bits. A picture with colors is no depth, unless its channels are equal.
"""

import io
import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import (  # noqa: F401  # all formats, so that none is loaded later
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from marigold_demo.errors import DepthFileError
from marigold_demo.io import tiff
from marigold_demo.io import tiff as tags
from marigold_demo.io.depth_arrays import EXR, NPY, ZIP, read_exr, read_npy, read_npz
from marigold_demo.io.depth_values import (
    MAX_PIXELS,
    WANTED,
    DepthFile,
    Near,
    StoredDepth,
    check_frame,
    check_size,
    to_depth,
)
from marigold_demo.io.limits import READ_ERRORS, opened, quiet_reading, start_of
from marigold_demo.recipe import HIGH_KEY, KEY, NEAR_KEY

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "DepthFile",
    "Near",
    "decode_depth",
    "depth_form",
    "may_be_depth",
    "read_depth_file",
]

PNG = b"\x89PNG\r\n\x1a\n"
PFM, PGM = (b"Pf", b"PF"), (b"P5", b"P2")

_OTHER_FORMATS = ("JPEG", "PPM", "BMP", "WEBP")
_LOSSY_DIFFERENCE = 4  # levels by which equal channels may differ after JPEG or WebP
_MAX_TOKEN, _MAX_CHUNKS = 40, 100_000
_MAX_PAGES, _MAX_STRIPS = 10_000, 200_000
_WHITE_IS_ZERO, _DEFLATE = 0, (8, 32946)
_NUMBER_KINDS = {1: "u", 2: "i", 3: "f"}  # by SampleFormat
_GDAL_NODATA = 42113


def read_png(file: BinaryIO) -> StoredDepth:
    """Read a PNG of any bit depth that is gray, or whose colors are.

    Raises:
        DepthFileError: It has colors, or its size is out of bounds.
    """
    width, height, bits, color = struct.unpack(">16xIIBB", start_of(file, 26))  # IHDR is the first chunk
    check_size(width, height)
    with Image.open(file, formats=("PNG",)) as image:
        image.verify()  # checksums of all chunks, which loading alone passes over
    file.seek(0)
    with Image.open(file, formats=("PNG",)) as image:
        if bits == 16 and color != 0:
            return _sixteen_bit_channels(file, image, channels={2: 3, 4: 2, 6: 4}[color])
        stored = from_pillow(image)
        recipe = image.info.get(KEY)
        if stored.values.dtype == np.uint16 and isinstance(recipe, str):
            inverted = image.info.get(NEAR_KEY) == "white"
            origin = "own inverted" if inverted else _own(recipe, has_size="dpi" in image.info)
            is_turned = origin == "own heights" and image.info.get(HIGH_KEY) == "dark"
            values = np.uint16(65535) - stored.values if is_turned else stored.values
            return StoredDepth(values, origin=origin, is_picture=True)
    return stored


def _own(recipe: str, *, has_size: bool) -> Literal["own depth", "own heights"]:
    """Distinguish our height maps from depth: they have pixels per inch and the recipe of a relief."""
    try:
        is_relief = "relief" in json.loads(recipe)
    except (ValueError, TypeError, RecursionError):
        is_relief = False
    return "own heights" if is_relief and has_size else "own depth"


def _sixteen_bit_channels(file: BinaryIO, image: Image.Image, *, channels: int) -> StoredDepth:
    """Read gray or equal colors, and alpha, of 16 bits, of which Pillow would keep 8.

    PNG filters work on each byte of a pixel by itself. So the bytes of one channel are a picture of their
    own, which Pillow can decode as 8-bit gray with alpha.
    """
    if image.info.get("interlace"):
        raise DepthFileError(f"An interlaced 16-bit PNG with several channels cannot be read; use {WANTED}.")
    width, height = image.size
    row_bytes = 1 + width * 2 * channels
    rows = np.frombuffer(_inflated(file, height * row_bytes), dtype=np.uint8).reshape(height, row_bytes)
    planes = [_png_plane(rows, at, channels) for at in range(channels)]
    del rows
    colors = planes[: 1 if channels == 2 else 3]
    if not all(np.array_equal(colors[0], other) for other in colors[1:]):
        raise DepthFileError(f"The PNG has colors, so it is not depth; use {WANTED}.")
    return StoredDepth(colors[0], is_picture=True, valid=_visible(planes[-1] if channels in (2, 4) else None))


def _inflated(file: BinaryIO, count: int) -> bytearray:
    """Return so many bytes of the filtered rows of a PNG."""
    packed, filtered = zlib.decompressobj(), bytearray()
    for part in _png_data(file):
        filtered += packed.decompress(part, max(count - len(filtered), 1))
        if len(filtered) >= count:
            return filtered[:count]
    raise EOFError(f"{count} bytes expected, {len(filtered)} there")


def _png_data(file: BinaryIO) -> Iterator[bytes]:
    """Yield the contents of all IDAT chunks."""
    file.seek(8)
    for _ in range(_MAX_CHUNKS):
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IDAT":
            yield file.read(length)
            file.seek(4, os.SEEK_CUR)
        elif kind == b"IEND":
            return
        else:
            file.seek(length + 4, os.SEEK_CUR)
    raise DepthFileError(f"The PNG is cut into too many chunks; use {WANTED}.")


def _png_plane(rows: NDArray[np.uint8], channel: int, channels: int) -> NDArray[np.uint16]:
    """Decode one 16-bit channel [H, W] of filtered rows [H, 1 + W * 2 * C]."""
    height, width = len(rows), (rows.shape[1] - 1) // (2 * channels)
    pixels = rows[:, 1:].reshape(height, width, 2 * channels)[..., 2 * channel : 2 * channel + 2]
    filtered = np.concatenate([rows[:, :1], pixels.reshape(height, 2 * width)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, 4, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 0)), (b"IEND", b""))
    data = PNG + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        two_bytes = np.asarray(image)  # [H, W, 2]
    return np.ascontiguousarray(two_bytes).view(">u2")[..., 0].astype(np.uint16)


def read_pfm(file: BinaryIO) -> StoredDepth:
    """Read a portable float map: rows from bottom to top, in either byte order.

    Raises:
        DepthFileError: It has colors, or its size is out of bounds.
    """
    file.seek(0)
    kind, width, height, scale = (_token(file) for _ in range(4))
    shape = int(height), int(width), 3 if kind == b"PF" else 1
    check_size(shape[1], shape[0])
    order = "<f4" if float(scale) < 0 else ">f4"
    count = shape[0] * shape[1] * shape[2]
    data = file.read(4 * count)
    pixels = np.frombuffer(data, dtype=order, count=count).reshape(shape)[::-1]
    if not all(np.array_equal(pixels[..., 0], pixels[..., n], equal_nan=True) for n in range(1, shape[2])):
        raise DepthFileError(f"The PFM has colors, so it is not depth; use {WANTED}.")
    return StoredDepth(pixels[..., 0])


def _token(file: BinaryIO) -> bytes:
    """Return the next word of a text header, and pass over the one space after it."""
    word = b""
    while len(word) < _MAX_TOKEN:
        letter = file.read(1)
        if not letter:
            raise EOFError("the header ends")
        if not letter.isspace():
            word += letter
        elif word:
            return word
    raise ValueError("no word of a header")


def read_other(file: BinaryIO) -> StoredDepth:
    """Read any other picture that is gray, such as JPEG, PGM, BMP or WebP.

    Raises:
        DepthFileError: It has colors, or is no picture.
    """
    file.seek(0)
    try:
        with Image.open(file, formats=_OTHER_FORMATS) as image:
            check_size(*image.size)
            return from_pillow(image)
    except UnidentifiedImageError as error:
        raise DepthFileError(f"The file is not a depth file; use {WANTED}.") from error


def from_pillow(image: Image.Image, *, notes: tuple[str, ...] = ()) -> StoredDepth:
    """Take the levels of a picture that is gray, or whose channels are equal.

    Raises:
        DepthFileError: It has colors.
    """
    kind, mode = image.format, image.mode
    if mode in ("L", "F", "I") or mode.startswith("I;16"):
        levels = np.asarray(image)
        is_sixteen_bit = mode.startswith("I;16") or (mode == "I" and kind == "PPM")
        values = levels.astype(np.uint16) if is_sixteen_bit else levels
        return StoredDepth(values, is_picture=mode != "F", notes=notes)
    if mode == "1":
        return StoredDepth(np.asarray(image.convert("L")), is_picture=True, notes=notes)
    if mode not in ("LA", "P", "RGB", "RGBA", "PA", "RGBX"):
        raise DepthFileError(f"The picture is not gray (it holds {mode}), so it is not depth; use {WANTED}.")
    pixels = np.asarray(image if mode in ("RGB", "RGBA") else image.convert("RGBA"))
    most = _LOSSY_DIFFERENCE if kind in ("JPEG", "MPO", "WEBP") else 0
    for other in (1, 2):
        first, second = pixels[..., 0], pixels[..., other]
        if (np.maximum(first, second) - np.minimum(first, second)).max() > most:
            raise DepthFileError(
                f"The picture is not gray (it has colors), so it is not depth; use {WANTED}."
            )
    alpha = pixels[..., 3] if pixels.shape[2] == 4 and mode != "RGBX" else None
    levels = pixels[..., 1].copy()
    return StoredDepth(levels, is_picture=True, valid=_visible(alpha), notes=notes)


def _visible(alpha: NDArray[Any] | None) -> NDArray[Any] | None:
    """Return where a picture is not wholly transparent; None where it is so nowhere or everywhere."""
    return None if alpha is None or alpha.all() or not alpha.any() else alpha > 0


def read_tiff(file: BinaryIO, *, frame: int | None) -> StoredDepth:
    """Read a TIFF of one channel, or of equal channels; its pages are frames.

    Raises:
        DepthFileError: It has colors, is of a kind that cannot be read, or has no such page.
    """
    file.seek(0)
    try:
        with Image.open(file, formats=("TIFF",)) as image:
            if not isinstance(image, TiffImagePlugin.TiffImageFile):
                raise TypeError("no TIFF")
            notes = _go_to_page(image, frame)
            check_size(*image.size)
            is_negative = image.tag_v2.get(tags.PHOTOMETRIC) == _WHITE_IS_ZERO
            no_value = image.tag_v2.get(_GDAL_NODATA)
            stored = from_pillow(image, notes=notes)
    except UnidentifiedImageError:
        return _read_strips(file, frame=frame)
    if is_negative and stored.values.dtype == np.uint16:  # Pillow turns 8 bits only
        stored = replace(stored, values=np.uint16(65535) - stored.values)
    return _without(stored, no_value)


def is_deep_gray(file: BinaryIO) -> bool:
    """Return whether the first page of a TIFF is gray, with or without alpha, and has 16 bits or floats.

    Raises:
        DepthFileError: The header is damaged.
    """
    page = _first_page(file)
    is_gray = page.number(tags.PHOTOMETRIC, 1) in (0, 1) and page.number(tags.SAMPLES, 1) <= 2
    return is_gray and page.bits >= 16


def _first_page(file: BinaryIO) -> tags.Page:
    opened = tags.read_tiff(file)
    page = next(opened.pages(), None) if opened else None
    if page is None:
        raise DepthFileError(f"The TIFF is damaged or incomplete; save it again as {WANTED}.")
    return page


def _go_to_page(image: TiffImagePlugin.TiffImageFile, frame: int | None) -> tuple[str, ...]:
    """Go to a page without counting all of them, of which there may be very many."""
    taken = frame or 0
    if not 0 <= taken <= _MAX_PAGES:
        raise DepthFileError(f"frame is out of bounds; pages from 0 to {_MAX_PAGES} can be read.")
    try:
        image.seek(max(taken, 1))
    except READ_ERRORS:
        if taken:
            raise DepthFileError(
                f"The file has no page {taken}, counted from 0; choose a smaller frame."
            ) from None
        image.seek(0)
        return ()
    image.seek(taken)
    which = (
        "the first, frame 0, was taken; frame picks another" if frame is None else f"frame {taken} was taken"
    )
    return (f"The file holds several pages; {which}.",)


def _without(stored: StoredDepth, no_value: object) -> StoredDepth:
    """Leave out the number that GIS tools declare as "no value"."""
    try:
        number = float(str(no_value).strip("\0 "))
    except ValueError:
        return stored
    is_there = stored.values != number
    if math.isnan(number) or is_there.all():
        return stored
    return replace(stored, valid=is_there if stored.valid is None else is_there & stored.valid.astype(bool))


def _read_strips(file: BinaryIO, *, frame: int | None) -> StoredDepth:
    """Read gray of any number type, such as float64, uncompressed or deflated."""
    page = _first_page(file)
    check_frame(frame, 1)
    bits, kind = page.number(tags.BITS, 1), _NUMBER_KINDS.get(page.number(tags.SAMPLE_FORMAT, 1))
    compression, offsets = page.number(tags.COMPRESSION, 1), page.values(tags.STRIPS, _MAX_STRIPS)
    counts = page.values(tags.STRIP_BYTES, _MAX_STRIPS)
    is_plain = page.number(tags.SAMPLES, 1) == 1 and page.number(tags.PREDICTOR, 1) == 1
    is_packed_plainly = compression in (1, *_DEFLATE) and offsets and counts
    if not (is_plain and is_packed_plainly) or kind is None or bits not in (16, 32, 64):
        raise DepthFileError(f"This kind of TIFF is not supported; use {WANTED}.")
    try:
        width, height = page.size
        check_size(width, height)
        values = np.empty((height, width), dtype=f"{page.tiff.order}{kind}{bits // 8}")
        step = min(page.number(tags.ROWS_PER_STRIP, height), height)
        for number, top in enumerate(range(0, height, step)):
            rows = values[top : top + step]
            file.seek(int(offsets[number]))
            if compression == 1:
                data = file.read(rows.nbytes)
            else:
                packed = file.read(min(int(counts[number]), 2 * rows.nbytes + 1000))
                data = zlib.decompressobj().decompress(packed, rows.nbytes)
            rows[...] = np.frombuffer(data, values.dtype, rows.size).reshape(rows.shape)
    except READ_ERRORS as error:
        raise DepthFileError(f"The TIFF is damaged or incomplete; save it again as {WANTED}.") from error
    if page.number(tags.PHOTOMETRIC, 1) == _WHITE_IS_ZERO and kind == "u":
        values = np.iinfo(values.dtype).max - values
    return StoredDepth(values, is_picture=kind == "u" and bits == 16)


MAX_BYTES = 600_000_000
_HEAD_BYTES = 4096
_GRAY, _GRAY_ALPHA = 0, 4  # color types of PNG


def read_depth_file(
    path: Path | str, *, frame: int | None = None, near: Near = "auto", inverse: bool = False
) -> DepthFile:
    """Read depth from a file that may be of any kind in which tools keep it.

    Args:
        path: .npy, .npz, PNG, TIFF, PGM, PFM, OpenEXR, or any picture that is gray.
        frame: Which of several depth maps, counted from 0; None takes the first, with a note.
        near: Which values are near: "white" (large ones), "black" (small ones), or what the file suggests.
        inverse: The values are disparity: 1 / value is distance.

    Raises:
        DepthFileError: The file is missing, damaged, of another kind, or its size is out of bounds.
    """
    with opened(path, max_bytes=MAX_BYTES, error=DepthFileError) as file:
        return decode_depth(file, frame=frame, near=near, inverse=inverse)


def decode_depth(
    file: BinaryIO, *, frame: int | None = None, near: Near = "auto", inverse: bool = False
) -> DepthFile:
    """Read a depth file from an open, seekable file; the arguments are those of `read_depth_file`.

    Raises:
        DepthFileError: As `read_depth_file`.
    """
    try:
        with quiet_reading():
            stored = _stored(file, frame=frame)
    except Image.DecompressionBombError as error:
        most = f"at most {MAX_PIXELS // 10**6} million pixels can be used"
        raise DepthFileError(f"The depth file cannot be used: it is too large; {most}.") from error
    except (*READ_ERRORS, zipfile.BadZipFile) as error:
        raise DepthFileError(
            f"The depth file is damaged or incomplete; save it again as {WANTED}."
        ) from error
    with np.errstate(all="ignore"):  # odd numbers are looked for, not tripped over
        return to_depth(stored, near=near, inverse=inverse)


def _stored(file: BinaryIO, *, frame: int | None) -> StoredDepth:
    start = start_of(file, 32)
    if start.startswith(NPY):
        return read_npy(file, frame=frame)
    if start.startswith(ZIP):
        return read_npz(file, frame=frame)
    if start.startswith(tiff.SIGNATURES):
        return read_tiff(file, frame=frame)
    check_frame(frame, 1)
    readers = {PNG: read_png, EXR: read_exr, **dict.fromkeys(PFM, read_pfm)}
    return next((readers[magic] for magic in readers if start.startswith(magic)), read_other)(file)


def depth_form(path: Path | str) -> Literal["array", "gray picture"] | None:
    """Return, by content, the form in which a file is taken for depth where it could be a photo, or None.

    Arrays are .npy, .npz, OpenEXR and portable float maps of one channel; gray pictures are PNG, TIFF and PGM
    of more than 8 bits. All else is depth only for those who say that it is.
    """
    try:
        with opened(path, max_bytes=MAX_BYTES, error=DepthFileError) as file:
            start = start_of(file, _HEAD_BYTES)
            is_gray = start.startswith(tiff.SIGNATURES) and is_deep_gray(file)
    except DepthFileError:
        return None
    if start.startswith((NPY, ZIP, EXR, PFM[0])):
        return "array"
    if start.startswith(PNG):
        is_gray = len(start) > 25 and start[24] == 16 and start[25] in (_GRAY, _GRAY_ALPHA)
    elif start.startswith(PGM):
        is_gray = _pgm_maximum(start) > 255
    return "gray picture" if is_gray else None


def may_be_depth(path: Path | str, rgb: NDArray[np.uint8], *, remedy: str) -> tuple[str, ...]:
    """Return a note where a picture that was taken as a photo may be depth, else nothing.

    Args:
        path: The picture, by whose content a colored depth of this app is known.
        rgb: Its pixels, uint8 [H, W, 3].
        remedy: What to do if it is depth.
    """
    if _carries_recipe(path):
        return (
            "This app made the picture from a depth, and it was taken as a photo; the .npy or 16-bit PNG that"
            " came with it holds the depth itself.",
        )
    form = depth_form(path)
    if form is None and not _is_gray(rgb):
        return ()
    what = {"array": "holds numbers", "gray picture": "is gray and has more than 8 bits", None: "is gray"}[
        form
    ]
    return (f"The picture {what}, as depth may; it was taken as a photo. If it is depth, {remedy}.",)


def _is_gray(rgb: NDArray[np.uint8]) -> bool:
    few = slice(None, None, max(1, len(rgb) // 64))  # these rows suffice for nearly all photos
    return all((rgb[rows, :, 1:] == rgb[rows, :, :1]).all() for rows in (few, slice(None)))


def _pgm_maximum(start: bytes) -> int:
    """Return the largest level that the header of a PGM announces; 0 where there is none."""
    lines = [line.split(b"#", 1)[0] for line in start.split(b"\n")]
    words = b" ".join(lines).split(None, 4)
    return int(words[3]) if len(words) > 3 and words[3].isdigit() and len(words[3]) < 9 else 0


def _carries_recipe(path: Path | str) -> bool:
    try:
        with opened(path, max_bytes=MAX_BYTES, error=DepthFileError) as file:
            start = start_of(file, _HEAD_BYTES)
    except DepthFileError:
        return False
    return start.startswith(PNG) and b"tEXt" + KEY.encode() + b"\0" in start
