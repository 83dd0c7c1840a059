"""Triangles into OBJ text, alone or with a photo on them. Knows nothing of reliefs or surfaces."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from marigold_demo.io.archive import to_zip
from marigold_demo.io.rows import rows

MTL = "newmtl photo\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {picture}\n"


def to_obj(vertices: NDArray[np.float32], faces: NDArray[np.int32], *, comment: str) -> bytes:
    """Return an OBJ of bare triangles."""
    return "".join(_lines(vertices, faces, comment=comment)).encode()


def to_obj_zip(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    *,
    uv: NDArray[np.float32],
    jpeg: bytes,
    stem: str,
    comment: str,
) -> bytes:
    """Return OBJ, MTL and JPEG of one stem in a ZIP.

    Args:
        vertices: float32 [V, 3].
        faces: int32 [F, 3].
        uv: float32 [V, 2], v down as in glTF; OBJ's runs up.
        jpeg: The photo.
        stem: Name of the three files.
        comment: First line of the OBJ.
    """
    text = "".join(_lines(vertices, faces, comment=comment, uv=uv, library=f"{stem}.mtl")).encode()
    mtl = MTL.format(picture=f"{stem}.jpg").encode()
    return to_zip({f"{stem}.obj": text, f"{stem}.mtl": mtl, f"{stem}.jpg": jpeg})


def _lines(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    *,
    comment: str,
    uv: NDArray[np.float32] | None = None,
    library: str = "",
) -> Iterator[str]:
    yield f"# {comment}\n"
    if uv is None:
        yield from rows("v %.4f %.4f %.4f\n", vertices)
        yield from rows("f %d %d %d\n", faces + 1)
        return
    yield f"mtllib {library}\nusemtl photo\n"
    yield from rows("v %.6g %.6g %.6g\n", vertices)
    yield from rows("vt %.6f %.6f\n", np.column_stack([uv[:, 0], 1 - uv[:, 1]]))
    yield from rows("f %d/%d %d/%d %d/%d\n", np.repeat(faces + 1, 2, axis=1))
