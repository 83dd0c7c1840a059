"""A depth file brought by a visitor -> DepthMap, or a sentence why not. Knows nothing of photos or models.

Understood are .npy and .npz arrays and grey PNG, told apart by content. Pickles are refused, and the header
is held against the limits and against the file's length before anything is allocated. Values in [0, 1]
(0 near, 1 far) and 8 or 16-bit levels are taken as they are; any other range is rescaled by its smallest and
largest value, which an affine-invariant depth allows. Pixels that are NaN, infinite or not `valid` take the
value of the nearest pixel that is.
"""

import math
import os
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from marigold_demo.depth import DepthMap
from marigold_demo.errors import DepthFileError
from marigold_demo.reading.limits import DAMAGED, opened, quiet_reading, size_problem, start_of

MAX_BYTES = 600_000_000
MAX_PIXELS = 32_000_000

_NPY, _ZIP, _PNG = b"\x93NUMPY", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n"
_MAX_MEMBERS = 64
_MAX_HEADER = 10_000
_ROUNDING = 1e-5  # float16 and JPEG-like tools overshoot [0, 1] by a hair; that is no other range
_WANTED = "a float array [height, width] as .npy or .npz, or a 16-bit grey PNG, with 0 near and 1 far"


@dataclass(frozen=True, eq=False)
class DepthFile:
    """What a depth file holds, and sentences about what was done to it."""

    depth: DepthMap
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Arrays:
    """Arrays [H, W] as stored, not yet judged by their values."""

    depth: NDArray[Any]
    uncertainty: NDArray[Any] | None = None
    valid: NDArray[Any] | None = None


def load_depth(path: Path | str) -> DepthMap:
    """Read a depth file; `read_depth_file` returns its notes as well.

    Raises:
        DepthFileError: The file is missing, damaged, of another kind, or its size is out of bounds.
    """
    return read_depth_file(path).depth


def read_depth_file(path: Path | str) -> DepthFile:
    """Read .npy, .npz (key `depth`, optionally `uncertainty` and `valid`) or a grey PNG.

    Raises:
        DepthFileError: The file is missing, damaged, of another kind, or its size is out of bounds.
    """
    with opened(path, max_bytes=MAX_BYTES, error=DepthFileError) as file:
        return decode_depth(file)


def decode_depth(file: BinaryIO) -> DepthFile:
    """Read a depth file from an open, seekable file.

    Raises:
        DepthFileError: As `read_depth_file`.
    """
    start = start_of(file, 32)
    read = {_NPY: _read_npy, _ZIP: _read_npz, _PNG: _read_png}
    reader = next((read[magic] for magic in read if start.startswith(magic)), None)
    if reader is None:
        raise DepthFileError(f"The file is not a depth file; use {_WANTED}.")
    try:
        with quiet_reading():
            arrays = reader(file)
    except (*DAMAGED, zipfile.BadZipFile) as error:
        raise DepthFileError(
            f"The depth file is damaged or incomplete; save it again as {_WANTED}."
        ) from error
    with np.errstate(all="ignore"):  # odd numbers are looked for, not tripped over
        return _normalised(arrays)


def is_depth_file(path: Path | str) -> bool:
    """Tell by content whether a file is meant as depth: .npy, .npz, or PNG with 16 bits of grey only."""
    try:
        with opened(path, max_bytes=MAX_BYTES, error=DepthFileError) as file:
            start = start_of(file, 32)
    except DepthFileError:
        return False
    grey16 = start.startswith(_PNG) and start[24:26] == b"\x10\x00"  # IHDR: bit depth 16, colour type 0
    return start.startswith((_NPY, _ZIP)) or grey16


def _read_npy(file: BinaryIO) -> _Arrays:
    stored_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    return _Arrays(_read_array(file, stored_bytes=stored_bytes, name="depth"))


def _read_npz(file: BinaryIO) -> _Arrays:
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()[:_MAX_MEMBERS]}
        names = [name for name in members if name.endswith(".npy")]
        depth = "depth.npy" if "depth.npy" in names else (names[0] if len(names) == 1 else None)
        if depth is None:
            raise DepthFileError(f"The archive holds no array named 'depth'; use {_WANTED}.")
        arrays: dict[str, NDArray[Any]] = {}
        for key, name in (("depth", depth), ("uncertainty", "uncertainty.npy"), ("valid", "valid.npy")):
            if name in members:
                with archive.open(members[name]) as member:
                    arrays[key] = _read_array(member, stored_bytes=members[name].file_size, name=key)
    _check_same_shape(arrays)
    return _Arrays(arrays["depth"], arrays.get("uncertainty"), arrays.get("valid"))


def _check_same_shape(arrays: dict[str, NDArray[Any]]) -> None:
    shapes = {key: array.shape for key, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{key} {shape[1]} × {shape[0]}" for key, shape in shapes.items())
        raise DepthFileError(f"The arrays of the depth file differ in size ({told}); they must be equal.")


def _read_array(file: IO[bytes], *, stored_bytes: int, name: str) -> NDArray[Any]:
    """Hold the header against the limits and the stored length, then read [H, W]."""
    header = _read_header(file, name=name)
    plane = [side for side in header.shape if side != 1] if len(header.shape) > 2 else list(header.shape)
    if len(plane) != 2:
        raise DepthFileError(f"The array '{name}' has shape {header.shape}; [height, width] is needed.")
    _check_size(plane[1], plane[0])
    wanted_bytes = math.prod(plane) * header.dtype.itemsize
    if wanted_bytes > stored_bytes:
        raise EOFError(f"{wanted_bytes} bytes announced, {stored_bytes} stored")
    flat = np.frombuffer(file.read(wanted_bytes), dtype=header.dtype)
    return flat.reshape(plane, order="F" if header.fortran_order else "C")


@dataclass(frozen=True)
class _Header:
    dtype: np.dtype[Any]
    fortran_order: bool
    shape: tuple[int, ...]


def _read_header(file: IO[bytes], *, name: str) -> _Header:
    """Read the three facts of a .npy header by pattern; it is a Python literal, but nothing is evaluated."""
    start = file.read(8)
    if not start.startswith(_NPY):
        raise ValueError("not an array")
    (length,) = struct.unpack("<H", file.read(2)) if start[6] == 1 else struct.unpack("<I", file.read(4))
    if length > _MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = file.read(length).decode("latin-1")
    kind = re.search(r"'descr': *'([<>|=]?)([fiub])([1248])'", header)
    order = re.search(r"'fortran_order': *(True|False)", header)
    shape = re.search(r"'shape': *\(([\d, ]{0,200})\)", header)
    if not kind:
        raise DepthFileError(f"The array '{name}' does not hold plain numbers; save it as float32.")
    if not order or not shape:
        raise ValueError("no order or no shape")
    dtype = np.dtype("?" if kind[2] == "b" else "".join(kind.groups()))
    sides = tuple(int(side) for side in shape[1].split(",") if side.strip())
    return _Header(dtype, order[1] == "True", sides)


def _read_png(file: BinaryIO) -> _Arrays:
    width, height = struct.unpack(">16xII", start_of(file, 24))  # IHDR is always the first chunk
    _check_size(width, height)
    with Image.open(file, formats=("PNG",)) as image:
        image.verify()  # checksums of all chunks, which loading alone passes over
    file.seek(0)
    with Image.open(file, formats=("PNG",)) as image:
        if image.mode != "L" and not image.mode.startswith("I;16"):
            raise DepthFileError(
                f"The PNG is not grey (it holds {image.mode}), so it is not depth; use {_WANTED}."
            )
        levels = np.asarray(image)
    return _Arrays(levels.astype(np.uint16) if levels.dtype != np.uint8 else levels)


def _check_size(width: int, height: int) -> None:
    problem = size_problem(width, height, max_pixels=MAX_PIXELS)
    if problem:
        raise DepthFileError(f"The depth file cannot be used: {problem}")


def _normalised(arrays: _Arrays) -> DepthFile:
    """Fill invalid pixels, then bring the values into [0, 1]."""
    notes: list[str] = []
    values = arrays.depth.astype(np.float64)  # [H, W]
    valid = np.isfinite(values)
    if arrays.valid is not None:
        valid &= arrays.valid.astype(bool)
    if not valid.any():
        raise DepthFileError(
            "The depth file holds no valid pixel (all are NaN, infinite or masked); save it again."
        )
    share = 1 - valid.mean()
    nearest = None if share == 0 else _nearest_valid(valid)
    if nearest is not None:
        values = values[nearest]
        notes.append(
            f"{max(share, 0.001):.1%} of the depth pixels are invalid; they were filled from the nearest."
        )
    low, high = _range(values, stored=arrays.depth.dtype, notes=notes)
    # Halves, so that the span of the largest floats stays finite.
    span = max(high / 2 - low / 2, np.finfo(np.float64).tiny)
    depth = np.clip((values / 2 - low / 2) / span, 0, 1).astype(np.float32)
    uncertainty = _uncertainty(arrays.uncertainty, nearest=nearest, span=2 * span)
    return DepthFile(DepthMap(depth, uncertainty), tuple(notes))


def _nearest_valid(valid: NDArray[np.bool_]) -> tuple[NDArray[np.int32], ...]:
    """Return for every pixel row and column of the nearest valid one."""
    rows, columns = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return rows, columns


def _range(values: NDArray[np.float64], *, stored: np.dtype[Any], notes: list[str]) -> tuple[float, float]:
    """Return which values become 0 and 1; add a note where that is a guess."""
    if stored in (np.uint8, np.uint16):
        if stored == np.uint8:
            notes.append("The depth has 256 levels only, which show as stairs; 16 bits or floats are better.")
        return 0.0, float(np.iinfo(stored).max)
    low, high = float(values.min()), float(values.max())
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return 0.0, 1.0
    notes.append(f"The depth runs from {low:.4g} to {high:.4g}; it was rescaled to 0 (near) .. 1 (far).")
    return low, high


def _uncertainty(
    stored: NDArray[Any] | None, *, nearest: tuple[NDArray[np.int32], ...] | None, span: float
) -> NDArray[np.float32] | None:
    if stored is None:
        return None
    values = stored.astype(np.float64)
    if nearest is not None:
        values = values[nearest]
    if not np.isfinite(values).all() or values.min() < 0:
        raise DepthFileError(
            "The array 'uncertainty' holds negative or unknown values; leave it out or save it again."
        )
    return np.minimum(values / span, 1e6).astype(np.float32)
