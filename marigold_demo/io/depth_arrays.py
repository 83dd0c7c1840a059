"""Files of plain numbers -> stored depth: NumPy's .npy, .npz of other depth tools, and OpenEXR.

Pickles are never opened. The header is held against the limits and against the file's length before anything
is allocated, and only the plane that is used is kept: [H, W], or one frame of [T, H, W], or [H, W, 3] where
all channels are equal.

OpenEXR files are read where they hold scan lines without loss (uncompressed, RLE, ZIP) of one part, which
Blender, Nuke, Houdini and OpenCV write by default. Other kinds are refused with a sentence. The format is
described in "OpenEXR File Layout" (openexr.com).
"""

import encodings.cp437  # noqa: F401  # zipfile decodes names with it, and would load it late
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from marigold_demo.errors import DepthFileError
from marigold_demo.io.depth_values import WANTED, StoredDepth, check_frame, check_size

NPY, ZIP = b"\x93NUMPY", b"PK\x03\x04"

_MAX_MEMBERS = 64
_MAX_HEADER = 10_000
_BLOCK_BYTES = 2**24
_MAX_SKIPPED_BYTES = 2_000_000_000
_MAX_TRANSPOSED_BYTES = 300_000_000
_FEWEST_SIDE = 16
# Names under which tools keep depth, the likeliest first, and disparity.
_DEPTH_NAMES = (
    "depth", "depths", "depth_map", "depth_maps", "predicted_depth", "depth_pred", "pred_depth",
    "metric_depth", "depth_np", "prediction", "predictions", "pred",
)  # fmt: skip
_DISPARITY_NAMES = ("disparity", "disparities", "disp", "inverse_depth", "inv_depth", "idepth")
EXR = b"v/1\x01"
# OpenEXR: flags of the version field, compressions, types of channels.
_TILED, _DEEP, _PARTS = 0x200, 0x800, 0x1000
_NONE, _RLE, _ZIP_LINE, _ZIP = 0, 1, 2, 3
_LINES = {_NONE: 1, _RLE: 1, _ZIP_LINE: 1, _ZIP: 16}  # in a chunk
_KINDS: dict[int, np.dtype[Any]] = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
_OTHERS = {4: "PIZ", 5: "PXR24", 6: "B44", 7: "B44A", 8: "DWAA", 9: "DWAB"}
_CHANNEL_NAMES = ("z", "depth", "y", "v", "distance", "disparity")
_COLORS = ("r", "g", "b")
_MAX_ATTRIBUTES, _MAX_NAME, _MAX_CHANNELS_BYTES, _MAX_CHUNK_BYTES = 1000, 256, 2**16, 2**26
_SAVE = "save the depth as one channel in float, with ZIP compression"


@dataclass(frozen=True)
class _Header:
    dtype: np.dtype[Any]
    fortran_order: bool
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def sides(self) -> tuple[int, ...]:
        """The shape without axes of one, where there are more than two."""
        return self.shape if len(self.shape) <= 2 else tuple(side for side in self.shape if side != 1)

    @property
    def channels(self) -> int:
        """3 or 4 for [H, W, C], else 1."""
        sides = self.sides
        return sides[2] if len(sides) == 3 and sides[2] in (3, 4) else 1

    @property
    def frames(self) -> int:
        """T for [T, H, W], else 1."""
        return self.sides[0] if len(self.sides) == 3 and self.channels == 1 else 1

    @property
    def plane(self) -> tuple[int, int] | None:
        """Height and width; None for what is no picture."""
        sides = self.sides
        if len(sides) == 2:
            return sides[0], sides[1]
        if len(sides) != 3:
            return None
        if self.channels > 1:
            return sides[0], sides[1]
        return None if 1 < sides[2] < _FEWEST_SIDE else (sides[1], sides[2])


def read_npy(file: BinaryIO, *, frame: int | None) -> StoredDepth:
    """Read an array from an open, seekable .npy file.

    Raises:
        DepthFileError: It holds no depth.
    """
    stored_bytes = file.seek(0, os.SEEK_END)
    file.seek(0)
    values, notes = _read_array(file, stored_bytes=stored_bytes, name="depth", frame=frame)
    return StoredDepth(values, origin="array", notes=notes)


def read_npz(file: BinaryIO, *, frame: int | None) -> StoredDepth:
    """Read depth from an open, seekable .npz file, with `uncertainty` and `valid` where they are there.

    Raises:
        DepthFileError: It holds no depth, or its arrays differ in size.
    """
    with zipfile.ZipFile(file) as archive:
        infos = [info for info in archive.infolist()[:_MAX_MEMBERS] if info.filename.endswith(".npy")]
        members = {info.filename.removesuffix(".npy"): info for info in infos}
        depth = _depth_name(archive, members)
        names = {"depth": depth} | {key: key for key in ("uncertainty", "valid") if key in members}
        arrays: dict[str, NDArray[Any]] = {}
        notes: tuple[str, ...] = ()
        for key, name in names.items():
            size_bytes = members[name].file_size
            with archive.open(members[name]) as member:
                arrays[key], found = _read_array(member, stored_bytes=size_bytes, name=key, frame=frame)
            notes = notes or found
    _check_same_shape(arrays)
    origin = "disparity" if depth.lower() in _DISPARITY_NAMES else "array" if depth == "depth" else "other"
    return StoredDepth(
        arrays["depth"],
        origin=origin,  # type: ignore[arg-type]
        uncertainty=arrays.get("uncertainty"),
        valid=arrays.get("valid"),
        notes=notes,
    )


def _depth_name(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> str:
    """Choose the array that is depth: by its name, or because no other array is a picture."""
    lower = {name.lower(): name for name in reversed(list(members))}
    for name in (*_DEPTH_NAMES, *_DISPARITY_NAMES):
        if name in lower:
            return lower[name]
    pictures = []
    for name, info in members.items():
        with archive.open(info) as member:
            try:
                header = _read_header(member, name="depth")
            except (DepthFileError, ValueError):
                continue
        if header.plane is not None and min(header.plane) >= _FEWEST_SIDE:
            pictures.append(name)
    if len(members) == 1:
        return next(iter(members))  # says itself what is wrong with it
    if len(pictures) != 1:
        raise DepthFileError(f"The archive holds no array named 'depth'; use {WANTED}.")
    return pictures[0]


def _check_same_shape(arrays: dict[str, NDArray[Any]]) -> None:
    shapes = {key: array.shape for key, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        sizes = ", ".join(f"{key} {shape[1]} × {shape[0]}" for key, shape in shapes.items())
        raise DepthFileError(f"The arrays of the depth file differ in size ({sizes}); they must be equal.")


def _read_array(
    file: IO[bytes], *, stored_bytes: int, name: str, frame: int | None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Hold the header against the limits and the stored length, then read one plane [H, W]."""
    header = _read_header(file, name=name)
    if header.plane is None:
        raise DepthFileError(
            f"The array '{name}' is no picture; [height, width] or [frames, height, width] is needed."
        )
    height, width = header.plane
    check_size(width, height)
    has_frames = name == "depth" or header.frames > 1
    taken, notes = check_frame(frame, header.frames) if has_frames else (0, ())
    wanted_bytes = math.prod(header.shape) * header.dtype.itemsize
    if wanted_bytes > stored_bytes:
        raise EOFError(f"{wanted_bytes} bytes announced, {stored_bytes} stored")
    if header.fortran_order and len(header.sides) == 3:
        return _from_transposed(file, header, taken), notes
    skipped_bytes = taken * height * width * header.dtype.itemsize
    if skipped_bytes > _MAX_SKIPPED_BYTES:
        raise DepthFileError(f"Frame {taken} stands too far back in its file; save it as a file of its own.")
    file.seek(header.size_bytes + skipped_bytes)
    if header.fortran_order:
        return _read_plane(file, header, width, height).T, notes
    return _read_plane(file, header, height, width), notes


def _read_plane(file: IO[bytes], header: _Header, height: int, width: int) -> NDArray[Any]:
    """Read rows in blocks; long doubles become doubles, and equal channels one."""
    row_bytes = width * header.channels * header.dtype.itemsize
    step = max(1, _BLOCK_BYTES // row_bytes)
    kept = np.dtype(np.float64) if header.dtype.itemsize > 8 else header.dtype
    plane = np.empty((height, width), dtype=kept)
    for start in range(0, height, step):
        rows = min(step, height - start)
        block = np.frombuffer(_exactly(file, rows * row_bytes), dtype=header.dtype)
        plane[start : start + rows] = _first_channel(block.reshape(rows, width, header.channels))
    return plane


def _exactly(file: IO[bytes], count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise EOFError(f"{count} bytes expected, {len(data)} there")
    return data


def _from_transposed(file: IO[bytes], header: _Header, taken: int) -> NDArray[Any]:
    """Read [T, H, W] or [H, W, C] whose first axis runs fastest: all of it has to be read."""
    count = math.prod(header.shape)
    if count * header.dtype.itemsize > _MAX_TRANSPOSED_BYTES:
        raise DepthFileError("The array is stored in Fortran order and large; save it in C order.")
    data = np.frombuffer(_exactly(file, count * header.dtype.itemsize), dtype=header.dtype)
    cube = data.reshape(header.sides, order="F")
    plane = _first_channel(cube) if header.channels > 1 else cube[taken]
    return plane.astype(np.float64) if header.dtype.itemsize > 8 else plane


def _first_channel(pixels: NDArray[Any]) -> NDArray[Any]:
    """Return [h, w] of [h, w, C] with equal channels; a fourth one is alpha and not looked at."""
    first: NDArray[Any] = pixels[..., 0]
    for other in range(1, min(pixels.shape[2], 3)):
        if not np.array_equal(first, pixels[..., other], equal_nan=pixels.dtype.kind == "f"):
            raise DepthFileError(f"The array holds colors, whose channels differ, not depth; use {WANTED}.")
    return first


def _read_header(file: IO[bytes], *, name: str) -> _Header:
    """Read the three facts of a .npy header by pattern; it is a Python literal, but nothing is evaluated."""
    start = file.read(8)
    if not start.startswith(NPY):
        raise ValueError("not an array")
    length_bytes = 2 if start[6] == 1 else 4
    (length,) = struct.unpack("<H" if length_bytes == 2 else "<I", file.read(length_bytes))
    if length > _MAX_HEADER:
        raise ValueError(f"a header of {length} bytes")
    header = file.read(length).decode("latin-1")
    kind = re.search(r"'descr': {0,9}'([<>|=]?)([fiub])([1248]|16)'", header)
    order = re.search(r"'fortran_order': {0,9}(True|False)", header)
    shape = re.search(r"'shape': {0,9}\(([\d, ]{0,200})\)", header)
    if not kind:
        raise DepthFileError(f"The array '{name}' does not hold plain numbers; save it as float32.")
    if not order or not shape:
        raise ValueError("no order or no shape")
    dtype = np.dtype("?" if kind[2] == "b" else "".join(kind.groups()))
    sides = tuple(int(side) for side in shape[1].split(",") if side.strip())
    return _Header(dtype, order[1] == "True", sides, 8 + length_bytes + length)


@dataclass(frozen=True)
class _Channel:
    name: str
    dtype: np.dtype[Any]
    offset: int  # of its values in a line, in bytes per pixel of the channels before it


def read_exr(file: BinaryIO) -> StoredDepth:
    """Read the only channel, the one that is named as depth, or equal colors.

    Raises:
        DepthFileError: No channel is depth, the kind is not supported, or its size is out of bounds.
    """
    file.seek(4)
    (flags,) = struct.unpack("<I", file.read(4))
    if flags & (_TILED | _DEEP | _PARTS):
        raise DepthFileError(f"OpenEXR files with tiles, several parts or deep pixels are not read; {_SAVE}.")
    attributes = _attributes(file)
    left, top, right, bottom = struct.unpack("<4i", attributes["dataWindow"][:16])
    width, height = right - left + 1, bottom - top + 1
    if min(width, height) < 1:
        raise ValueError("a window that ends before it begins")
    check_size(width, height)
    compression = attributes["compression"][0]
    if compression not in _LINES:
        kind = _OTHERS.get(compression, "a kind that is not known here")
        raise DepthFileError(f"The OpenEXR file is compressed with {kind}, which is not read; {_SAVE}.")
    channels, pixel_bytes = _channels(attributes["channels"])
    lines = _LINES[compression]
    if lines * width * pixel_bytes > _MAX_CHUNK_BYTES:
        raise DepthFileError(f"The OpenEXR file has too many channels; {_SAVE}.")
    wanted = _wanted(channels)
    planes = [np.empty((height, width), dtype=channel.dtype) for channel in wanted]
    for rows, data in _chunks(file, top, height, lines=lines, row_bytes=width * pixel_bytes):
        pixels = _unpacked(data, (rows.stop - rows.start) * width * pixel_bytes, compression)
        for channel, plane in zip(wanted, planes, strict=True):
            start = width * channel.offset
            line = pixels.reshape(-1, width * pixel_bytes)[:, start : start + width * channel.dtype.itemsize]
            plane[rows] = np.ascontiguousarray(line).view(channel.dtype)
    if not all(np.array_equal(planes[0], plane, equal_nan=True) for plane in planes[1:]):
        raise DepthFileError(f"The OpenEXR file holds colors and no depth; {_SAVE}.")
    is_disparity = wanted[0].name == "disparity"
    return StoredDepth(planes[0], origin="disparity" if is_disparity else "other")


def _chunks(
    file: BinaryIO, top: int, height: int, *, lines: int, row_bytes: int
) -> Iterator[tuple[slice, bytes]]:
    """Yield the rows and the packed bytes of every chunk of so many lines."""
    count = -(-height // lines)
    for offset in struct.unpack(f"<{count}Q", file.read(8 * count)):
        file.seek(offset)
        y, size = struct.unpack("<iI", file.read(8))
        if not top <= y < top + height or (y - top) % lines:
            raise ValueError("a chunk outside the picture")
        rows = slice(y - top, min(y - top + lines, height))
        yield rows, file.read(min(size, (rows.stop - rows.start) * row_bytes))


def _attributes(file: BinaryIO) -> dict[str, bytes]:
    """Read the header up to the table of offsets; only what is looked at is kept."""
    found: dict[str, bytes] = {}
    for _ in range(_MAX_ATTRIBUTES):
        name = _text(file)
        if not name:
            return found
        _text(file)  # the type
        (size,) = struct.unpack("<I", file.read(4))
        if name in ("channels", "compression", "dataWindow") and size <= _MAX_CHANNELS_BYTES:
            found[name] = file.read(size)
        else:
            file.seek(size, 1)
    raise ValueError("too many attributes")


def _text(file: BinaryIO) -> str:
    text, end, rest = file.read(_MAX_NAME).partition(b"\0")
    if not end:
        raise EOFError("a name without end")
    file.seek(-len(rest), 1)
    return text.decode("latin-1")


def _channels(data: bytes) -> tuple[list[_Channel], int]:
    """Return the channels in the order of the file, and the bytes that a pixel takes."""
    channels, at, pixel_bytes = [], 0, 0
    while data[at : at + 1] not in (b"\0", b""):
        end = data.index(b"\0", at)
        kind, across, down = struct.unpack_from("<I4x2i", data, end + 1)
        if (across, down) != (1, 1) or kind not in _KINDS:
            raise DepthFileError(f"The channels of the OpenEXR file differ in size; {_SAVE}.")
        name = data[at:end].decode("latin-1").lower().split(".")[-1]  # ViewLayer.Depth.Z
        channels.append(_Channel(name, _KINDS[kind], pixel_bytes))
        pixel_bytes += _KINDS[kind].itemsize
        at = end + 17
    return channels, pixel_bytes


def _wanted(channels: list[_Channel]) -> list[_Channel]:
    """Choose the channel that is depth, or the colors, which may be equal."""
    by_name = {channel.name: channel for channel in reversed(channels)}
    for name in _CHANNEL_NAMES:
        if name in by_name:
            return [by_name[name]]
    if len(channels) == 1:
        return channels
    colors = [by_name[name] for name in _COLORS if name in by_name]
    if len(colors) < len(_COLORS):
        raise DepthFileError(f"No channel of the OpenEXR file is named Z or Depth; {_SAVE}.")
    return colors


def _unpacked(packed: bytes, count: int, compression: int) -> NDArray[np.uint8]:
    """Return the bytes of a chunk; one that would not shrink is stored as it is."""
    if compression == _NONE or len(packed) == count:
        return np.frombuffer(packed, dtype=np.uint8, count=count)
    data = (
        _from_runs(packed, count) if compression == _RLE else zlib.decompressobj().decompress(packed, count)
    )
    differences = np.frombuffer(data, dtype=np.uint8, count=count)
    sums = np.cumsum(differences, dtype=np.uint8)
    sums[1::2] += np.uint8(128)  # each difference but the first is stored plus 128
    half = (count + 1) // 2
    pixels = np.empty(count, dtype=np.uint8)
    pixels[::2], pixels[1::2] = sums[:half], sums[half:]
    return pixels


def _from_runs(packed: bytes, count: int) -> bytes:
    data, at = bytearray(), 0
    while at < len(packed) and len(data) < count:
        length = packed[at]
        if length > 127:  # so many bytes as they are, as a negative number
            data += packed[at + 1 : at + 1 + 256 - length]
            at += 257 - length
        else:
            data += packed[at + 1 : at + 2] * (length + 1)
            at += 2
    return bytes(data)
