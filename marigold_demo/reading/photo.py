"""A file -> upright RGB photo, or a sentence why not. Knows nothing of depth or of widgets.

A file is judged by its content, never by its ending, and its size in pixels is read from the header before
anything is decoded. Photos up to `WORKING_PIXELS` keep every pixel; larger ones, up to `MAX_PIXELS`, are
shrunk to it and say so: no later stage has to hold more than about 130 MB per map. One file is decoded at a
time, whatever the number of visitors.
"""

import hashlib
import math
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from marigold_demo.errors import PhotoError
from marigold_demo.reading.limits import DAMAGED, opened, quiet_reading, size_problem, start_of
from marigold_demo.reading.pixels import ORIENTATION_TAG, standard_pixels

MAX_BYTES = 200_000_000
MAX_PIXELS = 100_000_000
WORKING_PIXELS = 32_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "HEIF")

_SAVE_AS = "save it as JPEG or PNG and try again"
_EXIF_IFD, _FOCAL_LENGTH_35MM, _DNG_VERSION = 0x8769, 0xA405, 0xC612
_DIAGONAL_35MM = 43.27  # mm, of the 36 x 24 mm frame that FocalLengthIn35mmFilm refers to
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"II*\0", b"MM\0*", b"BM", b"\0\0\0\x0cjP  ")
# Other kinds of files by their first bytes, to name them in a refusal.
_OTHER_KINDS = (
    ((b"%PDF",), "a PDF"),
    ((b"%!PS", b"\xc5\xd0\xd3\xc6"), "a PostScript drawing"),
    ((b"8BPS",), "a Photoshop file"),
    ((b"\x93NUMPY",), "a NumPy array"),
    ((b"PK\x03\x04",), "a ZIP archive or office document"),
    ((b"\xff\x0a", b"\0\0\0\x0cJXL "), "a JPEG XL picture"),
    ((b"v/1\x01",), "an OpenEXR picture"),
    ((b"FUJIFILMCCD-RAW", b"IIU\0"), "a camera raw file"),
    ((b"\x1aE\xdf\xa3",), "a video"),
)
_PICTURE_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")
# What may stand before the first element of an XML text, and how it ends (XML 1.0, 2.8).
_PROLOG = ((b"<?xml", b"?>"), (b"<!--", b"-->"), (b"<!doctype", b">"))
_HEAD_BYTES = 4096  # looked at to name a file's kind


@dataclass(frozen=True, eq=False)
class Photo:
    """An upright picture as the visitor gave it.

    Attributes:
        rgb: uint8 [H, W, 3], sRGB, alpha composited on white; read-only.
        stem: A safe file stem made from the visitor's file name.
        alpha: uint8 [H, W], 255 opaque, where anything is transparent, else None; read-only.
        fov_deg: Field of view of the long side in degrees, from EXIF; None where the file does not tell.
        notes: Sentences the visitor should read.
    """

    rgb: NDArray[np.uint8]  # [H, W, 3]
    stem: str = "photo"
    alpha: NDArray[np.uint8] | None = None  # [H, W]
    fov_deg: float | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rgb.dtype != np.uint8 or self.rgb.ndim != 3 or self.rgb.shape[2] != 3 or not self.rgb.size:
            raise ValueError(f"rgb must be uint8 [H, W, 3], not {self.rgb.dtype} {self.rgb.shape}")
        if self.alpha is not None and self.alpha.shape != self.rgb.shape[:2]:
            raise ValueError(f"alpha has shape {self.alpha.shape}, rgb {self.rgb.shape}")
        object.__setattr__(self, "rgb", _frozen(self.rgb))
        object.__setattr__(self, "alpha", None if self.alpha is None else _frozen(self.alpha))

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
        try:
            with _open(file, start_of(file, _HEAD_BYTES)) as image:
                _check_size(image)
                _refuse_raw(image)
                notes = _frame_notes(image)  # before loading: some readers forget afterwards
                image.load()
                orientation, focal_mm = _exif(image)
        except DAMAGED as error:
            raise PhotoError(
                f"The picture is damaged or incomplete; get the file again, or {_SAVE_AS}."
            ) from error
        pixels = standard_pixels(image, orientation=orientation, at_most=WORKING_PIXELS)
        rgb = np.asarray(pixels.color)  # [H, W, 3]
        alpha = None if pixels.alpha is None else np.asarray(pixels.alpha)  # [H, W]
    fov_deg = None if focal_mm is None else field_of_view(focal_mm, *pixels.color.size)
    notes += pixels.notes
    return Photo(rgb=rgb, stem=safe_stem(name), alpha=alpha, fov_deg=fov_deg, notes=notes)


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


def _frozen(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if array.flags.writeable or not array.flags.c_contiguous:
        array = array.copy(order="C")
        array.setflags(write=False)
    return array


def _check_size(image: Image.Image) -> None:
    problem = size_problem(*image.size, max_pixels=MAX_PIXELS)
    if problem:
        raise PhotoError(f"The picture cannot be used: {problem}")


def _open(file: BinaryIO, start: bytes) -> Image.Image:
    """Open lazily: the header is read, no pixel is decoded."""
    kind = _other_kind(start)
    if kind is not None:
        raise PhotoError(f"The file is {kind}, which is not supported as a photo; {_SAVE_AS}.")
    pillow_heif.register_heif_opener()
    try:
        if start.startswith(b"\x89PNG"):
            with Image.open(file, formats=("PNG",)) as image:
                _check_size(image)
                image.verify()  # checksums of all chunks, which loading alone passes over
        file.seek(0)
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        count = re.search(r"\((\d+) pixels", str(error))
        millions = f" ({int(count[1]) / 1e6:.0f} million)" if count else ""
        limit = f"at most {MAX_PIXELS // 10**6} million can be used"
        raise PhotoError(f"The picture cannot be used: it has too many pixels{millions}; {limit}.") from error
    except UnidentifiedImageError as error:
        if start.startswith(_SIGNATURES) or start[4:8] == b"ftyp":
            raise
        raise PhotoError(f"The file is not a picture that can be read; {_SAVE_AS}.") from error


def _other_kind(start: bytes) -> str | None:
    """Name the kind of a file that is no picture this reader knows."""
    for signatures, kind in _OTHER_KINDS:
        if start.startswith(signatures):
            return kind
    if start[4:8] == b"ftyp" and start[8:12] not in _PICTURE_BRANDS:
        return "a camera raw file" if start[8:11] == b"crx" else "a video"
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


def _refuse_raw(image: Image.Image) -> None:
    if image.format == "TIFF" and _DNG_VERSION in image.getexif():  # Pillow would read its thumbnail
        raise PhotoError(
            f"The file is a camera raw file (DNG), which is not supported; develop it and {_SAVE_AS}."
        )


def _frame_notes(image: Image.Image) -> tuple[str, ...]:
    if image.format in ("MPO", "HEIF") or not getattr(image, "is_animated", False):
        return ()  # phones put gain maps and previews beside the one picture: nothing to tell
    frames = getattr(image, "n_frames", 2)
    kind = "pages" if image.format == "TIFF" else "frames"
    return (f"This is the first of {frames} {kind}; the others are not used.",)


def _exif(image: Image.Image) -> tuple[int, float | None]:
    """Return orientation and 35 mm equivalent focal length in mm; damaged EXIF counts as none."""
    try:
        exif = image.getexif()
        orientation = exif.get(ORIENTATION_TAG, 1)
        focal_mm = float(exif.get_ifd(_EXIF_IFD).get(_FOCAL_LENGTH_35MM, 0))
    except DAMAGED:
        return 1, None
    return orientation if isinstance(orientation, int) else 1, focal_mm if 3 <= focal_mm <= 3000 else None
