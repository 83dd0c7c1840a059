"""A file -> upright RGB photo, or a sentence why not.

A file is judged by its content, never by its ending, and its size in pixels is read from the header before
anything is decoded. Photos up to `WORKING_PIXELS` keep every pixel; larger ones, up to `MAX_PIXELS` (as JPEG
up to `MAX_JPEG_PIXELS`), are shrunk to it and say so: no later stage has to hold more than about 130 MB
per map. One file is decoded at a time, whatever the number of visitors.
"""

import hashlib
import math
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from marigold_demo.errors import PhotoError
from marigold_demo.io import picture_file
from marigold_demo.io.limits import MAX_PIXELS as MAX_PIXELS  # for those who ask what a photo may be
from marigold_demo.io.limits import opened, quiet_reading, too_much_memory
from marigold_demo.io.phone_depth import upright_depth
from marigold_demo.io.pixels import standard_pixels

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
        picture, depth = picture_file.decode(file)
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
