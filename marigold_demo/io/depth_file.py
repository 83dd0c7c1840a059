"""A depth file -> DepthMap, or a sentence why not.

A file is judged by its content, never by its ending: `depth_arrays` and `depth_pictures`
read what is stored, `depth_values` makes depth of it.
"""

import zipfile
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.errors import DepthFileError
from marigold_demo.io import tiff_tags
from marigold_demo.io.depth_arrays import EXR, NPY, ZIP, read_exr, read_npy, read_npz
from marigold_demo.io.depth_pictures import (
    PFM,
    PGM,
    PNG,
    is_deep_gray,
    read_other,
    read_pfm,
    read_png,
    read_tiff,
)
from marigold_demo.io.depth_values import (
    MAX_PIXELS,
    WANTED,
    DepthFile,
    Near,
    StoredDepth,
    check_frame,
    to_depth,
)
from marigold_demo.io.limits import READ_ERRORS, opened, quiet_reading, start_of
from marigold_demo.recipe import KEY

__all__ = [
    "MAX_BYTES",
    "MAX_PIXELS",
    "DepthFile",
    "Near",
    "decode_depth",
    "depth_form",
    "may_be_depth",
    "read_depth_file",
]

MAX_BYTES = 600_000_000
_HEAD_BYTES = 4096
_GRAY, _GRAY_ALPHA = 0, 4  # color types of PNG


def read_depth_file(
    path: Path | str, *, frame: int | None = None, near: Near = "auto", inverse: bool = False
) -> DepthFile:
    """Read depth from a file that may be of any kind in which tools keep it.

    Args:
        path: .npy, .npz, PNG, TIFF, PGM, PFM, OpenEXR, or any picture that is gray.
        frame: Which of several depth maps, counted from 0; None takes the first, with a note.
        near: Which values are near: "white" (large ones), "black" (small ones), or what the file suggests.
        inverse: The values are disparity: 1 / value is distance.

    Raises:
        DepthFileError: The file is missing, damaged, of another kind, or its size is out of bounds.
    """
    with opened(path, max_bytes=MAX_BYTES, error=DepthFileError) as file:
        return decode_depth(file, frame=frame, near=near, inverse=inverse)


def decode_depth(
    file: BinaryIO, *, frame: int | None = None, near: Near = "auto", inverse: bool = False
) -> DepthFile:
    """Read a depth file from an open, seekable file; the arguments are those of `read_depth_file`.

    Raises:
        DepthFileError: As `read_depth_file`.
    """
    try:
        with quiet_reading():
            stored = _stored(file, frame=frame)
    except Image.DecompressionBombError as error:
        most = f"at most {MAX_PIXELS // 10**6} million pixels can be used"
        raise DepthFileError(f"The depth file cannot be used: it is too large; {most}.") from error
    except (*READ_ERRORS, zipfile.BadZipFile) as error:
        raise DepthFileError(
            f"The depth file is damaged or incomplete; save it again as {WANTED}."
        ) from error
    with np.errstate(all="ignore"):  # odd numbers are looked for, not tripped over
        return to_depth(stored, near=near, inverse=inverse)


def _stored(file: BinaryIO, *, frame: int | None) -> StoredDepth:
    start = start_of(file, 32)
    if start.startswith(NPY):
        return read_npy(file, frame=frame)
    if start.startswith(ZIP):
        return read_npz(file, frame=frame)
    if start.startswith(tiff_tags.SIGNATURES):
        return read_tiff(file, frame=frame)
    check_frame(frame, 1)
    readers = {PNG: read_png, EXR: read_exr, **dict.fromkeys(PFM, read_pfm)}
    return next((readers[magic] for magic in readers if start.startswith(magic)), read_other)(file)


def depth_form(path: Path | str) -> Literal["array", "gray picture"] | None:
    """Return, by content, the form in which a file is taken for depth where it could be a photo, or None.

    Arrays are .npy, .npz, OpenEXR and portable float maps of one channel; gray pictures are PNG, TIFF and PGM
    of more than 8 bits. All else is depth only for those who say that it is.
    """
    try:
        with opened(path, max_bytes=MAX_BYTES, error=DepthFileError) as file:
            start = start_of(file, _HEAD_BYTES)
            is_gray = start.startswith(tiff_tags.SIGNATURES) and is_deep_gray(file)
    except DepthFileError:
        return None
    if start.startswith((NPY, ZIP, EXR, PFM[0])):
        return "array"
    if start.startswith(PNG):
        is_gray = len(start) > 25 and start[24] == 16 and start[25] in (_GRAY, _GRAY_ALPHA)
    elif start.startswith(PGM):
        is_gray = _pgm_maximum(start) > 255
    return "gray picture" if is_gray else None


def may_be_depth(path: Path | str, rgb: NDArray[np.uint8], *, remedy: str) -> tuple[str, ...]:
    """Return a note where a picture that was taken as a photo may be depth, else nothing.

    Args:
        path: The picture, by whose content a colored depth of this app is known.
        rgb: Its pixels, uint8 [H, W, 3].
        remedy: What to do if it is depth.
    """
    if _carries_recipe(path):
        return (
            "This app made the picture from a depth, and it was taken as a photo; the .npy or 16-bit PNG that"
            " came with it holds the depth itself.",
        )
    form = depth_form(path)
    if form is None and not _is_gray(rgb):
        return ()
    what = {"array": "holds numbers", "gray picture": "is gray and has more than 8 bits", None: "is gray"}[
        form
    ]
    return (f"The picture {what}, as depth may; it was taken as a photo. If it is depth, {remedy}.",)


def _is_gray(rgb: NDArray[np.uint8]) -> bool:
    few = slice(None, None, max(1, len(rgb) // 64))  # these rows suffice for nearly all photos
    return all((rgb[rows, :, 1:] == rgb[rows, :, :1]).all() for rows in (few, slice(None)))


def _pgm_maximum(start: bytes) -> int:
    """Return the largest level that the header of a PGM announces; 0 where there is none."""
    lines = [line.split(b"#", 1)[0] for line in start.split(b"\n")]
    words = b" ".join(lines).split(None, 4)
    return int(words[3]) if len(words) > 3 and words[3].isdigit() and len(words[3]) < 9 else 0


def _carries_recipe(path: Path | str) -> bool:
    try:
        with opened(path, max_bytes=MAX_BYTES, error=DepthFileError) as file:
            start = start_of(file, _HEAD_BYTES)
    except DepthFileError:
        return False
    return start.startswith(PNG) and b"tEXt" + KEY.encode() + b"\0" in start
