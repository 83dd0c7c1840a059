"""Builders of hostile files: small code in place of binaries, for tests and for `benchmarks/attacks.py`.

Each builder returns the bytes of one file and says in its first line what the file provokes. `PHOTOS`,
`MARKUP`, `DEPTHS` and `RECIPES` list them by name, for the door through which each is sent.
"""

import io
import itertools
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import pillow_heif
from PIL import Image

Builder = Callable[[], bytes]

SIDE_PX = 64  # of pictures whose pixels do not matter
BYTE, ASCII, SHORT, LONG, UNDEFINED = 1, 2, 3, 4, 7  # TIFF 6.0, section 2: types of values
_EXIF_HEADER = b"Exif\0\0"
_FIRST_FREE_TAG = 0xC000  # tags from here on are private
_JPEG_SEGMENT = 65_533  # bytes of content that one segment can hold


# -- TIFF and EXIF --------------------------------------------------------------------------------------


def tiff_directory(entries: Iterable[tuple[int, int, int, int]], *, following: int = 0) -> bytes:
    """Return a TIFF directory of (tag, type, count, value or offset), and the offset of the next one."""
    rows = [struct.pack("<HHII", *entry) for entry in sorted(entries)]
    return struct.pack("<H", len(rows)) + b"".join(rows) + struct.pack("<I", following)


def tiff_pointers(*, size: int = 8_000_000, tags: int = 750) -> bytes:
    """Make a reader copy the same bytes once for each tag: 8 MB become 6 GB."""
    rows = [*_grey(SIDE_PX, SIDE_PX, pixels_at=8), *_pointers(tags, count=size - 8, offset=8)]
    return struct.pack("<2sHI", b"II", 42, size) + bytes(size - 8) + tiff_directory(rows)


def tiff_pages(*, pages: int = 200_000) -> bytes:
    """Make a reader that counts pages read a chain of 200,000 directories."""
    pixels_at, first = 8, 8 + SIDE_PX**2
    page_bytes = 2 + 12 * len(_grey(SIDE_PX, SIDE_PX, pixels_at=pixels_at)) + 4
    parts = [struct.pack("<2sHI", b"II", 42, first), bytes(SIDE_PX**2)]
    for number in range(pages):
        following = first + (number + 1) * page_bytes if number + 1 < pages else 0
        parts.append(tiff_directory(_grey(SIDE_PX, SIDE_PX, pixels_at=pixels_at), following=following))
    return b"".join(parts)


def tiff_floats(*, side: int = 10_000, rows_per_strip: int = 10) -> bytes:
    """Make a reader allocate 100 million floats for 9 kB: all strips are the same compressed zeros."""
    strip = zlib.compress(bytes(rows_per_strip * side * 4), 9)
    count = side // rows_per_strip
    offsets_at = 8 + len(strip) + len(strip) % 2
    counts_at = offsets_at + 4 * count
    rows = [
        *_described(side, side, bits=32, rows_per_strip=rows_per_strip, compression=8),
        (273, LONG, count, offsets_at),
        (279, LONG, count, counts_at),
        (339, SHORT, 1, 3),  # IEEE floats
    ]
    head = struct.pack("<2sHI", b"II", 42, counts_at + 4 * count) + strip.ljust(offsets_at - 8, b"\0")
    tables = struct.pack("<I", 8) * count + struct.pack("<I", len(strip)) * count
    return head + tables + tiff_directory(rows)


def exif_pointers(*, size: int = 1_000_000, tags: int = 1_900) -> bytes:
    """Return EXIF (without its header) whose tags all point at the same bytes: 1 MB become 1.9 GB."""
    directory = tiff_directory(
        [(0x0112, SHORT, 1, 1), *_pointers(tags, count=size - 8 - 12 * (tags + 1) - 6, offset=0)]
    )
    data_at = 8 + len(directory)
    directory = tiff_directory(
        [(0x0112, SHORT, 1, 1), *_pointers(tags, count=size - data_at, offset=data_at)]
    )
    return struct.pack("<2sHI", b"II", 42, 8) + directory + bytes(size - data_at)


def exif_in_jpeg(exif: bytes = b"") -> bytes:
    """Carry `exif_pointers` in a JPEG, in 16 segments that readers join."""
    plain, exif = _encoded("JPEG"), exif or exif_pointers()
    most = _JPEG_SEGMENT - len(_EXIF_HEADER)
    parts = [exif[start : start + most] for start in range(0, len(exif), most)]
    return plain[:2] + b"".join(_jpeg_segment(0xE1, _EXIF_HEADER + part) for part in parts) + plain[2:]


def exif_in_png(exif: bytes = b"") -> bytes:
    """Carry `exif_pointers` in a PNG."""
    plain = _encoded("PNG")
    return plain[:33] + png_chunk(b"eXIf", exif or exif_pointers()) + plain[33:]  # after IHDR


def exif_in(kind: str, exif: bytes = b"") -> bytes:
    """Carry `exif_pointers` in a WebP, AVIF or HEIF, written with a harmless one of the same length."""
    exif = exif or exif_pointers()
    harmless = struct.pack("<2sHI", b"II", 42, 8) + tiff_directory([(0x0128, SHORT, 1, 2)])
    harmless += np.random.default_rng(0).bytes(len(exif) - len(harmless))
    carrier = _encoded(kind, exif=_EXIF_HEADER + harmless)
    if harmless not in carrier:
        raise ValueError(f"{kind} did not take EXIF as it was")
    return carrier.replace(harmless, exif)


def _pointers(tags: int, *, count: int, offset: int) -> list[tuple[int, int, int, int]]:
    return [(_FIRST_FREE_TAG + number, UNDEFINED, count, offset) for number in range(tags)]


def _grey(width: int, height: int, *, pixels_at: int) -> list[tuple[int, int, int, int]]:
    """Return the entries of an uncompressed gray picture in one strip."""
    rows = _described(width, height, bits=8, rows_per_strip=height, compression=1)
    return [*rows, (273, LONG, 1, pixels_at), (279, LONG, 1, width * height)]


def _described(
    width: int, height: int, *, bits: int, rows_per_strip: int, compression: int
) -> list[tuple[int, int, int, int]]:
    return [
        (256, LONG, 1, width),
        (257, LONG, 1, height),
        (258, SHORT, 1, bits),
        (259, SHORT, 1, compression),
        (262, SHORT, 1, 1),  # 0 is black
        (277, SHORT, 1, 1),  # one channel
        (278, LONG, 1, rows_per_strip),
    ]


# -- JPEG, GIF and PNG ----------------------------------------------------------------------------------


def jpeg_scans(*, side: int = 9_984, size: int = 960_000) -> bytes:
    """Make a reader go over 100 million pixels once for each of thousands of scans of a hundred bytes."""
    blocks = (side // 8) ** 2
    runs = -(-blocks // 0x7FFF)
    # Code 0 is symbol 0xE0, a run of 2**14 + 14 bits of blocks that end at once.
    bits = ("0" + "1" * 14) * runs
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    head = b"\xff\xd8" + _jpeg_segment(0xDB, b"\0" + b"\1" * 64)
    head += _jpeg_segment(0xC2, struct.pack(">BHHB3B", 8, side, side, 1, 1, 0x11, 0))
    head += _jpeg_segment(0xC4, b"\x00" + _one_code(0)) + _jpeg_segment(0xC4, b"\x10" + _one_code(0xE0))
    first = _jpeg_segment(0xDA, bytes((1, 1, 0x00, 0, 0, 0))) + bytes(-(-blocks // 8))  # all levels 0
    scan = _jpeg_segment(0xDA, bytes((1, 1, 0x00, 1, 63, 0))) + data
    return head + first + scan * ((size - len(head) - len(first)) // len(scan)) + b"\xff\xd9"


def gif_comments(*, size: int = 15_000_000) -> bytes:
    """Make a reader join 60,000 blocks of one comment, each time copying all before it."""
    plain = _encoded("GIF")
    block = b"\xff" + b"c" * 255
    comment = b"!\xfe" + block * (size // len(block)) + b"\0"
    start = 13 + (3 * 2 ** ((plain[10] & 7) + 1) if plain[10] & 0x80 else 0)
    return plain[:start] + comment + plain[start:]


def gif_frames(*, frames: int = 2_000_000) -> bytes:
    """Make a reader that counts frames go through two million of a pixel each (30 MB)."""
    screen = struct.pack("<6sHHBBB", b"GIF89a", SIDE_PX, SIDE_PX, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = struct.pack("<BHHHHB", 0x2C, 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    return screen + frame * frames + b";"


def png_empty_chunks(*, chunks: int = 8_000_000) -> bytes:
    """Make a reader look at eight million chunks that hold nothing (96 MB)."""
    plain = _encoded("PNG")
    return plain[:33] + png_chunk(b"maRg", b"") * chunks + plain[33:]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG with its checksum."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _jpeg_segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _one_code(symbol: int) -> bytes:
    """Return a Huffman table with the one code 0, of one bit."""
    return b"\1" + bytes(15) + bytes((symbol,))


def _encoded(kind: str, **options: object) -> bytes:
    """Return a small picture in a format."""
    pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    Image.new("L" if kind == "GIF" else "RGB", (SIDE_PX, SIDE_PX), 128).save(buffer, kind, **options)
    return buffer.getvalue()


# -- markup that is taken for a photo -------------------------------------------------------------------


def comments() -> bytes:
    """Make a pattern for SVG backtrack: 60 empty comments (420 bytes) can be split in 2**59 ways."""
    return b"<!---->" * 60


def long_comments() -> bytes:
    """Make a pattern for SVG backtrack over comments with spaces and dashes between them."""
    return b"<?xml version='1.0'?>\n" + b"<!-- - --> \n" * 400


def doctypes() -> bytes:
    """Make a pattern for SVG backtrack over document types and comments in turn."""
    return b"<!DOCTYPE svg><!---->" * 200


def spaces() -> bytes:
    """Make patterns that begin with spaces start anew at each of a million."""
    return b" \t\n\r" * 250_000 + b"<sv"


def open_declarations() -> bytes:
    """Make a pattern look for the end of each of thousands of declarations that have none."""
    return b"<?xml " * 100_000


def brackets() -> bytes:
    """Make a pattern nest over thousands of half-open tags."""
    return b"<" * 200_000 + b"!--" * 200_000


# -- depth files ----------------------------------------------------------------------------------------


def npy_header(shape: tuple[int, ...], *, kind: str = "<f8") -> bytes:
    """Return the header of a .npy file, padded as numpy does."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"


def npz_zeros(*, side: int = 5_600, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Make a reader unpack two arrays of 31 million float64, and fill all pixels from a valid one."""
    array = npy_header((side, side)) + bytes(side * side * 8)
    valid = npy_header((side, side), kind="|u1") + bytes(side * side - 1) + b"\1"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("depth.npy", array)
        archive.writestr("uncertainty.npy", array)
        archive.writestr("valid.npy", valid)
    return buffer.getvalue()


def zip_members(*, size: int = 90_000_000) -> bytes:
    """Make a reader of zip files build a list of 1.9 million members."""
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    entries = size // len(entry)
    first = b"PK\3\4" + bytes(28)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFE, 0xFFFE, entries * len(entry), len(first), 0)
    return first + entry * entries + end


def npz_lies() -> bytes:
    """Announce a gigabyte in the archive and in the array where a kilobyte is stored."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", npy_header((5_600, 5_600)) + bytes(1_000))
    data = bytearray(buffer.getvalue())
    central = data.index(b"PK\1\2")
    struct.pack_into("<I", data, central + 24, 2**31 - 1)
    return bytes(data)


# -- recipes --------------------------------------------------------------------------------------------


def recipe_wide(*, size: int = 99_000_000) -> bytes:
    """Make a JSON reader build 33 million empty objects, over 2 GB, for 99 MB of a recipe."""
    return b'{"depth":{"steps":[' + b"{}," * (size // 3) + b"{}]}}"


def recipe_deep(*, depth: int = 20_000_000) -> bytes:
    """Make a JSON reader go 20 million levels deep."""
    return b'{"depth":' + b"[" * depth


def recipe_glb_deep(*, depth: int = 20_000_000) -> bytes:
    """Make a JSON reader go 20 million levels deep inside a GLB."""
    text = b'{"asset":{"extras":' + b"[" * depth
    return b"glTF" + struct.pack("<4I", 2, 20 + len(text), len(text), 0x4E4F534A) + text


def recipe_in_zip(*, size: int = 10**9) -> bytes:
    """Carry a gigabyte of zeros as the model of a 3MF of 4 MB."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("3D/3dmodel.model", "w", force_zip64=True) as model,
    ):
        block = bytes(10**7)
        for _ in range(size // len(block)):
            model.write(block)
    return buffer.getvalue()


def recipe_markup() -> bytes:
    """Make the pattern that finds a recipe in a 3MF start anew at each of 25,000 openings without an end."""
    head = b'<metadata name="' + b"w" * 20
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("3D/3dmodel.model", (head * 25_000)[: 2**20])
    return buffer.getvalue()


def deep_json(*, depth: int = 400_000) -> bytes:
    """Return a body of 0.9 MB for an endpoint whose lists are nested 400,000 deep and closed."""
    return b'{"data":' + b"[" * depth + b"]" * depth + b"}"


def wide_json(*, size: int = 900_000) -> bytes:
    """Return a body for an endpoint with a hundred thousand keys."""
    keys = {f"k{number}": number for number in itertools.islice(itertools.count(), size // 16)}
    return json.dumps({"data": [keys]}).encode()


PHOTOS: dict[str, Builder] = {
    "tiff-pointers": tiff_pointers,
    "tiff-pages": tiff_pages,
    "tiff-floats": tiff_floats,
    "exif-jpeg": exif_in_jpeg,
    "exif-png": exif_in_png,
    "exif-webp": partial(exif_in, "WEBP"),
    "exif-avif": partial(exif_in, "AVIF"),
    "exif-heic": partial(exif_in, "HEIF"),
    "jpeg-scans": jpeg_scans,
    "gif-comments": gif_comments,
    "gif-frames": gif_frames,
    "png-chunks": png_empty_chunks,
}
MARKUP: dict[str, Builder] = {
    "comments": comments,
    "long-comments": long_comments,
    "doctypes": doctypes,
    "spaces": spaces,
    "declarations": open_declarations,
    "brackets": brackets,
}
DEPTHS: dict[str, Builder] = {
    "npz-zeros": npz_zeros,
    "npz-bzip2": partial(npz_zeros, method=zipfile.ZIP_BZIP2),
    "npz-lies": npz_lies,
    "zip-members": zip_members,
}
RECIPES: dict[str, Builder] = {
    "recipe-wide": recipe_wide,
    "recipe-deep": recipe_deep,
    "recipe-glb-deep": recipe_glb_deep,
    "recipe-zip": recipe_in_zip,
    "recipe-markup": recipe_markup,
}
