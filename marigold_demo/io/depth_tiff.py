"""TIFF files -> stored depth. Pillow reads most; kinds it does not know are read here where it is simple."""

import math
import struct
import zlib
from collections.abc import Collection
from dataclasses import replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from marigold_demo.errors import DepthFileError
from marigold_demo.io.depth_arrays import WANTED, check_frame, check_size
from marigold_demo.io.depth_pictures import from_pillow
from marigold_demo.io.depth_values import StoredDepth
from marigold_demo.io.limits import DAMAGED

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two: BigTIFF

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES = 256, 257, 258, 259, 262, 273, 277
_ROWS_PER_STRIP, _COUNTS, _PREDICTOR, _FORMAT, _GDAL_NODATA = 278, 279, 317, 339, 42113
_READ = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _COUNTS,
    _PREDICTOR, _FORMAT,
}  # fmt: skip
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of the values that are looked at: TIFF 6.0, section 2
_MAX_ENTRIES, _MAX_VALUES, _MAX_PAGES = 4096, 200_000, 10_000
_WHITE_IS_ZERO, _DEFLATE = 0, (8, 32946)
_KINDS = {1: "u", 2: "i", 3: "f"}  # SampleFormat

Tags = dict[int, tuple[int, ...]]


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
            is_negative = image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
            no_value = image.tag_v2.get(_GDAL_NODATA)
            stored = from_pillow(image, notes=notes)
    except UnidentifiedImageError:
        return _read_strips(file, frame=frame)
    if is_negative and stored.values.dtype == np.uint16:  # Pillow turns 8 bits only
        stored = replace(stored, values=np.uint16(65535) - stored.values)
    return _without(stored, no_value)


def is_deep_gray(file: BinaryIO) -> bool:
    """Tell whether the first page is gray, with or without alpha, and has 16 bits or floats.

    Raises:
        DepthFileError: The header is damaged.
    """
    tags = _first_page(file, {_BITS, _PHOTOMETRIC, _SAMPLES}, most_values=16)
    is_gray = tags.get(_PHOTOMETRIC, (1,))[0] in (0, 1) and tags.get(_SAMPLES, (1,))[0] <= 2
    return is_gray and tags.get(_BITS, (1,))[0] >= 16


def _first_page(file: BinaryIO, wanted: Collection[int], *, most_values: int) -> Tags:
    """Return some tags of the first page, whose values are whole numbers.

    Raises:
        DepthFileError: The header is damaged.
    """
    file.seek(0)
    try:
        start = file.read(16)
        order = "<" if start[:2] == b"II" else ">"
        is_big = start[2:4] in (b"+\0", b"\0+")
        (at,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}I", start, 8 if is_big else 4)
        file.seek(at)
        (count,) = struct.unpack(f"{order}Q" if is_big else f"{order}H", file.read(8 if is_big else 2))
        layout = struct.Struct(f"{order}HHQ8s" if is_big else f"{order}HHI4s")
        tags: Tags = {}
        for tag, kind, number, field in layout.iter_unpack(file.read(min(count, _MAX_ENTRIES) * layout.size)):
            if tag in wanted and tag not in tags and kind in _TYPES and 0 < number <= most_values:
                tags[tag] = _values(file, order, kind, number, field)
    except DAMAGED as error:
        raise DepthFileError(f"The TIFF is damaged or incomplete; save it again as {WANTED}.") from error
    return tags


def _values(file: BinaryIO, order: str, kind: int, number: int, field: bytes) -> tuple[int, ...]:
    """Return the values of one tag: in its field, or where that points to."""
    layout = f"{order}{number}{_TYPES[kind]}"
    length = struct.calcsize(layout)
    if length > len(field):
        (at,) = struct.unpack(f"{order}{'I' if len(field) == 4 else 'Q'}", field)
        file.seek(at)
        field = file.read(length)
    return struct.unpack_from(layout, field)


def _go_to_page(image: TiffImagePlugin.TiffImageFile, frame: int | None) -> tuple[str, ...]:
    """Go to a page without counting all of them, of which there may be very many."""
    taken = frame or 0
    if not 0 <= taken <= _MAX_PAGES:
        raise DepthFileError(f"frame is out of bounds; pages from 0 to {_MAX_PAGES} can be read.")
    try:
        image.seek(max(taken, 1))
    except DAMAGED:
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
    tags = _first_page(file, _READ, most_values=_MAX_VALUES)
    check_frame(frame, 1)
    bits, kind = tags.get(_BITS, (1,))[0], _KINDS.get(tags.get(_FORMAT, (1,))[0])
    compression, predictor = tags.get(_COMPRESSION, (1,))[0], tags.get(_PREDICTOR, (1,))[0]
    is_plain = tags.get(_SAMPLES, (1,)) == (1,) and predictor == 1 and compression in (1, *_DEFLATE)
    if (
        not is_plain
        or kind is None
        or bits not in (16, 32, 64)
        or _OFFSETS not in tags
        or _COUNTS not in tags
    ):
        raise DepthFileError(f"This kind of TIFF is not supported; use {WANTED}.")
    try:
        width, height = tags[_WIDTH][0], tags[_HEIGHT][0]
        check_size(width, height)
        file.seek(0)
        dtype = np.dtype(f"{'<' if file.read(2) == b'II' else '>'}{kind}{bits // 8}")
        values = np.empty((height, width), dtype=dtype)
        step = min(tags.get(_ROWS_PER_STRIP, (height,))[0], height)
        for number, top in enumerate(range(0, height, step)):
            rows = values[top : top + step]
            rows[...] = _strip(file, tags, number, count_bytes=rows.nbytes).view(dtype).reshape(rows.shape)
    except DAMAGED as error:
        raise DepthFileError(f"The TIFF is damaged or incomplete; save it again as {WANTED}.") from error
    if tags.get(_PHOTOMETRIC, (1,))[0] == _WHITE_IS_ZERO and kind == "u":
        values = np.iinfo(values.dtype).max - values
    return StoredDepth(values, is_picture=kind == "u" and bits == 16)


def _strip(file: BinaryIO, tags: Tags, number: int, *, count_bytes: int) -> NDArray[np.uint8]:
    file.seek(tags[_OFFSETS][number])
    if tags.get(_COMPRESSION, (1,))[0] == 1:
        data = file.read(count_bytes)
    else:
        packed = file.read(min(tags[_COUNTS][number], 2 * count_bytes + 1000))
        data = zlib.decompressobj().decompress(packed, count_bytes)
    return np.frombuffer(data, dtype=np.uint8, count=count_bytes)
