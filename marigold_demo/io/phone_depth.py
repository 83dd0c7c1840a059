"""Depth that a phone put into its photo -> float map, 0 near and 1 far. Raises nothing: no depth is no fault.

Three ways are known: GDepth in XMP (older Android phones), Dynamic Depth, whose pictures stand behind the
photo (newer ones), and an auxiliary picture of depth or disparity in HEIC (iPhones).
"""

import base64
import binascii
import io
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, PngImagePlugin

from marigold_demo.io.jpeg import segments
from marigold_demo.io.limits import READ_ERRORS, size_of, spliced
from marigold_demo.io.pixels import upright

Depth = NDArray[np.float32]  # [h, w]

MAX_PIXELS = 16_000_000
_MAX_XMP_BYTES = 32 * 2**20
_EXTENSION = b"http://ns.adobe.com/xmp/extension/\0"
_APP1 = 0xE1
_FAR_MEDIANS = 20.0  # depth beyond so many times its median is cut: little would be left for the rest
_MOST_STRETCH, _SAME_SHAPE = 1.25, 0.01
_LINEAR = b"RangeLinear"
_UNIFORM_Z = 2
_GDEPTH = b"http://ns.google.com/photos/1.0/depthmap/"
_DYNAMIC_DEPTH = b"http://ns.google.com/photos/dd/1.0/depthmap/"
_PROPERTIES = (b"Format", b"Near", b"Far", b"Data", b"DepthURI")
_DEPTH_MEANINGS = (b"depth", b"depthmap")
_ATTRIBUTE = re.compile(rb":(\w{1,40})\s{0,9}=\s{0,9}[\"']([^\"']*)[\"']")
_NAMESPACE = re.compile(rb"xmlns:([\w-]{1,40})\s{0,9}=\s{0,9}[\"']([^\"']{0,200})")
_ITEM = re.compile(rb"<[\w-]+:Item\b[^<>]*>")


@dataclass(frozen=True, eq=False)
class PhoneDepth:
    """Depth as it is stored: turned as the stored photo is, at its own resolution.

    Attributes:
        values: float32 [h, w], 0 near, 1 far.
        kind: "GDepth", "Dynamic Depth" or "HEIC".
    """

    values: Depth
    kind: str


def jpeg_depth(file: BinaryIO, info: Mapping[Any, Any]) -> PhoneDepth | None:
    """Return the depth inside a JPEG; `info` is what Pillow says of it."""
    xmp = info.get("xmp")
    if not isinstance(xmp, bytes) or b"epth" not in xmp:
        return None
    try:
        return (_gdepth if _GDEPTH in xmp else _dynamic_depth)(file, xmp)
    except (*READ_ERRORS, AssertionError, binascii.Error):
        return None


def heic_depth(info: Mapping[Any, Any]) -> PhoneDepth | None:
    """Return the depth inside a HEIC; `info` is what pillow-heif says of it."""
    found = info.get("depth_images") or ()
    try:
        if not found or math.prod(found[0].size) > MAX_PIXELS:
            return None
        levels, metadata = _levels(found[0].to_pillow()), found[0].info.get("metadata") or {}
    except (*READ_ERRORS, AssertionError):
        return None
    return _phone_depth(heic_distance(levels, metadata), "HEIC")


def upright_depth(depth: PhoneDepth, orientation: int, size: tuple[int, int]) -> Depth | None:
    """Turn depth as its photo is turned, and give it the photo's shape; None where it is another picture's.

    Args:
        depth: As it is stored.
        orientation: Of the photo, in EXIF's numbers.
        size: Width and height of the upright photo.
    """
    image = upright(Image.fromarray(depth.values), orientation)
    stretch = image.width * size[1] / (image.height * size[0])
    if not 1 / _MOST_STRETCH < stretch < _MOST_STRETCH:
        return None
    if abs(stretch - 1) > _SAME_SHAPE:  # GDepth: "will be stretched-to-fit the corresponding color image"
        image = image.resize((image.width, max(1, round(image.width * size[1] / size[0]))))
    return np.asarray(image, dtype=np.float32)


def _gdepth(file: BinaryIO, xmp: bytes) -> PhoneDepth | None:
    """Read a depth picture that stands in the XMP itself, in base64."""
    properties = _properties(xmp, _GDEPTH)
    data = properties[b"Data"] or _properties(_extended(file, xmp), _GDEPTH)[b"Data"]
    levels = _decoded(io.BytesIO(base64.b64decode(data))) if data else None
    return None if levels is None else _phone_depth(_range_distance(levels, properties), "GDepth")


def _dynamic_depth(file: BinaryIO, xmp: bytes) -> PhoneDepth | None:
    """Read a depth picture that stands behind the photo, among pictures of which the last ends the file."""
    properties = _properties(xmp, _DYNAMIC_DEPTH)
    wanted, end = properties[b"DepthURI"] or b"android/depthmap", size_of(file)
    for item in reversed(_ITEM.findall(xmp)):
        length = int(_value(item, b"Length") or 0)
        is_depth = _value(item, b"DataURI") == wanted or _value(item, b"Semantic").lower() in _DEPTH_MEANINGS
        if is_depth and 0 < length <= end:
            levels = _decoded(spliced(file, [(end - length, end)]))
            return (
                None if levels is None else _phone_depth(_range_distance(levels, properties), "Dynamic Depth")
            )
        end -= length + int(_value(item, b"Padding") or 0)
    return None


def _value(item: bytes, name: bytes) -> bytes:
    return next((value for named, value in _ATTRIBUTE.findall(item) if named == name), b"")


def _properties(xmp: bytes, namespace: bytes) -> dict[bytes, bytes]:
    """Return the properties of a namespace that are used here, empty where they are missing."""
    declared = next((name for name, uri in _NAMESPACE.findall(xmp) if uri.startswith(namespace)), None)
    prefix = declared + b":" if declared else b""
    return {name: _property(xmp, prefix + name) if declared else b"" for name in _PROPERTIES}


def _property(xmp: bytes, name: bytes) -> bytes:
    """Return the value of an attribute or a simple element."""
    at = xmp.find(name)
    while at >= 0:
        after = at + len(name)
        head = xmp[after : after + 20].lstrip(b" \t\r\n=")
        if head[:1] in (b'"', b"'", b">"):
            begin = xmp.find(head[:1], after) + 1
            end = xmp.find(b"<" if head.startswith(b">") else head[:1], begin)
            return xmp[begin:end] if end >= 0 else b""
        at = xmp.find(name, after)
    return b""


def _extended(file: BinaryIO, xmp: bytes) -> bytes:
    """Put the extended XMP together: it is cut into APP1 segments, each with its place in the whole."""
    named = re.search(rb"HasExtendedXMP\s*(?:=\s*[\"']|>)\s*([0-9A-Fa-f]{32})", xmp)
    whole = bytearray()
    for marker, begin, end in segments(file):
        file.seek(begin)
        if marker != _APP1 or file.read(len(_EXTENSION)) != _EXTENSION:
            continue
        guid, length, offset = struct.unpack(">32sII", file.read(40))
        if (named and guid.upper() != named[1].upper()) or length > _MAX_XMP_BYTES or offset > length:
            continue
        whole = whole or bytearray(length)
        data = file.read(max(0, end - file.tell()))[: len(whole) - offset]
        whole[offset : offset + len(data)] = data
    return bytes(whole)


def _decoded(file: BinaryIO) -> Depth | None:
    """Decode a PNG or JPEG of gray levels to 0..1."""
    start = file.read(8)
    file.seek(0)
    opened = PngImagePlugin.PngImageFile if start.startswith(b"\x89PNG") else JpegImagePlugin.JpegImageFile
    image: Image.Image = opened(file)
    if math.prod(image.size) > MAX_PIXELS:
        return None
    image.load()
    return _levels(image)


def _levels(image: Image.Image) -> Depth:
    """Return gray levels as 0..1."""
    top = 65535 if image.mode.startswith("I;16") else 255
    levels: Depth = np.asarray(image if top > 255 or image.mode == "L" else image.convert("L")).astype(
        np.float32
    )
    return levels / np.float32(top)


def _range_distance(levels: Depth, properties: Mapping[bytes, bytes]) -> Depth:
    """Return distance from levels that run from near to far, linearly or in inverse depth (the default)."""
    near, far = _number(properties[b"Near"]), _number(properties[b"Far"])
    if properties[b"Format"] == _LINEAR or near is None or far is None or not 0 < near < far:
        return levels
    return _cut(np.float32(far * near) / (np.float32(far) - levels * np.float32(far - near)))


def heic_distance(levels: Depth, metadata: Mapping[str, Any]) -> Depth:
    """Return distance from levels of disparity, bright is near, unless the file says that they are depth.

    ITU-T H.265, F.14.3.3: representation type 0 is inverse depth, 1 and 3 disparity, 2 depth.
    """
    if metadata.get("representation_type") == _UNIFORM_Z:
        return levels
    near, far = metadata.get("z_near"), metadata.get("z_far")
    lowest, highest = metadata.get("d_min"), metadata.get("d_max")
    if near and far and 0 < near < far:
        lowest, highest = 1 / far, 1 / near
    if lowest is None or highest is None or not 0 < lowest < highest:
        return 1 - levels
    return _cut(np.reciprocal(np.float32(lowest) + levels * np.float32(highest - lowest)))


def _cut(distance: Depth) -> Depth:
    """Cut what is very far away: it would leave nothing of the range for the rest."""
    median = float(np.partition(distance, distance.size // 2, axis=None)[distance.size // 2])
    return np.minimum(distance, np.float32(_FAR_MEDIANS * median))


def _phone_depth(distance: Depth, kind: str) -> PhoneDepth | None:
    """Bring distance into 0..1, 0 near; None where it is the same everywhere."""
    low, high = float(distance.min()), float(distance.max())
    if not low < high:
        return None
    return PhoneDepth(((distance - low) / (high - low)).astype(np.float32), kind)


def _number(text: bytes) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
