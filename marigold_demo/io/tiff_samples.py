"""Pages of a TIFF whose numbers Pillow does not read -> 8 bits: floats of 16 to 64 bits, gray with alpha, ...

libtiff unpacks such a page as if it were a gray picture of bytes, row for row; the predictor is undone here,
and the bytes become numbers.
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from marigold_demo.errors import PhotoError
from marigold_demo.io import tiff_tags as tags
from marigold_demo.io.file_parts import SAVE_AS
from marigold_demo.io.pixels import SIGNED, Picture, to_bytes
from marigold_demo.io.tiff_tags import Page

_MAX_UNPACKED_BYTES = 700_000_000
_PLACES = (tags.COMPRESSION, tags.STRIPS, tags.STRIP_BYTES, tags.TILES, tags.TILE_BYTES)
_LONG = 4  # type of whole numbers of 32 bits
_OF_BYTES = (1, 5, 8, 32773, 32946, 34925, 50000)  # packings that know nothing of pixels
_COLORS = {0: 1, 1: 1, 2: 3, 5: 4}  # samples of color by photometric interpretation: gray, RGB, CMYK
_KINDS = {1: "u", 2: "i", 3: "f"}  # sample format -> kind of a NumPy type
_HORIZONTAL, _FLOATING = 2, 3  # predictors
_READABLE = {f"{kind}{bits}" for kind in "uif" for bits in (8, 16, 32, 64)} - {"f8"}
_SEPARATE = 2  # planar configuration
_PREMULTIPLIED, _ALPHA = 1, 2  # kinds of extra samples


@dataclass(frozen=True, eq=False)
class _Numbers:
    """The numbers of a page.

    Attributes:
        packed: Mode L: the bytes of all rows, of one plane after the other where planes are separate.
        page_size: Width and height in pixels.
        dtype: Of the numbers, in the byte order of the file.
        samples: In a pixel.
        planes: 1, or as many as there are samples.
        plane_rows: Rows from one plane to the next.
        block: Width in pixels over which a predictor runs: a tile or a row.
        predictor: 1 for none.
    """

    packed: Image.Image
    page_size: tuple[int, int]
    dtype: np.dtype[Any]
    samples: int
    planes: int
    plane_rows: int
    block: int
    predictor: int

    def rows(self, start: int, end: int) -> NDArray[Any]:
        """Return the numbers of some rows: [end - start, W, samples]."""
        found = []
        for plane in range(self.planes):
            top = plane * self.plane_rows
            found.append(self._unpacked(self.packed.crop((0, top + start, self.packed.width, top + end))))
        return found[0] if len(found) == 1 else np.concatenate(found, axis=2)

    def _unpacked(self, rows: Image.Image) -> NDArray[Any]:
        each = self.samples // self.planes
        data = np.asarray(rows).reshape(rows.height, -1, self.block * each * self.dtype.itemsize)
        if self.predictor == _FLOATING:
            sums = data.reshape(*data.shape[:2], -1, each).cumsum(axis=2, dtype=np.uint8)
            bytes_of = sums.reshape(*data.shape[:2], self.dtype.itemsize, -1)  # most significant ones first
            numbers = np.ascontiguousarray(bytes_of.swapaxes(2, 3)).view(self.dtype.newbyteorder(">"))
        else:
            numbers = data.view(self.dtype)
        numbers = numbers.reshape(rows.height, data.shape[1], self.block, each)
        if self.predictor == _HORIZONTAL:
            whole = np.dtype(f"u{self.dtype.itemsize}")
            steps = numbers.view(whole.newbyteorder(self.dtype.byteorder))
            numbers = steps.cumsum(axis=2, dtype=whole).view(self.dtype.newbyteorder("="))
        return numbers.reshape(rows.height, -1, each)[:, : self.page_size[0]]


def read_samples(page: Page) -> Picture | None:
    """Read a page of gray, RGB or CMYK numbers of 8 to 64 bits; None where it is of another kind.

    Raises:
        PhotoError: It takes too much memory.
    """
    photometric, kind = page.number(tags.PHOTOMETRIC), _KINDS.get(page.number(tags.SAMPLE_FORMAT, 1), "")
    colors = _COLORS.get(photometric, 0)
    numbers = _numbers(page, kind) if colors and f"{kind}{page.bits}" in _READABLE else None
    if numbers is None or numbers.samples < colors:
        return None
    top = float(np.iinfo(numbers.dtype).max) if kind != "f" and page.bits < 32 else None
    levels, notes = to_bytes(
        lambda start, end: numbers.rows(start, end)[..., :colors],
        page.size,
        top=top,
        white_is_zero=photometric == 0,
    )
    alpha = _alpha(page, numbers, colors, top)
    if alpha is not None and page.number(tags.EXTRA_SAMPLES) == _PREMULTIPLIED:
        opaque = levels.astype(np.float32) * (255 / np.maximum(alpha, 1)[..., None].astype(np.float32))
        levels = np.clip(opaque, 0, 255).astype(np.uint8)
    if colors == 4:
        image = Image.frombytes("CMYK", page.size, levels.tobytes())
    else:
        image = Image.fromarray(levels[..., 0] if colors == 1 else levels)
    if tags.PROFILE in page.entries:
        image.info["icc_profile"] = page.bytes_of(tags.PROFILE, 2**22)
    notes += (SIGNED,) if kind == "i" else ()
    return Picture(image, alpha=None if alpha is None else Image.fromarray(alpha), notes=notes)


def is_misread(page: Page) -> bool:
    """Tell whether Pillow would open a page and read it wrongly.

    It takes gray of 16 and 32 bits as positive, or in the wrong order, and mixes up separate planes.
    """
    is_gray = _COLORS.get(page.number(tags.PHOTOMETRIC)) == 1
    is_separate = page.number(tags.PLANAR, 1) == _SEPARATE and page.number(tags.SAMPLES, 1) > 1
    is_simple = page.number(tags.SAMPLES, 1) == 3 and page.bits == 8
    return (is_separate and not is_simple) or (is_gray and page.bits in (16, 32, 64))


def _alpha(page: Page, numbers: _Numbers, colors: int, top: float | None) -> NDArray[np.uint8] | None:
    """Return the sample after those of color where the page says that it is alpha: [H, W]."""
    if numbers.samples <= colors or page.number(tags.EXTRA_SAMPLES) not in (_ALPHA, _PREMULTIPLIED):
        return None
    return to_bytes(lambda start, end: numbers.rows(start, end)[..., colors], page.size, top=top)[0]


def _numbers(page: Page, kind: str) -> _Numbers | None:
    """Unpack the bytes of a page; None where their layout is not known."""
    (width, height), samples = page.size, page.number(tags.SAMPLES, 1)
    dtype = np.dtype(f"{page.tiff.order}{kind}{page.bits // 8}")
    planes = samples if page.number(tags.PLANAR, 1) == _SEPARATE else 1
    is_tiled = tags.TILES in page.entries
    block = page.number(tags.TILE_WIDTH) if is_tiled else width
    rows = (
        page.number(tags.TILE_HEIGHT) if is_tiled else min(page.number(tags.ROWS_PER_STRIP, height), height)
    )
    is_known = page.number(tags.COMPRESSION, 1) in _OF_BYTES and page.number(tags.FILL_ORDER, 1) == 1
    if not is_known or not 1 <= samples <= 16 or not 0 < block < 2**20 or not 0 < rows < 2**20:
        return None
    plane_rows = -(-height // rows) * rows if is_tiled else height
    if planes > 1 and plane_rows % rows:
        return None  # the last strip of each plane is shorter: the planes are not one picture
    row_bytes = -(-width // block) * block * (samples // planes) * dtype.itemsize
    if row_bytes * plane_rows * planes > _MAX_UNPACKED_BYTES:
        raise PhotoError(
            f"A TIFF of this size and kind takes too much memory; make it smaller, or {SAVE_AS}."
        )
    tile = (block * (samples // planes) * dtype.itemsize, rows) if is_tiled else None
    packed = _packed(page, (row_bytes, plane_rows * planes), rows, tile)
    predictor = page.number(tags.PREDICTOR, 1)
    return _Numbers(packed, page.size, dtype, samples, planes, plane_rows, block, predictor)


def _packed(page: Page, size: tuple[int, int], rows: int, tile: tuple[int, int] | None) -> Image.Image:
    """Let libtiff unpack the data as a gray picture of bytes."""
    order = page.tiff.order
    numbers = {
        tags.WIDTH: size[0],
        tags.HEIGHT: size[1],
        tags.BITS: 8,
        tags.PHOTOMETRIC: 1,
        tags.SAMPLES: 1,
        **({tags.TILE_WIDTH: tile[0], tags.TILE_HEIGHT: tile[1]} if tile else {tags.ROWS_PER_STRIP: rows}),
    }
    directory = tags.copied(page, _PLACES)
    directory |= {tag: (_LONG, struct.pack(order + "I", number)) for tag, number in numbers.items()}
    image = TiffImagePlugin.TiffImageFile(tags.with_directory(page.tiff, directory))
    image.im = Image.new("L", size).im  # Pillow would take its bytes for pixels, and these for too many
    image.load()
    return image
