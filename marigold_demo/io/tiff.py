"""TIFF -> decoded picture: the full page of a pyramid, and a true sentence for kinds that are not read.

Pillow does not read every kind of number: floats of 16 to 64 bits, gray with alpha and others are read here.
libtiff unpacks such a page as if it were a gray picture of bytes, row for row; the predictor is undone here,
and the bytes become numbers.
"""

import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from marigold_demo.errors import PhotoError
from marigold_demo.io import tiff_tags as tags
from marigold_demo.io.limits import SAVE_AS, check_size, damaged, unsupported
from marigold_demo.io.pixels import SIGNED, Picture, to_bytes
from marigold_demo.io.tiff_tags import Page, Tiff

_PACKINGS = (1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34925, 50000, 50001)  # that libtiff unpacks here
_PIXEL_TAGS = (
    tags.WIDTH, tags.HEIGHT, tags.BITS, tags.COMPRESSION, tags.PHOTOMETRIC, tags.FILL_ORDER, tags.STRIPS,
    tags.SAMPLES, tags.ROWS_PER_STRIP, tags.STRIP_BYTES, tags.PLANAR, 292, 293, tags.PREDICTOR, 320,
    tags.TILE_WIDTH, tags.TILE_HEIGHT, tags.TILES, tags.TILE_BYTES, 332, 333, 334, 336, tags.EXTRA_SAMPLES,
    tags.SAMPLE_FORMAT, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, tags.PROFILE,
)  # fmt: skip
_OTHER_PACKINGS = {
    32766: "NeXT", 32809: "ThunderScan", 33003: "JPEG 2000", 33005: "JPEG 2000", 34676: "SGI LogLuv",
    34677: "SGI LogLuv", 34712: "JPEG 2000", 34713: "Nikon", 34887: "LERC", 34933: "PNG", 34934: "JPEG XR",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
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


def decode(tiff: Tiff) -> Picture:
    """Decode the first page that is not a reduced copy of another one.

    Raises:
        PhotoError: The kind is not supported, the size is out of bounds, or the tags are damaged.
    """
    page, notes = _chosen(tiff)
    if not all(page.size):
        raise damaged()
    check_size(page.size)
    packing = page.number(tags.COMPRESSION, 1)
    if packing not in _PACKINGS:
        raise unsupported(f"a TIFF with {_OTHER_PACKINGS.get(packing, 'an unusual')} compression")
    picture = read_samples(page) if is_misread(page) else None
    if picture is None:
        picture = _by_pillow(page)
    return replace(
        picture,
        orientation=page.number(tags.ORIENTATION, 1),
        focal_mm=tags.focal_length(page),
        notes=notes + picture.notes,
    )


def _by_pillow(page: Page) -> Picture:
    """Show Pillow the tags that pixels depend on: any other one that is odd would make it refuse the file."""
    directory = tags.copied(page, _PIXEL_TAGS)
    try:
        image = TiffImagePlugin.TiffImageFile(tags.with_directory(page.tiff, directory))
    except SyntaxError as error:  # its kind is not in Pillow's table
        place = page.number(tags.STRIPS) or page.number(tags.TILES)
        if not 0 < place < page.tiff.size_bytes:
            raise
        picture = read_samples(page)
        if picture is None:
            raise unsupported(f"a TIFF of an unusual kind ({_kind_of(page)})") from error
        return picture
    image.load()
    top = 2**page.bits - 1 if image.mode.startswith("I;16") and 8 < page.bits < 16 else None
    return Picture(image, top=top, white_is_zero=image.mode == "F" and page.number(tags.PHOTOMETRIC) == 0)


def _chosen(tiff: Tiff) -> tuple[Page, tuple[str, ...]]:
    """Return the first page that is a picture of its own, and a note where there are more of them."""
    first, chosen, count, seen = None, None, 0, 0
    for page in tiff.pages():
        first, seen = first or page, seen + 1
        if page.is_reduced or not all(page.size):
            chosen = chosen or _full_sub_page(page)
        else:
            count += 1
            chosen = page if count == 1 else chosen
    if first is None:
        raise damaged()
    number = f"more than {tags.MAX_PAGES}" if seen == tags.MAX_PAGES else str(count)
    notes = (f"This is the first of {number} pages; the others are not used.",) if count > 1 else ()
    return chosen or first, notes


def _full_sub_page(page: Page) -> Page | None:
    return next((sub for sub in page.tiff.sub_pages(page) if all(sub.size) and not sub.is_reduced), None)


def _kind_of(page: Page) -> str:
    """Return in words what a page holds."""
    number = {1: "unsigned", 2: "signed", 3: "floating point"}.get(
        page.number(tags.SAMPLE_FORMAT, 1), "unusual"
    )
    colors = {0: "gray", 1: "gray", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}
    color = colors.get(page.number(tags.PHOTOMETRIC), "unusual colors")
    extra = " with further channels" if page.values(tags.EXTRA_SAMPLES) else ""
    return f"{page.bits or 'mixed'}-bit {number} numbers, {color}{extra}"


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
    """Return whether Pillow would open a page and read it wrongly.

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
