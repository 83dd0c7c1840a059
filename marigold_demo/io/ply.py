"""Points and triangles into binary PLY. Knows nothing of reliefs or surfaces."""

import numpy as np
from numpy.typing import NDArray

PLACE = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
COLOR = [("red", "u1"), ("green", "u1"), ("blue", "u1")]
FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])
NAMES = {"<f4": "float", "u1": "uchar"}


def to_ply(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32] | None,
    *,
    comment: str,
    colors: NDArray[np.uint8] | None = None,
) -> bytes:
    """Return a binary little-endian PLY.

    Args:
        vertices: float32 [V, 3].
        faces: int32 [F, 3]; None gives a point cloud.
        comment: One line about the file, its unit for instance.
        colors: uint8 [V, 3].
    """
    layout = PLACE + (COLOR if colors is not None else [])
    points = np.zeros(len(vertices), dtype=np.dtype(layout))
    for k, (name, _) in enumerate(PLACE):
        points[name] = vertices[:, k]
    if colors is not None:
        for k, (name, _) in enumerate(COLOR):
            points[name] = colors[:, k]
    header = ["ply", "format binary_little_endian 1.0", f"comment {comment}", f"element vertex {len(points)}"]
    header += [f"property {NAMES[kind]} {name}" for name, kind in layout]
    body = [points.tobytes()]
    if faces is not None:
        triangles = np.zeros(len(faces), dtype=FACE)
        triangles["count"] = 3
        triangles["corners"] = faces
        header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
        body.append(triangles.tobytes())
    return b"".join([("\n".join([*header, "end_header"]) + "\n").encode("ascii", "replace"), *body])
