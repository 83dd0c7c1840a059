"""An open picture file of any kind -> decoded picture and its metadata, or a sentence why not.

Kinds are recognized by the first bytes. Pillow's readers are called by name: its own choice among them
imports others while a file is being read, and has a limit of its own on the size. A GIF is cut down to its
first frame without comments first: Pillow joins comments piece by piece, which takes minutes for megabytes of
them, and counts frames by reading every one.
"""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from typing import IO, BinaryIO

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from pillow_heif.as_plugin import HeifImageFile

from marigold_demo.errors import PhotoError
from marigold_demo.io import jpeg, png, tiff
from marigold_demo.io.color import Signal, coded_signal
from marigold_demo.io.limits import (
    MAX_PIXELS,
    READ_ERRORS,
    SAVE_AS,
    Part,
    check_size,
    damaged,
    spliced,
    start_of,
    too_much_memory,
    unsupported,
)
from marigold_demo.io.phone_depth import PhoneDepth, heic_depth, jpeg_depth
from marigold_demo.io.pixels import ORIENTATION_TAG, Picture
from marigold_demo.io.tiff_tags import SIGNATURES as TIFF_SIGNATURES
from marigold_demo.io.tiff_tags import read_tiff

_LARGE_PIXELS = 32_000_000
_LARGE_JPEG2000_PIXELS = 48_000_000
_MAX_HEIF_PIXELS = 120_000_000  # phones of 108 million
_HEAD_BYTES = 4096  # looked at to name a file's kind
_EXIF_IFD, _FOCAL_LENGTH_35MM = 0x8769, 0xA405
_READERS: dict[tuple[bytes, ...], type[ImageFile.ImageFile]] = {
    (b"BM",): BmpImagePlugin.BmpImageFile,
    (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf", b"Py"): PpmImagePlugin.PpmImageFile,
    (b"RIFF",): WebPImagePlugin.WebPImageFile,
}
# Other kinds of files by their first bytes, to name them in a refusal.
_OTHER_KINDS = (
    ((b"%PDF",), "a PDF"),
    ((b"%!PS", b"\xc5\xd0\xd3\xc6"), "a PostScript drawing"),
    ((b"8BPS",), "a Photoshop file"),
    ((b"\x93NUMPY",), "a NumPy array"),
    ((b"PK\x03\x04",), "a ZIP archive or office document"),
    ((b"\xff\x0a", b"\0\0\0\x0cJXL "), "a JPEG XL picture"),
    ((b"II\xbc",), "a JPEG XR picture"),
    ((b"v/1\x01",), "an OpenEXR picture"),
    ((b"#?RADIANCE", b"#?RGBE"), "a Radiance HDR picture"),
    ((b"qoif",), "a QOI picture"),
    ((b"\0\0\1\0",), "an icon"),
    ((b"\x1aE\xdf\xa3",), "a video"),
)
_SEQUENCE_BRANDS = (b"hevc", b"hevx", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_PICTURE_BRANDS = (*_AVIF_BRANDS, b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
# What may stand before the first element of an XML text, and how it ends (XML 1.0, 2.8).
_PROLOG = ((b"<?xml", b"?>"), (b"<!--", b"-->"), (b"<!doctype", b">"))
# Blocks of a GIF.
_GIF_END, _GIF_IMAGE, _GIF_EXTENSION, _GIF_CONTROL = b";", b",", b"!", 0xF9
_MOST_FRAMES = 10_000


class _BoundedReader:
    """Reads a file until some times its length have been read in all."""

    def __init__(self, file: IO[bytes], times: int = 8) -> None:
        begin = file.tell()
        self._left = times * file.seek(0, os.SEEK_END)
        self.seek, self.tell, self._file = file.seek, file.tell, file
        file.seek(begin)

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        self._left -= len(data)
        if self._left < 0:
            raise OSError("The tags name the same bytes again and again.")
        return data


_load_tags = TiffImagePlugin.ImageFileDirectory_v2.load


def _load_some_tags(directory: TiffImagePlugin.ImageFileDirectory_v2, file: IO[bytes]) -> None:
    """Read tags as Pillow does, and end where they name the same bytes again and again.

    Pillow keeps the bytes of each tag, and reads all of them while it opens a JPEG or an AVIF: 1 MB of EXIF
    would take 1.8 GB.
    """
    _load_tags(directory, _BoundedReader(file))  # type: ignore[arg-type]


TiffImagePlugin.ImageFileDirectory_v2.load = _load_some_tags  # type: ignore[method-assign, assignment]


def decode(file: BinaryIO) -> tuple[Picture, PhoneDepth | None]:
    """Decode a picture file; return it with the depth that a phone put into it.

    Raises:
        PhotoError: The file is not a picture, of a kind that is not supported, too large, or damaged.
    """
    start = start_of(file, _HEAD_BYTES)
    try:
        return _decode(file, start)
    except MemoryError as error:
        raise too_much_memory() from error
    except (*READ_ERRORS, AssertionError, Image.DecompressionBombError) as error:
        raise damaged() from error


def _decode(file: BinaryIO, start: bytes) -> tuple[Picture, PhoneDepth | None]:
    raw = jpeg.raw_kind(start)
    if raw is not None:
        return _with_exif(jpeg.decode_raw(file, raw)), None
    kind = _other_kind(start)
    if kind is not None:
        raise unsupported(kind)
    if start.startswith(b"\xff\xd8\xff"):
        picture = _with_exif(jpeg.decode(file))
        return picture, jpeg_depth(file, picture.image.info)
    if start.startswith(png.SIGNATURE[:4]):
        return _with_exif(png.decode(file)), None
    if start.startswith(TIFF_SIGNATURES):
        return _tiff(file), None
    if start.startswith(b"GIF8"):
        return _gif(file), None
    if start[4:8] == b"ftyp":
        return _avif(file, start) if _is_avif(start) else _heif(file, start)
    if start.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
        return _jpeg2000(file), None
    reader = next((reader for begins, reader in _READERS.items() if start.startswith(begins)), None)
    if reader is None:
        raise PhotoError(f"The file is not a picture that can be read; {SAVE_AS}.")
    return _with_frames(_with_exif(_loaded(reader(file)))), None


def _loaded(image: ImageFile.ImageFile, *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Load what was opened, its size held against the limits first.

    Raises:
        PhotoError: It is too large for them, or for the memory.
    """
    check_size(image.size, max_pixels=max_pixels)
    try:
        image.load()
    except READ_ERRORS as error:  # few libraries say that memory did not suffice
        if image.width * image.height > _LARGE_PIXELS:
            raise damaged(", or too large for the memory here") from error
        raise
    return Picture(image)


def _jpeg2000(file: BinaryIO) -> Picture:
    """Decode at half the size what is very large: its decoder takes 16 bytes for each pixel."""
    image = Jpeg2KImagePlugin.Jpeg2KImageFile(file)
    size = image.size
    check_size(size)
    image.reduce = int(size[0] * size[1] > _LARGE_JPEG2000_PIXELS)
    return replace(_with_exif(_loaded(image)), full_size=size)


def _with_frames(picture: Picture, frames: int | None = None) -> Picture:
    """Add a note where a picture is the first of several."""
    count: int = frames or getattr(picture.image, "n_frames", None) or 1
    if count < 2:
        return picture
    return replace(
        picture, notes=(f"This is the first of {count} frames; the others are not used.", *picture.notes)
    )


def _tiff(file: BinaryIO) -> Picture:
    opened = read_tiff(file)
    if opened is None:
        raise damaged()
    raw = jpeg.raw_kind_of(opened)
    return tiff.decode(opened) if raw is None else _with_exif(jpeg.decode_raw(file, raw))


def _gif(file: BinaryIO) -> Picture:
    view, frames = _gif_first_frame(file)
    return _with_frames(_loaded(GifImagePlugin.GifImageFile(view)), frames)


def _heif(file: BinaryIO, start: bytes) -> tuple[Picture, PhoneDepth | None]:
    # No note on further pictures: phones put gain maps and previews beside the one picture.
    try:
        image = HeifImageFile(file)
    except SyntaxError as error:
        raise unsupported("a HEIF film") if start[8:12] in _SEQUENCE_BRANDS else error from None
    depth = heic_depth(image.info)  # before loading, which forgets the file
    picture = _with_exif(_loaded(image, max_pixels=_MAX_HEIF_PIXELS))
    codes = image.info.get("nclx_profile")
    signal = _nclx_signal(codes["color_primaries"], codes["transfer_characteristics"]) if codes else None
    return replace(picture, signal=signal), depth


def _avif(file: BinaryIO, start: bytes) -> tuple[Picture, None]:
    picture = _with_frames(_with_exif(_loaded(AvifImagePlugin.AvifImageFile(file))))
    box = start.find(b"colrnclx") if "icc_profile" not in picture.image.info else -1
    if box >= 0 and len(start) >= box + 12:
        primaries, transfer = start[box + 8 : box + 10], start[box + 10 : box + 12]
        codes = int.from_bytes(primaries, "big"), int.from_bytes(transfer, "big")
        picture = replace(picture, signal=_nclx_signal(*codes))
    return picture, None


def _nclx_signal(primaries: int, transfer: int) -> Signal | None:
    return coded_signal(primaries, transfer, in_video=True)


def _is_avif(start: bytes) -> bool:
    length = int.from_bytes(start[:4], "big")
    return start[8:12] in _AVIF_BRANDS or any(
        start[at : at + 4] in _AVIF_BRANDS for at in range(16, min(length, len(start)), 4)
    )


def _with_exif(picture: Picture) -> Picture:
    """Add what EXIF says, tag by tag: one that is odd does not cost the other."""
    try:
        exif = picture.image.getexif()
    except (*READ_ERRORS, AssertionError):
        return picture
    orientation = _number(lambda: exif.get(ORIENTATION_TAG))
    focal_mm = _number(lambda: exif.get_ifd(_EXIF_IFD).get(_FOCAL_LENGTH_35MM))
    return replace(
        picture,
        orientation=picture.orientation if orientation is None else int(orientation),
        focal_mm=focal_mm or picture.focal_mm,
    )


def _number(read: Callable[[], object]) -> float | None:
    """Return the first number of a tag, which may be several, or text that begins with a number."""
    try:
        value = read()
        if isinstance(value, (tuple, list)):
            value = value[0]
        if isinstance(value, (str, bytes)):
            text = value.decode("latin-1") if isinstance(value, bytes) else value
            found = re.match(r"\s*(\d{1,6}(?:\.\d{1,6})?)", text)
            value = found[1] if found else None
        return None if value is None else float(value)  # type: ignore[arg-type]
    except (*READ_ERRORS, AssertionError):
        return None


def _other_kind(start: bytes) -> str | None:
    """Name the kind of a file that is no picture this reader knows."""
    for signatures, kind in _OTHER_KINDS:
        if start.startswith(signatures):
            return kind
    if start[4:8] == b"ftyp" and start[8:12] not in _PICTURE_BRANDS:
        return "a video"
    return _kind_of_markup(start.removeprefix(b"\xef\xbb\xbf").lower())


def _kind_of_markup(text: bytes) -> str | None:
    """Return whether lower-case text begins as SVG, or as HTML or other XML; None for anything else."""
    at, is_xml = 0, False
    while True:
        at += len(text[at:]) - len(text[at:].lstrip())
        if text.startswith(b"<svg", at):
            return "an SVG drawing"
        if text.startswith((b"<!doctype html", b"<html"), at):
            return "a web page or XML text"
        ending = next((end for begin, end in _PROLOG if text.startswith(begin, at)), None)
        if ending is None:
            return "a web page or XML text" if is_xml else None
        is_xml = is_xml or text.startswith((b"<?xml", b"<!doctype"), at)
        after = text.find(ending, at)
        if after < 0:
            return "a web page or XML text"
        at = after + len(ending)


def _gif_first_frame(file: BinaryIO) -> tuple[BinaryIO, int]:
    """Return a GIF up to the end of its first frame, without comments, and how many frames it has."""
    file.seek(0)
    header = file.read(13)
    at = 13 + _table_bytes(header[10:11])
    parts: list[Part] = [(0, at)]
    frames = 0
    while frames < _MOST_FRAMES:
        file.seek(at)
        kind = file.read(1)
        if kind == _GIF_IMAGE:
            head = file.read(9)
            end = _end_of_blocks(file, at + 11 + _table_bytes(head[8:9]))
            parts += [(at, end)] if not frames else []
            frames += 1
        elif kind == _GIF_EXTENSION:
            label = file.read(1)
            end = _end_of_blocks(file, at + 2)
            parts += [(at, end)] if label == bytes([_GIF_CONTROL]) and not frames else []
        else:
            break
        at = end
    return spliced(file, [*parts, _GIF_END]), frames


def _table_bytes(flags: bytes) -> int:
    """Return the length of the color table that a byte of flags announces."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _end_of_blocks(file: BinaryIO, at: int) -> int:
    """Return where a chain of data blocks ends, or the file."""
    file.seek(at)
    while True:
        size = file.read(1)
        at += 1
        if not size or not size[0]:
            return at
        at += size[0]
        file.seek(size[0], 1)
