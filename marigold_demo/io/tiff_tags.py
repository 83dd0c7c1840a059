"""The directories of a TIFF, BigTIFF or TIFF-like raw file -> pages with their tags.

Only what is asked for is read, so that a file with thousands of pages, or with tags that claim gigabytes,
costs no more than another one.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from marigold_demo.io.limits import damaged, size_of, spliced

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
