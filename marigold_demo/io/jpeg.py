"""JPEG -> decoded picture, reduced where it is very large; also the JPEG inside a camera raw file.

Pillow refuses a file whose last bytes are missing although all pixels are there. Such a file is decoded
twice, with different bytes put in place of its end: the first row that differs is the first that is missing.

Every camera lays out its raw files in its own way, but all put whole JPEGs into them. The largest one is
taken where it is about as large as the raw picture, or large enough for every use here; never a thumbnail.
"""

import io
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO, BinaryIO

from PIL import Image, ImageChops, JpegImagePlugin

from marigold_demo.errors import PhotoError
from marigold_demo.io import tiff as tags
from marigold_demo.io.limits import (
    MAX_JPEG_PIXELS,
    READ_ERRORS,
    SAVE_AS,
    check_size,
    damaged,
    positions,
    size_of,
    spliced,
    unsupported,
)
from marigold_demo.io.pixels import Picture
from marigold_demo.io.tiff import Page, Tiff

SOI, _EOI = b"\xff\xd8", b"\xff\xd9"

DECODED_PIXELS = 64_000_000  # more are reduced by 2, 4 or 8 while they are decoded
_MAX_SEGMENTS, _MAX_JUNK_BYTES = 20_000, 2**16
_MAX_SCANS = 200  # encoders write about ten; each costs a pass over the whole picture
_MAX_SCANNED_PIXELS = 4_000_000_000  # of all scans: some seconds
_MAX_COEFFICIENTS_BYTES = 900_000_000
_MOST_MISSING = 0.05  # share of the rows; beyond it a picture is refused
_LOSSLESS = 3
_ARITHMETIC = (9, 10)  # sequential, progressive
_PROGRESSIVE = (2, 10)
_SOF = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_SOS = 0xDA
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
# Ends of a file to compare by: nothing but the end, and data that decodes to something else than gray.
_PLAIN_END = _EOI
_OTHER_END = bytes(range(1, 250, 7)) * 16 + _EOI
_ZEROS = 1024  # as many at the end of a file stand for data that never arrived
TIFF_LIKE = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0")  # Olympus, Panasonic
_BY_SIGNATURE = (
    (TIFF_LIKE[:3], "ORF"),
    (TIFF_LIKE[3:], "RW2"),
    ((b"FUJIFILMCCD-RAW",), "RAF"),
    ((b"FOVb",), "X3F"),
    ((b"\0MRM",), "MRW"),
    ((b"II\x1a\0\0\0HEAPCCDR",), "CRW"),
)
_BY_MAKE = (
    (b"nikon", "NEF"), (b"canon", "CR2"), (b"sony", "ARW"), (b"pentax", "PEF"), (b"ricoh", "PEF"),
    (b"seiko epson", "ERF"), (b"samsung", "SRW"), (b"hasselblad", "3FR"), (b"kodak", "DCR"),
)  # fmt: skip
_RAW_COLORS = (32803, 34892)  # photometric interpretation: color filter array, linear raw
_RAW_PACKINGS = (32767, 32769, 32770, 34713, 65000, 65535)  # of Sony, Epson, Samsung, Nikon, Kodak, Pentax
_MOST_JPEGS, _MOST_TILES = 500, 10_000
_AS_LARGE = 0.8  # of the raw picture's long side: cameras leave out a border
_LARGE_PX = 1024  # long side that always suffices: estimation works on less


@dataclass(frozen=True)
class Frame:
    """What the frame header of a JPEG says.

    Attributes:
        process: Low half of the SOF marker: 0 baseline, 1 extended, 2 progressive, 3 lossless.
        bits: Per sample.
        size: Width and height in pixels.
        sampling: Horizontal and vertical sampling factor of each component.
        scans_at: Where the first scan's marker begins in the file.
    """

    process: int
    bits: int
    size: tuple[int, int]
    sampling: tuple[tuple[int, int], ...]
    scans_at: int

    @property
    def coefficients_bytes(self) -> int:
        """Memory of all coefficients, which a picture of several scans needs at once."""
        width, height = self.size
        widest, highest = (max(factors, default=1) for factors in zip(*self.sampling, strict=True))
        share = sum(across * down for across, down in self.sampling) / max(widest * highest, 1)
        return int(2 * width * height * share)


def decode(file: BinaryIO) -> Picture:
    """Decode a JPEG or the first picture of an MPO.

    Raises:
        PhotoError: The kind is not supported, the size is out of bounds, or more than a twentieth is missing.
    """
    frame = read_frame(file)
    if frame is None:
        raise damaged()
    _check(file, frame)
    end = _end_of_data(file)
    image = _opened(spliced(file, [(0, end)]), frame)
    try:
        image.load()
    except OSError as error:
        try:
            return _completed(file, end, frame)
        except (*READ_ERRORS, AssertionError):
            raise unsupported("a lossless JPEG") if frame.process == _LOSSLESS else error from None
    return Picture(image, full_size=frame.size)


def read_frame(file: IO[bytes], start: int = 0) -> Frame | None:
    """Read the frame header of the JPEG that begins at `start`; None where there is none before a scan."""
    found: tuple[int, bytes] | None = None
    for marker, begin, end in segments(file, start):
        if marker == _SOS:
            return _frame(*found, scans_at=begin - 4) if found else None
        if marker in _SOF:
            file.seek(begin)
            found = marker & 0xF, file.read(end - begin)
    return None


def segments(file: IO[bytes], start: int = 0) -> Iterator[tuple[int, int, int]]:
    """Yield marker, and where the data begins and ends, of all segments up to the first scan's."""
    file.seek(start)
    if file.read(2) != SOI:
        return
    for _ in range(_MAX_SEGMENTS):
        marker = _next_marker(file)
        if marker is None or marker in (0xD8, 0xD9):
            return
        if marker in _ALONE:
            continue
        begin, head = file.tell() + 2, file.read(2)
        length = int.from_bytes(head, "big")
        if len(head) < 2 or length < 2:
            return
        yield marker, begin, begin + length - 2
        if marker == _SOS:
            return
        file.seek(begin + length - 2)


def _next_marker(file: IO[bytes]) -> int | None:
    """Return the next marker, after padding and junk of some length; None without one."""
    before = b""
    for _ in range(_MAX_JUNK_BYTES):
        byte = file.read(1)
        if not byte:
            return None
        if before == b"\xff" and byte not in (b"\xff", b"\0"):
            return byte[0]
        before = byte
    return None


def _frame(process: int, data: bytes, *, scans_at: int) -> Frame | None:
    if len(data) < 6 or len(data) < 6 + 3 * data[5] or not data[5]:
        return None
    bits, height, width = struct.unpack_from(">BHH", data)
    sampling = tuple((data[at] >> 4, data[at] & 15) for at in range(7, 7 + 3 * data[5], 3))
    return Frame(process, bits, (width, height), sampling, scans_at)


def _check(file: BinaryIO, frame: Frame) -> None:
    """Refuse what cannot be read, or only with too much time or memory, before it is decoded."""
    if frame.bits != 8 or (frame.process > _LOSSLESS and frame.process not in _ARITHMETIC):
        how = "lossless " if frame.process & 3 == _LOSSLESS else ""
        bits = f" with {frame.bits} bits for each color" if frame.bits != 8 else ""
        raise unsupported(f"a {how or 'hierarchical ' * (not bits)}JPEG{bits}")
    check_size(frame.size, max_pixels=MAX_JPEG_PIXELS)
    file.seek(frame.scans_at + 4)
    if file.read(1) == bytes([len(frame.sampling)]) and frame.process not in _PROGRESSIVE:
        return  # one scan has it all
    if frame.coefficients_bytes > _MAX_COEFFICIENTS_BYTES:
        raise PhotoError("A progressive JPEG of this size takes too much memory; save it as a baseline JPEG.")
    count = len(_scans(file, frame))
    if count > _MAX_SCANS or count * frame.size[0] * frame.size[1] > _MAX_SCANNED_PIXELS:
        raise PhotoError(f"The JPEG is built of too many scans, which takes too long; {SAVE_AS}.")


def _scans(file: BinaryIO, frame: Frame) -> list[int]:
    """Return where the scans of a picture begin; at most one more than are allowed."""
    end = next(positions(file, _EOI, start=frame.scans_at), None)
    found: list[int] = []
    for at in positions(file, b"\xff\xda", start=frame.scans_at, end=end):
        found.append(at)
        if len(found) > _MAX_SCANS:
            break
    return found


def _end_of_data(file: BinaryIO) -> int:
    """Return the length of a file without many zeros at its end, nor half a marker."""
    end = size_of(file)
    block = _tail(file, end, _ZEROS)
    if block.count(0) == _ZEROS:
        while block and not block.strip(b"\0"):
            end -= len(block)
            block = _tail(file, end, 2**16)
        end -= len(block) - len(block.rstrip(b"\0"))
        block = _tail(file, end, _ZEROS)
    return end - 1 if block.endswith(b"\xff") else end


def _tail(file: BinaryIO, end: int, count: int) -> bytes:
    begin = max(0, end - count)
    file.seek(begin)
    return file.read(end - begin)


def _opened(view: BinaryIO, frame: Frame) -> Image.Image:
    """Open at full size, or at a half, quarter or eighth of it where that would be too large."""
    image = JpegImagePlugin.JpegImageFile(view)
    width, height = image.size
    check_size(image.size, max_pixels=MAX_JPEG_PIXELS)
    scale = _scale(width, height)
    if scale > 1 and frame.process != _LOSSLESS:
        image.draft(None, (max(1, width // scale), max(1, height // scale)))
    return image


def _scale(width: int, height: int) -> int:
    return next((s for s in (1, 2, 4) if width * height <= DECODED_PIXELS * s**2), 8)


def _completed(file: BinaryIO, end: int, frame: Frame) -> Picture:
    """Decode a JPEG whose end is missing, with a note on how much that is.

    Raises:
        PhotoError: More than a twentieth of the rows is missing.
    """
    image = _opened(spliced(file, [(0, end), _PLAIN_END]), frame)
    image.load()
    other = _opened(spliced(file, [(0, end), _OTHER_END]), frame)
    other.load()
    top = _first_difference(image, other)
    if top is None:
        return Picture(image, full_size=frame.size)
    if frame.process in _PROGRESSIVE and _has_whole_first_scans(file, frame):
        note = "The file is incomplete: the finest details of the picture are missing."
        return Picture(image, full_size=frame.size, notes=(note,))
    share = 1 - top / image.height
    if share > _MOST_MISSING:
        raise damaged(f": the lowest {share:.0%} of it is missing")
    rows = round(share * frame.size[1])
    note = f"The file is incomplete: the lowest {rows} of {frame.size[1]} rows ({share:.1%}) are missing."
    return Picture(image, full_size=frame.size, notes=(note,))


def _first_difference(image: Image.Image, other: Image.Image, band: int = 512) -> int | None:
    """Return the first row in which two pictures of one size differ."""
    for top in range(0, image.height, band):
        box = (0, top, image.width, min(top + band, image.height))
        found = ImageChops.difference(image.crop(box), other.crop(box)).getbbox(alpha_only=False)
        if found:
            return top + found[1]
    return None


def _has_whole_first_scans(file: BinaryIO, frame: Frame) -> bool:
    """Return whether every component's first scan, which has its mean colors, was followed by another."""
    seen: set[int] = set()
    for at in _scans(file, frame)[:-1]:
        file.seek(at)
        head = io.BytesIO(file.read(32)[4:])
        count = int.from_bytes(head.read(1), "big")
        components = head.read(2 * count)[::2]
        lowest, _, approximation = head.read(3).ljust(3, b"\xff")
        if lowest == 0 and approximation >> 4 == 0:
            seen |= set(components)
    return len(seen) == len(frame.sampling)


def raw_kind(start: bytes) -> str | None:
    """Return the kind of raw file that begins in its own way: ORF, RW2, RAF, CR3, ...; None for others."""
    if start[4:11] == b"ftypcrx":
        return "CR3"
    if start[:4] in tags.SIGNATURES and start[8:10] == b"CR":
        return "CR2"
    return next((kind for signatures, kind in _BY_SIGNATURE if start.startswith(signatures)), None)


def raw_kind_of(tiff: Tiff) -> str | None:
    """Return the kind of raw file that begins as TIFF does: NEF, ARW, PEF, DNG, ...; None for a TIFF."""
    first = next(tiff.pages(), None)
    if first is None or not any(_is_raw(page) for page in _all_pages(tiff)):
        return None
    make = first.bytes_of(tags.MAKE, 32).lower()
    named = next((kind for begin, kind in _BY_MAKE if make.startswith(begin)), None)
    return "DNG" if tags.DNG_VERSION in first.entries else named or "raw"


def decode_raw(file: BinaryIO, kind: str) -> Picture:
    """Decode the full-size JPEG of a raw file, with a note.

    Raises:
        PhotoError: There is no such JPEG, or it is damaged.
    """
    tiff = tags.read_tiff(file, raw_signatures=TIFF_LIKE)
    pages = _all_pages(tiff) if tiff else []
    raw_pages = [page for page in pages if _is_raw(page)]
    long_side = max((max(page.size) for page in raw_pages), default=0)
    found = _largest(file, raw_pages)
    enough = min(_LARGE_PX, _AS_LARGE * long_side) if long_side else _LARGE_PX
    refusal = f"The file is a camera raw file ({kind}) without a full-size preview; develop it and {SAVE_AS}."
    if found is None or max(found[1].size) < enough:
        raise PhotoError(refusal)
    try:
        picture = decode(spliced(file, [(found[0], size_of(file))]))
    except (*READ_ERRORS, PhotoError) as error:
        raise PhotoError(refusal) from error
    width, height = found[1].size
    note = (
        f"This is a camera raw file ({kind}); the picture of {width} × {height} pixels that the camera put"
        " into it is used."
    )
    picture = replace(picture, notes=(note, *picture.notes))
    if not pages:
        return picture
    orientation, focal_mm = pages[0].number(tags.ORIENTATION, 1), tags.focal_length(pages[0])
    return replace(picture, orientation=orientation, focal_mm=focal_mm)


def _all_pages(tiff: Tiff) -> list[Page]:
    """Return pages and those under them; raw files have few."""
    found = []
    for number, page in enumerate(tiff.pages()):
        found += [page, *(tiff.sub_pages(page) if number < 8 else ())]
    return found


def _is_raw(page: Page) -> bool:
    return (
        page.number(tags.PHOTOMETRIC) in _RAW_COLORS
        or page.number(tags.COMPRESSION) in _RAW_PACKINGS
        or tags.DNG_VERSION in page.entries
    )


def _largest(file: BinaryIO, raw_pages: list[Page]) -> tuple[int, Frame] | None:
    """Find where the largest JPEG begins that viewers could show and that is no tile of the raw picture."""
    tiles = {
        int(at)
        for page in raw_pages
        for at in (*page.values(tags.STRIPS, _MOST_TILES), *page.values(tags.TILES, _MOST_TILES))
    }
    best: tuple[int, Frame] | None = None
    for at in itertools.islice(positions(file, SOI + b"\xff"), _MOST_JPEGS):
        frame = None if at in tiles else read_frame(file, at)
        is_shown = frame is not None and frame.bits == 8 and len(frame.sampling) == 3 and frame.process <= 2
        if frame is not None and is_shown and (best is None or _area(frame) > _area(best[1])):
            best = at, frame
    return best


def _area(frame: Frame) -> int:
    return frame.size[0] * frame.size[1]
