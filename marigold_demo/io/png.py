"""PNG -> decoded picture, judged by its pixels as browsers do.

The reader sees the chunks that matter for pixels only: text of any length is left out, damaged
chunks that are not pixels are dropped, and the end marker is always there.
"""

import struct
import zlib
from dataclasses import dataclass, field
from typing import BinaryIO

from PIL import PngImagePlugin

from marigold_demo.errors import PhotoError
from marigold_demo.io.limits import READ_ERRORS, Part, check_size, damaged, size_of, spliced, unsupported
from marigold_demo.io.pixels import WRONG_PROFILE, Picture, Signal, coded_signal, power_signal

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_MAX_CHUNKS = 100_000
_MAX_PROFILE_BYTES = 4 * 2**20
_MAX_TEXT_BYTES = 2**18
_BLOCK, _FED_BYTES = 2**20, 4096
_MOST_MISSING = 0.05  # share of the rows; beyond it a picture is refused
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT")
_KEPT = (*_PIXEL_CHUNKS, b"tRNS", b"eXIf")
_NOTED = (b"cICP", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"acTL", b"fcTL")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION_TEXTS = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of each color type
_END = b"\0\0\0\0IEND\xaeB`\x82"


@dataclass
class _Chunks:
    """What a file consists of.

    Attributes:
        header: Data of IHDR.
        kept: Kind and parts of the chunks that the reader gets, in their order.
        pixels: Where the data of the IDAT chunks begins and ends.
        noted: Data of chunks that are read here, the first of each kind.
        damaged: Kinds of chunks that were dropped for their wrong checksum.
        frame: Chunks of the first frame of a film whose still picture is not part of it.
        controls: How many frames have begun.
        still_is_a_frame: Whether the IDAT chunks are the first frame.
    """

    header: bytes
    kept: list[tuple[bytes, list[Part]]] = field(default_factory=list)
    pixels: list[tuple[int, int]] = field(default_factory=list)
    noted: dict[bytes, bytes] = field(default_factory=dict)
    damaged: set[bytes] = field(default_factory=set)
    frame: list[Part] = field(default_factory=list)
    controls: int = 0
    still_is_a_frame: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, height = struct.unpack_from(">II", self.header)
        return width, height


def decode(file: BinaryIO) -> Picture:
    """Decode a PNG, or the first frame of an animated one.

    Raises:
        PhotoError: The size is out of bounds, pixels are damaged, or more than a twentieth is missing.
    """
    chunks = _read_chunks(file)
    image = PngImagePlugin.PngImageFile(spliced(file, [SIGNATURE, *_picture(chunks), _END]))
    notes: tuple[str, ...] = ()
    try:
        image.load()
    except (*READ_ERRORS, AssertionError) as error:
        notes = _incomplete(_rows_there(file, chunks), image.height, error)
        image.tile = []  # what was decoded stays
    profile, profile_notes = (None, ()) if _has_codes(chunks) else _profile(chunks)
    if profile:
        image.info["icc_profile"] = profile
    signal = _signal(chunks, has_profile=bool(profile))
    return Picture(image, signal=signal, notes=_frame_notes(chunks) + notes + profile_notes)


def _incomplete(rows: int, height: int, error: Exception) -> tuple[str, ...]:
    """Return the note of a picture whose first `rows` rows could be decoded.

    Raises:
        PhotoError: More than a twentieth is missing.
    """
    missing = height - rows
    share = missing / height
    if share > _MOST_MISSING:
        raise damaged(f": the lowest {share:.0%} of it is missing" if rows else "") from error
    if not missing:
        return ()
    return (f"The file is incomplete: the lowest {missing} of {height} rows ({share:.1%}) are missing.",)


def _read_chunks(file: BinaryIO) -> _Chunks:
    size = size_of(file)
    file.seek(len(SIGNATURE))
    chunks = _Chunks(_header(file))
    for _ in range(_MAX_CHUNKS):
        begin, head = file.tell(), file.read(8)
        kind = head[4:]
        if len(head) < 8 or not kind.isalpha() or kind == b"IEND":
            break
        end = begin + 8 + int.from_bytes(head[:4], "big")
        if end + 4 > size:  # the file ends within it
            if kind == b"IDAT":
                _add_pixels(chunks, begin + 8, size)
            break
        _add(file, chunks, kind, begin, end)
        file.seek(end + 4)
    else:
        raise PhotoError("The PNG is built of too many parts, as no picture is; save it again.")
    if not chunks.pixels:
        raise damaged()
    return chunks


def _header(file: BinaryIO) -> bytes:
    """Read IHDR, which comes first, and go back to its begin."""
    begin, head = file.tell(), file.read(25)
    if head[4:8] == b"CgBI":
        raise unsupported("a PNG in the form that iPhone apps have")
    if len(head) < 25 or head[:8] != b"\0\0\0\rIHDR":
        raise damaged()
    file.seek(begin)
    check_size(struct.unpack_from(">II", head, 8))
    return head[8:21]


def _add(file: BinaryIO, chunks: _Chunks, kind: bytes, begin: int, end: int) -> None:
    """Sort one whole chunk, with its data from `begin` + 8 to `end`, by what it is for."""
    is_wanted = kind in _KEPT or kind in _NOTED or kind in _TEXTS
    if kind == b"fdAT":
        if chunks.controls == 1 and not chunks.still_is_a_frame and end - begin > 12:
            chunks.frame += _idat(begin + 12, end)  # after its number
    elif not is_wanted or (kind in _TEXTS and not _tells_orientation(file, kind, begin + 8, end)):
        return
    elif not _is_sound(file, begin, end):
        if kind in _PIXEL_CHUNKS:
            raise damaged()
        chunks.damaged.add(kind)
    elif kind in _NOTED:
        file.seek(begin + 8)
        chunks.noted.setdefault(kind, file.read(min(end - begin - 8, _MAX_PROFILE_BYTES)))
        chunks.controls += kind == b"fcTL"
    elif kind == b"IDAT":
        _add_pixels(chunks, begin + 8, end)
    else:
        chunks.kept.append((kind, [(begin, end + 4)]))


def _add_pixels(chunks: _Chunks, begin: int, end: int) -> None:
    if not chunks.pixels:
        chunks.still_is_a_frame = chunks.controls > 0
    chunks.pixels.append((begin, end))
    chunks.kept.append((b"IDAT", _idat(begin, end)))


def _idat(begin: int, end: int) -> list[Part]:
    """Return a chunk of pixels; the reader passes over its checksum."""
    return [struct.pack(">I4s", end - begin, b"IDAT"), (begin, end), bytes(4)]


def _picture(chunks: _Chunks) -> list[Part]:
    """Return the chunks of the still picture, or those of the first frame where the film is without it."""
    control = chunks.noted.get(b"fcTL", b"").ljust(20, b"\xff")
    fills_canvas = struct.unpack_from(">4I", control, 4) == (*chunks.size, 0, 0)
    if not chunks.frame or not fills_canvas:
        return [part for _, parts in chunks.kept for part in parts]
    others = [part for kind, parts in chunks.kept if kind != b"IDAT" for part in parts]
    return [*others, *chunks.frame]


def _tells_orientation(file: BinaryIO, kind: bytes, begin: int, end: int) -> bool:
    """Return whether text is short and of a kind that may say how the picture must be turned."""
    if end - begin > _MAX_TEXT_BYTES:
        return False
    file.seek(begin)
    keyword, _, data = file.read(end - begin).partition(b"\0")
    if keyword not in _ORIENTATION_TEXTS:
        return False
    packed = data[1:] if kind == b"zTXt" else b""  # after the method
    if kind == b"iTXt" and data.startswith(b"\1"):  # a flag; then method, language, translated keyword
        packed = data[2:].partition(b"\0")[2].partition(b"\0")[2]
    return not packed or len(_unpacked(packed, _MAX_TEXT_BYTES) or b"") < _MAX_TEXT_BYTES


def _is_sound(file: BinaryIO, begin: int, end: int) -> bool:
    """Hold the checksum of a chunk against its kind and data."""
    file.seek(begin + 4)
    checksum, left = 0, end - begin - 4
    while left:
        block = file.read(min(left, _BLOCK))
        checksum, left = zlib.crc32(block, checksum), left - len(block)
    return file.read(4) == struct.pack(">I", checksum)


def _has_codes(chunks: _Chunks) -> bool:
    """Return whether the colors are given by codes of ITU-T H.273, which go before a profile."""
    cicp = chunks.noted.get(b"cICP", b"")
    return len(cicp) == 4 and cicp[2] == 0


def _signal(chunks: _Chunks, *, has_profile: bool) -> Signal | None:
    """Return what the numbers mean; the order of what counts is that of PNG, third edition, 4.3."""
    if _has_codes(chunks):
        return coded_signal(*chunks.noted[b"cICP"][:2])
    if has_profile or b"sRGB" in chunks.noted:
        return None
    gamma, xy = chunks.noted.get(b"gAMA", b""), chunks.noted.get(b"cHRM", b"")
    numbers = struct.unpack(">8I", xy) if len(xy) == 32 else ()
    is_whole = all(0 < number < 100_000 for number in numbers[1::2])
    return power_signal(
        int.from_bytes(gamma, "big") / 100_000 if len(gamma) == 4 else None,
        tuple(number / 100_000 for number in numbers) if numbers and is_whole else None,
    )


def _profile(chunks: _Chunks) -> tuple[bytes | None, tuple[str, ...]]:
    """Return the ICC profile; one that is damaged or too long is left aside with a note."""
    if b"iCCP" in chunks.damaged:
        return None, (WRONG_PROFILE,)
    data = chunks.noted.get(b"iCCP")
    if data is None:
        return None, ()
    name_end = data.find(b"\0")
    profile = _unpacked(data[name_end + 2 :], _MAX_PROFILE_BYTES) if name_end >= 0 else None
    whole = profile and len(profile) < _MAX_PROFILE_BYTES
    return (profile, ()) if whole else (None, (WRONG_PROFILE,))


def _unpacked(data: bytes, at_most: int) -> bytes | None:
    try:
        return zlib.decompressobj().decompress(data, at_most)
    except zlib.error:
        return None


def _frame_notes(chunks: _Chunks) -> tuple[str, ...]:
    control = chunks.noted.get(b"acTL", b"")
    frames = int.from_bytes(control[:4], "big")
    return (f"This is the first of {frames} frames; the others are not used.",) if frames > 1 else ()


def _rows_there(file: BinaryIO, chunks: _Chunks) -> int:
    """Count the whole rows that the data has; 0 for interlaced pictures and for films."""
    width, height, depth, kind, _, _, interlaced = struct.unpack(">2I5B", chunks.header)
    if interlaced or chunks.frame or kind not in _CHANNELS:
        return 0
    row_bytes = 1 + (width * _CHANNELS[kind] * depth + 7) // 8
    stream, count = zlib.decompressobj(), 0
    try:
        for begin, end in chunks.pixels:
            for at in range(begin, end, _FED_BYTES):
                file.seek(at)
                data = file.read(min(_FED_BYTES, end - at))
                while data and count < height * row_bytes:
                    count += len(stream.decompress(data, _BLOCK))
                    data = stream.unconsumed_tail
    except zlib.error:
        pass
    return int(min(count // row_bytes, height))
