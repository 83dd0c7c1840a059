"""A file of any kind -> upright RGB photo, or a sentence why not.

A file is judged by its content, never by its ending, and its size in pixels is read from the header before
anything is decoded. Photos up to `WORKING_PIXELS` keep every pixel; larger ones, up to `MAX_PIXELS` (as JPEG
up to `MAX_JPEG_PIXELS`), are shrunk to it and say so: no later stage has to hold more than about 130 MB
per map. One file is decoded at a time, whatever the number of visitors.

Kinds are recognized by the first bytes. Pillow's readers are called by name: its own choice among them
imports others while a file is being read, and has a limit of its own on the size. A GIF is cut down to its
first frame without comments first: Pillow joins comments piece by piece, which takes minutes for megabytes of
them, and counts frames by reading every one.
"""

import hashlib
import math
import os
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
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
from marigold_demo.io.limits import (
    MAX_PIXELS,
    READ_ERRORS,
    SAVE_AS,
    Part,
    check_size,
    damaged,
    opened,
    quiet_reading,
    spliced,
    start_of,
    too_much_memory,
    unsupported,
)
from marigold_demo.io.phone_depth import PhoneDepth, heic_depth, jpeg_depth, upright_depth
from marigold_demo.io.pixels import ORIENTATION_TAG, Picture, Signal, coded_signal, standard_pixels
from marigold_demo.io.tiff import SIGNATURES as TIFF_SIGNATURES
from marigold_demo.io.tiff import read_tiff

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


MAX_BYTES = 200_000_000
WORKING_PIXELS = 32_000_000

_DIAGONAL_35MM = 43.27  # mm, of the 36 x 24 mm frame that FocalLengthIn35mmFilm refers to


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright picture as the visitor gave it.

    Attributes:
        rgb: uint8 [H, W, 3], sRGB, alpha composited on white; read-only.
        stem: A safe file stem made from the visitor's file name.
        alpha: uint8 [H, W], 255 opaque, where anything is transparent, else None; read-only.
        fov_deg: Field of view of the long side in degrees, from EXIF; None where the file does not say.
        notes: Sentences the visitor should read.
        phone_depth: float32 [h, w], 0 near, 1 far, upright, at its own resolution: the depth that a phone put
            into its portrait photo; None without; read-only.
        phone_depth_kind: Where it was found: "GDepth", "Dynamic Depth" or "HEIC"; empty without.
    """

    rgb: NDArray[np.uint8]  # [H, W, 3]
    stem: str = "photo"
    alpha: NDArray[np.uint8] | None = None  # [H, W]
    fov_deg: float | None = None
    notes: tuple[str, ...] = ()
    phone_depth: NDArray[np.float32] | None = None  # [h, w]
    phone_depth_kind: str = ""

    def __post_init__(self) -> None:
        if self.rgb.dtype != np.uint8 or self.rgb.ndim != 3 or self.rgb.shape[2] != 3 or not self.rgb.size:
            raise ValueError(f"rgb must be uint8 [H, W, 3], not {self.rgb.dtype} {self.rgb.shape}")
        if self.alpha is not None and self.alpha.shape != self.rgb.shape[:2]:
            raise ValueError(f"alpha has shape {self.alpha.shape}, rgb {self.rgb.shape}")
        object.__setattr__(self, "rgb", _frozen(self.rgb))
        object.__setattr__(self, "alpha", None if self.alpha is None else _frozen(self.alpha))
        if self.phone_depth is not None:
            object.__setattr__(self, "phone_depth", _frozen(self.phone_depth))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, the order Pillow uses."""
        height, width = self.rgb.shape[:2]
        return width, height

    @cached_property
    def digest(self) -> str:
        """SHA-256 over shape and pixels: the same picture has the same digest, whatever its file was."""
        found = hashlib.sha256(repr(self.rgb.shape).encode())
        found.update(self.rgb.data)
        return found.hexdigest()


def load_photo(path: Path | str) -> Photo:
    """Read any ordinary picture file as an upright sRGB photo.

    Raises:
        PhotoError: The file is missing, empty, damaged, not a picture, or its size is out of bounds.
    """
    with opened(path, max_bytes=MAX_BYTES, error=PhotoError) as file:
        return decode_photo(file, name=Path(path).name)


def decode_photo(file: BinaryIO, *, name: str) -> Photo:
    """Read a photo from an open, seekable file; `name` gives its stem.

    Raises:
        PhotoError: As `load_photo`.
    """
    with quiet_reading():
        picture, depth = decode(file)
        try:
            pixels = standard_pixels(picture, at_most=WORKING_PIXELS)
        except MemoryError as error:
            raise too_much_memory() from error
        rgb = np.asarray(pixels.color)  # [H, W, 3]
        alpha = None if pixels.alpha is None else np.asarray(pixels.alpha)  # [H, W]
        inside = None if depth is None else upright_depth(depth, picture.orientation, pixels.color.size)
    focal_mm = picture.focal_mm
    return Photo(
        rgb=rgb,
        stem=safe_stem(name),
        alpha=alpha,
        fov_deg=field_of_view(focal_mm, *pixels.color.size) if focal_mm and 3 <= focal_mm <= 3000 else None,
        notes=pixels.notes,
        phone_depth=inside,
        phone_depth_kind="" if depth is None or inside is None else depth.kind,
    )


def field_of_view(focal_35mm: float, width: int, height: int) -> float:
    """Return degrees across the long side for a 35 mm equivalent focal length.

    The equivalent compares diagonals: fov_diagonal = 2 atan(43.27 / (2 f)).
    """
    half_diagonal = _DIAGONAL_35MM / (2 * focal_35mm)
    return math.degrees(2 * math.atan(half_diagonal * max(width, height) / math.hypot(width, height)))


def safe_stem(name: str) -> str:
    """Make a speaking file stem of any name: letters and digits of every script, '-', '_', inner dots."""
    stem = Path(name.replace("\\", "/").split("/")[-1]).stem
    stem = unicodedata.normalize("NFC", stem)
    kept = "".join(c if unicodedata.category(c)[0] in "LNM" or c in "-." else "_" for c in stem)
    kept = re.sub(r"\.{2,}|_+", lambda run: "." if run[0][0] == "." else "_", kept).strip("._- ")
    kept = kept.encode()[:80].decode(errors="ignore").rstrip("._-")
    if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", kept):  # names Windows keeps for itself
        kept = f"photo_{kept}"
    return kept or "photo"


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    if array.flags.writeable or not array.flags.c_contiguous:
        array = array.copy(order="C")
        array.setflags(write=False)
    return array
