"""Camera raw -> the full-size JPEG inside it, or a sentence that names camera raw; never its thumbnail.

Every camera lays out its files in its own way, but all put whole JPEGs into them. The largest one is taken
where it is about as large as the raw picture, or large enough for every use here.
"""

import itertools
from dataclasses import replace
from typing import BinaryIO

from marigold_demo.errors import PhotoError
from marigold_demo.io import jpeg
from marigold_demo.io import tiff_tags as tags
from marigold_demo.io.jpeg import Frame
from marigold_demo.io.limits import READ_ERRORS, SAVE_AS, positions, size_of, spliced
from marigold_demo.io.pixels import Picture
from marigold_demo.io.tiff_tags import Page, Tiff

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


def decode(file: BinaryIO, kind: str) -> Picture:
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
        picture = jpeg.decode(spliced(file, [(found[0], size_of(file))]))
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
    for at in itertools.islice(positions(file, jpeg.SOI + b"\xff"), _MOST_JPEGS):
        frame = None if at in tiles else jpeg.read_frame(file, at)
        is_shown = frame is not None and frame.bits == 8 and len(frame.sampling) == 3 and frame.process <= 2
        if frame is not None and is_shown and (best is None or _area(frame) > _area(best[1])):
            best = at, frame
    return best


def _area(frame: Frame) -> int:
    return frame.size[0] * frame.size[1]
