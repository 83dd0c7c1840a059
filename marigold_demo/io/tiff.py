"""TIFF -> decoded picture; directories of a TIFF, BigTIFF or TIFF-like raw file -> pages with their tags.

Of the directories only what is asked for is read, so that a file with thousands of pages, or with tags that
claim gigabytes, costs no more than another one. Of a pyramid the full page is taken.

Pillow does not read every kind of number: floats of 16 to 64 bits, gray with alpha and others are read here.
libtiff unpacks such a page as if it were a gray picture of bytes, row for row; the predictor is undone here,
and the bytes become numbers. Kinds that are not read are refused with a true sentence.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from marigold_demo.errors import PhotoError
from marigold_demo.io.limits import SAVE_AS, check_size, damaged, size_of, spliced, unsupported
from marigold_demo.io.pixels import SIGNED, Picture, to_bytes

Order = str  # "<" or ">"

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_PAGES = 1000

(
    SUBFILE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, MAKE, STRIPS, ORIENTATION, SAMPLES,
    ROWS_PER_STRIP, STRIP_BYTES, PLANAR, PREDICTOR, TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, SUB_IFDS,
    EXTRA_SAMPLES, SAMPLE_FORMAT, PROFILE, EXIF, FOCAL_LENGTH_35MM, DNG_VERSION,
) = (
    254, 256, 257, 258, 259, 262, 266, 271, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325, 330, 338,
    339, 34675, 34665, 41989, 50706,
)  # fmt: skip
_TYPES = {
    1: "B", 2: "s", 3: "H", 4: "I", 5: "II", 6: "b", 7: "s", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d",
    13: "I", 16: "Q", 17: "q", 18: "Q",
}  # fmt: skip
_LONG, _WIDE = 4, (16, 17, 18)  # types of 32 and of 64 bits
_MAX_ENTRIES = 4096
_MAX_SUB_IFDS = 16
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType


@dataclass(frozen=True)
class Entry:
    """One tag: type, number of values, and the field that holds them or says where they are."""

    kind: int
    count: int
    field: bytes

    @property
    def size_bytes(self) -> int:
        """Length of all values."""
        return self.count * struct.calcsize("=" + _TYPES.get(self.kind, "B"))


@dataclass(frozen=True, eq=False)
class Page:
    """One directory of a file.

    Attributes:
        tiff: The file it lies in.
        offset: Where it begins.
        entries: Its tags.
    """

    tiff: "Tiff"
    offset: int
    entries: dict[int, Entry]

    def values(self, tag: int, at_most: int = 16) -> tuple[float, ...]:
        """Return the first values of a tag; none where it is missing or lies outside the file."""
        entry = self.entries.get(tag)
        if entry is None or _TYPES.get(entry.kind, "s") == "s":
            return ()
        code = _TYPES[entry.kind]
        one = struct.calcsize("=" + code)
        data = self.bytes_of(tag, min(entry.count, at_most) * one)
        return struct.unpack(self.tiff.order + code * (len(data) // one), data[: len(data) // one * one])

    def number(self, tag: int, default: int = 0) -> int:
        """Return the first value of a tag as a whole number."""
        found = self.values(tag, 1)
        return int(found[0]) if found and found[0] == found[0] and abs(found[0]) < 2**63 else default

    def bytes_of(self, tag: int, at_most: int) -> bytes:
        """Return the first bytes of a tag's values, in the file's order."""
        entry = self.entries.get(tag)
        if entry is None:
            return b""
        size = min(entry.size_bytes, at_most)
        if entry.size_bytes <= len(entry.field):
            return entry.field[:size]
        at = int.from_bytes(entry.field, "little" if self.tiff.order == "<" else "big")
        return self.tiff.read_bytes(at, size)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, 0 where they are missing."""
        return self.number(WIDTH), self.number(HEIGHT)

    @property
    def is_reduced(self) -> bool:
        """Return whether it is a small copy, or a mask, of another page."""
        return bool(self.number(SUBFILE) & (_REDUCED | _MASK)) or self.number(255) == 2

    @property
    def bits(self) -> int:
        """Bits of each sample; 0 where they differ."""
        found = set(self.values(BITS)) or {1}
        return int(found.pop()) if len(found) == 1 else 0


@dataclass(frozen=True, eq=False)
class Tiff:
    """An open file with directories.

    Attributes:
        file: Seekable.
        order: Byte order, as `struct` has it.
        is_big: Whether it is a BigTIFF, with offsets of 64 bits.
        size_bytes: Length of the file.
        first: Offset of the first directory.
    """

    file: BinaryIO
    order: Order
    is_big: bool
    size_bytes: int
    first: int

    def pages(self) -> Iterator[Page]:
        """Yield the pages, `MAX_PAGES` of them at most and each once."""
        offset, seen = self.first, set[int]()
        while offset and offset not in seen and len(seen) < MAX_PAGES:
            seen.add(offset)
            read = self.read(offset)
            if read is None:
                return
            page, offset = read
            yield page

    def sub_pages(self, page: Page) -> Iterator[Page]:
        """Yield the pages that lie under a page."""
        for offset in page.values(SUB_IFDS, _MAX_SUB_IFDS):
            read = self.read(int(offset))
            if read is not None:
                yield read[0]

    def read(self, offset: int) -> tuple[Page, int] | None:
        """Read one directory; return it and where the next one begins, None where it is damaged."""
        counted, pointer, width = ("Q", "Q", 8) if self.is_big else ("H", "I", 4)
        one = 4 + 2 * width
        head_bytes = width if self.is_big else 2
        head = self.read_bytes(offset, head_bytes)
        if len(head) < head_bytes:
            return None
        (count,) = struct.unpack(self.order + counted, head)
        data = self.read_bytes(offset + head_bytes, count * one + width) if 0 < count <= _MAX_ENTRIES else b""
        if not data or len(data) < count * one:
            return None
        entries: dict[int, Entry] = {}
        for at in range(0, count * one, one):
            tag, kind, values = struct.unpack_from(f"{self.order}HH{pointer}", data, at)
            entries.setdefault(tag, Entry(kind, values, data[at + 4 + width : at + one]))
        following = data[count * one :]
        after = struct.unpack(self.order + pointer, following)[0] if len(following) == width else 0
        return Page(self, offset, entries), int(after)

    def read_bytes(self, offset: int, count: int) -> bytes:
        """Return at most `count` bytes from `offset` on; none beyond the end."""
        if offset >= self.size_bytes:
            return b""
        self.file.seek(offset)
        return self.file.read(count)


def read_tiff(file: BinaryIO, *, raw_signatures: tuple[bytes, ...] = ()) -> Tiff | None:
    """Read the header of a TIFF; None for another file.

    Args:
        file: Seekable.
        raw_signatures: Of raw files that are laid out as TIFF is, and begin in another way.
    """
    size = size_of(file)
    file.seek(0)
    head = file.read(16).ljust(16, b"\0")
    if not head.startswith(SIGNATURES + raw_signatures):
        return None
    order = "<" if head.startswith(b"II") else ">"
    is_big = head[2:4] in (b"+\0", b"\0+")
    first = (
        struct.unpack_from(order + "Q", head, 8)[0] if is_big else struct.unpack_from(order + "I", head, 4)[0]
    )
    return Tiff(file, order, is_big, size, int(first))


def focal_length(page: Page) -> float | None:
    """Return the focal length in mm in a page, as of 35 mm film."""
    read = page.tiff.read(page.number(EXIF)) if EXIF in page.entries else None
    return float(read[0].number(FOCAL_LENGTH_35MM)) if read else None


def copied(page: Page, wanted: tuple[int, ...]) -> dict[int, tuple[int, bytes]]:
    """Return type and data of the wanted tags that a page has; offsets of 64 bits become 32.

    Raises:
        PhotoError: Together they claim more data than the file holds: the same bytes would be copied often.
    """
    entries = {tag: page.entries[tag] for tag in wanted if tag in page.entries}
    if sum(entry.size_bytes for entry in entries.values()) > 2 * page.tiff.size_bytes + 2**20:
        raise damaged(": its tags claim more data than the file holds")
    found = {}
    for tag, entry in entries.items():
        if entry.kind in _WIDE:
            values = [min(int(value), 2**32 - 1) for value in page.values(tag, entry.count)]
            found[tag] = _LONG, struct.pack(f"{page.tiff.order}{len(values)}I", *values)
        else:
            found[tag] = entry.kind, page.bytes_of(tag, entry.size_bytes)
    return found


def with_directory(tiff: Tiff, directory: Mapping[int, tuple[int, bytes]]) -> BinaryIO:
    """Return the file as a TIFF of one page with these tags: type and data in the file's order."""
    end = tiff.size_bytes + tiff.size_bytes % 2
    entries, behind = b"", b""
    begin = end + 2 + 12 * len(directory) + 4
    for tag in sorted(directory):
        kind, data = directory[tag]
        is_inside = len(data) <= 4
        field = data.ljust(4, b"\0") if is_inside else struct.pack(tiff.order + "I", begin + len(behind))
        count = len(data) // struct.calcsize("=" + _TYPES.get(kind, "B"))
        entries += struct.pack(tiff.order + "HHI", tag, kind, count) + field
        behind += b"" if is_inside else data + bytes(len(data) % 2)
    pages = struct.pack(tiff.order + "H", len(directory)) + entries + bytes(4) + behind
    mark = b"II" if tiff.order == "<" else b"MM"
    header = mark + struct.pack(tiff.order + "HI", 42, end)
    return spliced(tiff.file, [header, (8, tiff.size_bytes), bytes(end - tiff.size_bytes) + pages])


_PACKINGS = (1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34925, 50000, 50001)  # that libtiff unpacks here
_PIXEL_TAGS = (
    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIPS,
    SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR, 292, 293, PREDICTOR, 320,
    TILE_WIDTH, TILE_HEIGHT, TILES, TILE_BYTES, 332, 333, 334, 336, EXTRA_SAMPLES,
    SAMPLE_FORMAT, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, PROFILE,
)  # fmt: skip
_OTHER_PACKINGS = {
    32766: "NeXT", 32809: "ThunderScan", 33003: "JPEG 2000", 33005: "JPEG 2000", 34676: "SGI LogLuv",
    34677: "SGI LogLuv", 34712: "JPEG 2000", 34713: "Nikon", 34887: "LERC", 34933: "PNG", 34934: "JPEG XR",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
_MAX_UNPACKED_BYTES = 700_000_000
_PLACES = (COMPRESSION, STRIPS, STRIP_BYTES, TILES, TILE_BYTES)
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
    packing = page.number(COMPRESSION, 1)
    if packing not in _PACKINGS:
        raise unsupported(f"a TIFF with {_OTHER_PACKINGS.get(packing, 'an unusual')} compression")
    picture = read_samples(page) if is_misread(page) else None
    if picture is None:
        picture = _by_pillow(page)
    return replace(
        picture,
        orientation=page.number(ORIENTATION, 1),
        focal_mm=focal_length(page),
        notes=notes + picture.notes,
    )


def _by_pillow(page: Page) -> Picture:
    """Show Pillow the tags that pixels depend on: any other one that is odd would make it refuse the file."""
    directory = copied(page, _PIXEL_TAGS)
    try:
        image = TiffImagePlugin.TiffImageFile(with_directory(page.tiff, directory))
    except SyntaxError as error:  # its kind is not in Pillow's table
        place = page.number(STRIPS) or page.number(TILES)
        if not 0 < place < page.tiff.size_bytes:
            raise
        picture = read_samples(page)
        if picture is None:
            raise unsupported(f"a TIFF of an unusual kind ({_kind_of(page)})") from error
        return picture
    image.load()
    top = 2**page.bits - 1 if image.mode.startswith("I;16") and 8 < page.bits < 16 else None
    return Picture(image, top=top, white_is_zero=image.mode == "F" and page.number(PHOTOMETRIC) == 0)


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
    number = f"more than {MAX_PAGES}" if seen == MAX_PAGES else str(count)
    notes = (f"This is the first of {number} pages; the others are not used.",) if count > 1 else ()
    return chosen or first, notes


def _full_sub_page(page: Page) -> Page | None:
    return next((sub for sub in page.tiff.sub_pages(page) if all(sub.size) and not sub.is_reduced), None)


def _kind_of(page: Page) -> str:
    """Return in words what a page holds."""
    number = {1: "unsigned", 2: "signed", 3: "floating point"}.get(page.number(SAMPLE_FORMAT, 1), "unusual")
    colors = {0: "gray", 1: "gray", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}
    color = colors.get(page.number(PHOTOMETRIC), "unusual colors")
    extra = " with further channels" if page.values(EXTRA_SAMPLES) else ""
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
    photometric, kind = page.number(PHOTOMETRIC), _KINDS.get(page.number(SAMPLE_FORMAT, 1), "")
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
    if alpha is not None and page.number(EXTRA_SAMPLES) == _PREMULTIPLIED:
        opaque = levels.astype(np.float32) * (255 / np.maximum(alpha, 1)[..., None].astype(np.float32))
        levels = np.clip(opaque, 0, 255).astype(np.uint8)
    if colors == 4:
        image = Image.frombytes("CMYK", page.size, levels.tobytes())
    else:
        image = Image.fromarray(levels[..., 0] if colors == 1 else levels)
    if PROFILE in page.entries:
        image.info["icc_profile"] = page.bytes_of(PROFILE, 2**22)
    notes += (SIGNED,) if kind == "i" else ()
    return Picture(image, alpha=None if alpha is None else Image.fromarray(alpha), notes=notes)


def is_misread(page: Page) -> bool:
    """Return whether Pillow would open a page and read it wrongly.

    It takes gray of 16 and 32 bits as positive, or in the wrong order, and mixes up separate planes.
    """
    is_gray = _COLORS.get(page.number(PHOTOMETRIC)) == 1
    is_separate = page.number(PLANAR, 1) == _SEPARATE and page.number(SAMPLES, 1) > 1
    is_simple = page.number(SAMPLES, 1) == 3 and page.bits == 8
    return (is_separate and not is_simple) or (is_gray and page.bits in (16, 32, 64))


def _alpha(page: Page, numbers: _Numbers, colors: int, top: float | None) -> NDArray[np.uint8] | None:
    """Return the sample after those of color where the page says that it is alpha: [H, W]."""
    if numbers.samples <= colors or page.number(EXTRA_SAMPLES) not in (_ALPHA, _PREMULTIPLIED):
        return None
    return to_bytes(lambda start, end: numbers.rows(start, end)[..., colors], page.size, top=top)[0]


def _numbers(page: Page, kind: str) -> _Numbers | None:
    """Unpack the bytes of a page; None where their layout is not known."""
    (width, height), samples = page.size, page.number(SAMPLES, 1)
    dtype = np.dtype(f"{page.tiff.order}{kind}{page.bits // 8}")
    planes = samples if page.number(PLANAR, 1) == _SEPARATE else 1
    is_tiled = TILES in page.entries
    block = page.number(TILE_WIDTH) if is_tiled else width
    rows = page.number(TILE_HEIGHT) if is_tiled else min(page.number(ROWS_PER_STRIP, height), height)
    is_known = page.number(COMPRESSION, 1) in _OF_BYTES and page.number(FILL_ORDER, 1) == 1
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
    predictor = page.number(PREDICTOR, 1)
    return _Numbers(packed, page.size, dtype, samples, planes, plane_rows, block, predictor)


def _packed(page: Page, size: tuple[int, int], rows: int, tile: tuple[int, int] | None) -> Image.Image:
    """Let libtiff unpack the data as a gray picture of bytes."""
    order = page.tiff.order
    numbers = {
        WIDTH: size[0],
        HEIGHT: size[1],
        BITS: 8,
        PHOTOMETRIC: 1,
        SAMPLES: 1,
        **({TILE_WIDTH: tile[0], TILE_HEIGHT: tile[1]} if tile else {ROWS_PER_STRIP: rows}),
    }
    directory = copied(page, _PLACES)
    directory |= {tag: (_LONG, struct.pack(order + "I", number)) for tag, number in numbers.items()}
    image = TiffImagePlugin.TiffImageFile(with_directory(page.tiff, directory))
    image.im = Image.new("L", size).im  # Pillow would take its bytes for pixels, and these for too many
    image.load()
    return image
