"""GIF -> what its first frame needs, without comments, and the number of frames. Decodes no pixel.

Pillow joins comments piece by piece, which takes minutes for megabytes of them, and counts frames by reading
every one.
"""

from typing import BinaryIO

from marigold_demo.io.file_parts import Part, spliced

_TRAILER, _IMAGE, _EXTENSION, _CONTROL = b";", b",", b"!", 0xF9
_MOST_FRAMES = 10_000


def first_frame(file: BinaryIO) -> tuple[BinaryIO, int]:
    """Return the file up to the end of its first frame, and how many frames it has."""
    file.seek(0)
    header = file.read(13)
    at = 13 + _table_bytes(header[10:11])
    parts: list[Part] = [(0, at)]
    frames = 0
    while frames < _MOST_FRAMES:
        file.seek(at)
        kind = file.read(1)
        if kind == _IMAGE:
            head = file.read(9)
            end = _end_of_blocks(file, at + 11 + _table_bytes(head[8:9]))
            parts += [(at, end)] if not frames else []
            frames += 1
        elif kind == _EXTENSION:
            label = file.read(1)
            end = _end_of_blocks(file, at + 2)
            parts += [(at, end)] if label == bytes([_CONTROL]) and not frames else []
        else:
            break
        at = end
    return spliced(file, [*parts, _TRAILER]), frames


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
