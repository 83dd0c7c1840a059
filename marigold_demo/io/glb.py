"""Arrays into the bytes of a binary glTF 2.0 file."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marigold_demo.io.mesh_files import cross

FLOAT, UNSIGNED_INT = 5126, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
CLAMP_TO_EDGE, LINEAR, LINEAR_MIPMAP_LINEAR = 33071, 9729, 9987

Json = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Part:
    """One mesh with its material; Y up, right-handed, counter-clockwise from the front.

    Attributes:
        positions: float32 [V, 3].
        faces: int32 [F, 3].
        material: glTF material; a texture it names has index 0.
        normals: float32 [V, 3], unit length.
        uv: float32 [V, 2], v down.
        jpeg: Bytes of the texture.
    """

    positions: NDArray[np.float32]
    faces: NDArray[np.int32]
    material: Json
    normals: NDArray[np.float32] | None = None
    uv: NDArray[np.float32] | None = None
    jpeg: bytes | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """What stands around the mesh.

    Attributes:
        name: Name of the mesh's node.
        camera: glTF camera at the origin looking along -Z.
        extensions: Names of the extensions the material uses.
        extras: Free data about the file.
    """

    name: str
    camera: Json | None = None
    extensions: tuple[str, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)


def to_glb(part: Part, scene: Scene) -> bytes:
    """Return the file's bytes."""
    buffers = _Buffers()
    attributes = {"POSITION": buffers.add(part.positions, kind="VEC3", target=ARRAY_BUFFER, bounds=True)}
    if part.normals is not None:
        attributes["NORMAL"] = buffers.add(part.normals, kind="VEC3", target=ARRAY_BUFFER)
    if part.uv is not None:
        attributes["TEXCOORD_0"] = buffers.add(part.uv, kind="VEC2", target=ARRAY_BUFFER)
    indices = buffers.add(part.faces.ravel().view(np.uint32), kind="SCALAR", target=ELEMENT_ARRAY_BUFFER)
    document: Json = {
        "asset": {"version": "2.0", "generator": "Marigold Demo"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": scene.name, "mesh": 0}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": indices, "material": 0}]}],
        "materials": [part.material],
        "accessors": buffers.accessors,
        "bufferViews": buffers.views,
    }
    if scene.extras:
        document["asset"]["extras"] = dict(scene.extras)
    if scene.extensions:
        document["extensionsUsed"] = list(scene.extensions)
    if scene.camera is not None:
        document["cameras"] = [scene.camera]
        document["nodes"].append({"name": "camera", "camera": 0})
        document["scenes"][0]["nodes"].append(1)
    if part.jpeg is not None:
        document["images"] = [{"bufferView": buffers.add_bytes(part.jpeg), "mimeType": "image/jpeg"}]
        document["samplers"] = [
            {
                "wrapS": CLAMP_TO_EDGE,
                "wrapT": CLAMP_TO_EDGE,
                "magFilter": LINEAR,
                "minFilter": LINEAR_MIPMAP_LINEAR,
            }
        ]
        document["textures"] = [{"source": 0, "sampler": 0}]
    document["buffers"] = [{"byteLength": buffers.size}]
    return _container(document, buffers.chunks)


class _Buffers:
    """The binary chunk as it grows, and what the document says about it."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.size = 0
        self.views: list[Json] = []
        self.accessors: list[Json] = []

    def add(self, array: NDArray[Any], *, kind: str, target: int, bounds: bool = False) -> int:
        """Append an array and return the index of its accessor."""
        view = self.add_bytes(np.ascontiguousarray(array).tobytes(), target=target)
        accessor: Json = {
            "bufferView": view,
            "componentType": FLOAT if array.dtype == np.float32 else UNSIGNED_INT,
            "count": len(array),
            "type": kind,
        }
        if bounds:
            accessor["min"], accessor["max"] = array.min(axis=0).tolist(), array.max(axis=0).tolist()
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def add_bytes(self, data: bytes, *, target: int | None = None) -> int:
        """Append bytes, padded to four, and return the index of their view."""
        view: Json = {"buffer": 0, "byteOffset": self.size, "byteLength": len(data)}
        if target is not None:
            view["target"] = target
        self.views.append(view)
        padded = data + b"\0" * (-len(data) % 4)
        self.chunks.append(padded)
        self.size += len(padded)
        return len(self.views) - 1


def _container(document: Json, chunks: list[bytes]) -> bytes:
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 4)
    size = sum(map(len, chunks))
    header = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + size)
    return b"".join(
        [header, struct.pack("<I4s", len(text), b"JSON"), text, struct.pack("<I4s", size, b"BIN\0"), *chunks]
    )


def smooth_normals(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return normals of vertices, weighted by the area of their faces: float32 [V, 3]."""
    corners = vertices[faces]
    normals = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # [F, 3]
    index, count = faces.ravel(), len(vertices)
    summed = np.stack([np.bincount(index, np.repeat(normals[:, k], 3), count) for k in range(3)], axis=1)
    length = np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    unit: NDArray[np.float32] = (summed / length).astype(np.float32)
    return unit
