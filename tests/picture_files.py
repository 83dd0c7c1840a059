"""Files of pictures as cameras, phones and programs write them, made byte by byte."""

import io
import struct
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
COLORS = ((220, 30, 30), (30, 170, 60), (40, 70, 220), (240, 210, 40))
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 8: 2, 11: 4, 12: 8, 13: 4, 16: 8}  # bytes of each type of TIFF
CODES = {1: "B", 3: "H", 4: "I", 8: "h", 11: "f", 13: "I", 16: "Q"}
Tag = tuple[int, Sequence[int] | bytes]


def quarters(height: int = 96, width: int = 144) -> np.ndarray:
    """A picture of four colors, r g / b y, with a ramp in the middle: uint8 [H, W, 3]."""
    corners = np.array(COLORS, np.uint8).reshape(2, 2, 3)
    picture = corners.repeat(height // 2, axis=0).repeat(width // 2, axis=1)
    middle = picture[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3]
    middle[:] = np.linspace(0, 255, middle.shape[1])[:, None]
    return picture


def encoded(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def corners(rgb: np.ndarray) -> np.ndarray:
    """The four colors of `quarters`: [4, 3]."""
    height, width = rgb.shape[:2]
    y, x = height // 8, width // 8
    return np.array([rgb[y, x], rgb[y, -x], rgb[-y, x], rgb[-y, -x]], dtype=int)


def chunk(kind: bytes, data: bytes, *, checksum: int | None = None) -> bytes:
    found = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", found)


def png(
    picture: np.ndarray, before: Iterable[bytes] = (), after: Iterable[bytes] = (), *, end: bool = True
) -> bytes:
    """A PNG of gray, RGB or RGBA in 8 or 16 bits, with other chunks before and after its pixels."""
    picture = picture[..., None] if picture.ndim == 2 else picture
    height, width, channels = picture.shape
    bits = 8 * picture.dtype.itemsize
    header = struct.pack(">2I5B", width, height, bits, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(picture.dtype.newbyteorder(">")).tobytes() for row in picture)
    return b"".join(
        [
            PNG + chunk(b"IHDR", header),
            *before,
            chunk(b"IDAT", zlib.compress(rows)),
            *after,
            chunk(b"IEND", b"") if end else b"",
        ]
    )


def directory(tags: dict[int, Tag], at: int, order: str, following: int = 0) -> bytes:
    """A directory of a TIFF that lies at `at`, its longer values behind it."""
    entries, behind = b"", b""
    begin = at + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        data = (
            values
            if isinstance(values, bytes)
            else struct.pack(f"{order}{len(values)}{CODES[kind]}", *values)
        )
        field = data.ljust(4, b"\0") if len(data) <= 4 else struct.pack(order + "I", begin + len(behind))
        entries += struct.pack(order + "HHI", tag, kind, len(data) // SIZES[kind]) + field
        behind += b"" if len(data) <= 4 else data + bytes(len(data) % 2)
    return struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", following) + behind


def tiff(
    samples: np.ndarray,
    *,
    order: str = "<",
    photometric: int | None = None,
    packed: bool = True,
    predictor: int = 1,
    more: dict[int, Tag] | None = None,
) -> bytes:
    """A TIFF of one page: [H, W] or [H, W, S] of any type, in two strips."""
    samples = samples[..., None] if samples.ndim == 2 else samples
    height, width, count = samples.shape
    stored = samples.astype(samples.dtype.newbyteorder(order))
    if predictor == 2:
        steps = np.diff(samples, axis=1, prepend=np.zeros_like(samples[:, :1]))
        stored = steps.astype(samples.dtype.newbyteorder(order))
    rows = height // 2
    strips = [stored[:rows].tobytes(), stored[rows:].tobytes()]
    strips = [zlib.compress(strip) for strip in strips] if packed else strips
    offsets = [8, 8 + len(strips[0])]
    at = 8 + sum(map(len, strips))
    at += at % 2
    photometric = (1 if count < 3 else 2) if photometric is None else photometric
    kinds = {"u": 1, "i": 2, "f": 3}
    tags: dict[int, Tag] = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [8 * samples.dtype.itemsize] * count),
        259: (3, [8 if packed else 1]), 262: (3, [photometric]),
        273: (4, offsets), 277: (3, [count]), 278: (4, [rows]), 279: (4, list(map(len, strips))),
        317: (3, [predictor]), 339: (3, [kinds[samples.dtype.kind]] * count),
    }  # fmt: skip
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at)
    body = head + b"".join(strips)
    return body.ljust(at, b"\0") + directory(tags | (more or {}), at, order)


def raw_file(preview: bytes, *, make: bytes, raw_size: tuple[int, int], orientation: int = 1) -> bytes:
    """A camera raw file: a thumbnail in the first directory, a JPEG and the raw picture in those under it."""
    thumbnail = quarters(24, 36).tobytes()
    preview_at = 8 + len(thumbnail)
    raw_at = preview_at + len(preview) + len(preview) % 2
    sub_1 = raw_at + 400
    one: dict[int, Tag] = {259: (3, [6]), 513: (4, [preview_at]), 514: (4, [len(preview)])}
    two: dict[int, Tag] = {
        254: (4, [0]), 256: (4, [raw_size[0]]), 257: (4, [raw_size[1]]), 258: (3, [14]), 259: (3, [34713]),
        262: (3, [32803]), 273: (4, [raw_at]), 277: (3, [1]), 278: (4, [raw_size[1]]), 279: (4, [400]),
    }  # fmt: skip
    sub_2 = sub_1 + len(directory(one, sub_1, "<"))
    first = sub_2 + len(directory(two, sub_2, "<"))
    top: dict[int, Tag] = {
        254: (4, [1]), 256: (4, [36]), 257: (4, [24]), 258: (3, [8, 8, 8]), 259: (3, [1]), 262: (3, [2]),
        271: (2, make + b"\0"), 273: (4, [8]), 274: (3, [orientation]), 277: (3, [3]), 278: (4, [24]),
        279: (4, [len(thumbnail)]), 330: (4, [sub_1, sub_2]),
    }  # fmt: skip
    body = b"II*\0" + struct.pack("<I", first) + thumbnail + preview
    return (
        body.ljust(raw_at, b"\0")
        + bytes(400)
        + directory(one, sub_1, "<")
        + directory(two, sub_2, "<")
        + directory(top, first, "<")
    )


def tall_jpeg(width: int, rows: int) -> bytes:
    """A JPEG of any height in few bytes: one row of blocks, again and again between restart markers."""
    strip = np.zeros((16, width, 3), np.uint8)
    strip[..., 0] = np.linspace(0, 255, width)
    data = encoded(strip, "JPEG", restart_marker_rows=1)
    height_at = data.index(b"\xff\xc0") + 5
    scan_at = data.index(b"\xff\xda") + 14
    scan = data[scan_at:-2]
    parts = [scan + bytes((0xFF, 0xD0 + number % 8)) for number in range(rows - 1)] + [scan]
    head = data[:height_at] + struct.pack(">H", 16 * rows) + data[height_at + 2 : scan_at]
    return head + b"".join(parts) + b"\xff\xd9"
