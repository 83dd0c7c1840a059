"""OpenEXR files -> stored depth, for scan lines without loss: uncompressed, RLE and ZIP, of one part.

That is what Blender, Nuke, Houdini and OpenCV write by default. Other kinds are refused with a sentence. The
format is described in "OpenEXR File Layout" (openexr.com).
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from marigold_demo.errors import DepthFileError
from marigold_demo.io.depth_arrays import check_size
from marigold_demo.io.depth_values import StoredDepth

SIGNATURE = b"v/1\x01"

_TILED, _DEEP, _PARTS = 0x200, 0x800, 0x1000
_NONE, _RLE, _ZIP_LINE, _ZIP = 0, 1, 2, 3
_LINES = {_NONE: 1, _RLE: 1, _ZIP_LINE: 1, _ZIP: 16}  # in a chunk
_KINDS: dict[int, np.dtype[Any]] = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}
_OTHERS = {4: "PIZ", 5: "PXR24", 6: "B44", 7: "B44A", 8: "DWAA", 9: "DWAB"}
_DEPTH_NAMES = ("z", "depth", "y", "v", "distance", "disparity")
_COLORS = ("r", "g", "b")
_MAX_ATTRIBUTES, _MAX_NAME, _MAX_CHANNELS_BYTES, _MAX_CHUNK_BYTES = 1000, 256, 2**16, 2**26
_SAVE = "save the depth as one channel in float, with ZIP compression"


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
    count = -(-height // lines)
    for offset in struct.unpack(f"<{count}Q", file.read(8 * count)):
        file.seek(offset)
        y, size = struct.unpack("<iI", file.read(8))
        if not top <= y <= bottom or (y - top) % lines:
            raise ValueError("a chunk outside the picture")
        rows = slice(y - top, min(y - top + lines, height))
        raw_bytes = (rows.stop - rows.start) * width * pixel_bytes
        packed = file.read(min(size, raw_bytes))
        pixels = _unpacked(packed, raw_bytes, compression).reshape(-1, width * pixel_bytes)
        for channel, plane in zip(wanted, planes, strict=True):
            start = width * channel.offset
            line = pixels[:, start : start + width * channel.dtype.itemsize]
            plane[rows] = np.ascontiguousarray(line).view(channel.dtype)
    if not all(np.array_equal(planes[0], plane, equal_nan=True) for plane in planes[1:]):
        raise DepthFileError(f"The OpenEXR file holds colors and no depth; {_SAVE}.")
    is_disparity = wanted[0].name == "disparity"
    return StoredDepth(planes[0], origin="disparity" if is_disparity else "other")


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
    for name in _DEPTH_NAMES:
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
