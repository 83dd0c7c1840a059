"""Triangles into a binary STL and back. Knows nothing of reliefs."""

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES = 84  # text and count
FACE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
TITLE = b"Binary STL, unit mm, Marigold Demo".ljust(80, b" ")  # must not start with "solid", as text STL does

Points = NDArray[np.float32]


def to_stl(vertices: Points, faces: NDArray[np.int32]) -> bytes:
    """Return a binary STL with unit normals by the right-hand rule."""
    data = bytearray(HEADER_BYTES + FACE.itemsize * len(faces))
    data[:80] = TITLE
    data[80:HEADER_BYTES] = np.uint32(len(faces)).tobytes()
    records = np.frombuffer(data, dtype=FACE, offset=HEADER_BYTES)
    corners = vertices[faces]  # [F, 3, 3]
    records["normal"] = unit_normals(corners)
    records["corners"] = corners
    return bytes(data)


def from_stl(data: bytes) -> NDArray[np.void]:
    """Return the records of a binary STL: normal [F, 3] and corners [F, 3, 3].

    Raises:
        ValueError: The size does not fit the count.
    """
    count = int(np.frombuffer(data, dtype="<u4", count=1, offset=80)[0])
    if len(data) != HEADER_BYTES + FACE.itemsize * count:
        raise ValueError(f"{len(data)} bytes do not hold {count} faces")
    return np.frombuffer(data, dtype=FACE, offset=HEADER_BYTES)


def unit_normals(corners: Points) -> Points:
    """Return right-hand normals float32 [F, 3] of triangles [F, 3, 3]; zero where there is no area."""
    normals = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.sqrt(np.einsum("fk,fk->f", normals, normals))
    normals /= np.maximum(length, np.finfo(np.float32).tiny)[:, None]
    return normals


def cross(a: Points, b: Points) -> Points:
    """Return the cross products of [F, 3] and [F, 3]; a third of np.cross's time."""
    product = np.empty_like(a)
    for k, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        np.multiply(a[:, i], b[:, j], out=product[:, k])
        product[:, k] -= a[:, j] * b[:, i]
    return product
