"""Triangles into the bytes of STL, 3MF and GLB files, and STL and 3MF back.

STL is binary, in millimeters. 3MF follows the core specification alone: one object without materials, because
slicers ignore those of the specification. GLB is binary glTF 2.0 with a texture and a camera. 3MF and GLB
carry metadata. These writers are our own because trimesh's STL and 3MF take 2.4 and 3.5 times as long, and
its GLB has no unlit material with a camera.
"""

import io
import json
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

STL_HEADER_BYTES = 84  # text and count
STL_FACE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
STL_TITLE = b"Binary STL, unit mm, Marigold Demo".ljust(
    80, b" "
)  # must not start with "solid", as text STL does

Points = NDArray[np.float32]
THREEMF_MODEL = "3D/3dmodel.model"
THREEMF_THUMBNAIL = "Metadata/thumbnail.png"
NAMESPACE = "urn:marigold-demo:recipe"  # names of metadata outside the specification's list need a namespace
CONTENT_TYPES = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>'
    '<Default Extension="png" ContentType="image/png"/>'
    "</Types>"
)
RELATIONSHIPS = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    f'<Relationship Target="/{THREEMF_MODEL}" Id="rel0"'
    ' Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>'
    f'<Relationship Target="/{THREEMF_THUMBNAIL}" Id="rel1"'
    ' Type="http://schemas.openxmlformats.org/package/2006/relationships/metadata/thumbnail"/></Relationships>'
)

_ROWS_AT_ONCE = 50_000  # one %-format over so many rows is as quick as one over all, and needs little memory
COMPRESSED = (".jpg", ".png")  # compressing these again takes time and saves nothing
COMPONENTS = {"uint8": 5121, "uint16": 5123, "uint32": 5125, "float32": 5126}
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
CLAMP_TO_EDGE, LINEAR, LINEAR_MIPMAP_LINEAR = 33071, 9729, 9987

Json = dict[str, Any]


def to_stl(vertices: Points, faces: NDArray[np.int32]) -> bytes:
    """Return a binary STL with unit normals by the right-hand rule."""
    data = bytearray(STL_HEADER_BYTES + STL_FACE.itemsize * len(faces))
    data[:80] = STL_TITLE
    data[80:STL_HEADER_BYTES] = np.uint32(len(faces)).tobytes()
    records = np.frombuffer(data, dtype=STL_FACE, offset=STL_HEADER_BYTES)
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
    if len(data) != STL_HEADER_BYTES + STL_FACE.itemsize * count:
        raise ValueError(f"{len(data)} bytes do not hold {count} faces")
    return np.frombuffer(data, dtype=STL_FACE, offset=STL_HEADER_BYTES)


def read_stl(file: BinaryIO) -> NDArray[np.float32]:
    """Return the triangles of an open binary STL: float32 [F, 3, 3].

    Raises:
        ValueError: Its size does not fit the count.
    """
    corners: NDArray[np.float32] = from_stl(file.read())["corners"]
    return corners


def to_threemf(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    *,
    metadata: Mapping[str, str],
    name: str,
    thumbnail: bytes,
) -> bytes:
    """Return a 3MF in millimeters.

    Args:
        vertices: float32 [V, 3] in millimeters; written to a ten-thousandth.
        faces: int32 [F, 3].
        metadata: Title, Description and the like; names with a colon are the project's own.
        name: Of the object, which slicers list.
        thumbnail: A PNG.
    """
    model = "".join(_model(vertices, faces, metadata, name)).encode()
    return to_zip(
        {
            "[Content_Types].xml": CONTENT_TYPES.encode(),
            "_rels/.rels": RELATIONSHIPS.encode(),
            THREEMF_MODEL: model,
            THREEMF_THUMBNAIL: thumbnail,
        }
    )


def read_threemf(file: BinaryIO) -> NDArray[np.float32]:
    """Return the triangles of an open 3MF of ours: float32 [F, 3, 3].

    Raises:
        ValueError: It holds no mesh.
    """
    with zipfile.ZipFile(file) as archive:
        model = archive.read(THREEMF_MODEL)
    places = model.find(b"<vertices>"), model.find(b"</vertices>"), model.find(b"</triangles>")
    if min(places) < 0:
        raise ValueError("the model holds no mesh")
    vertices = _numbers(model[places[0] : places[1]])
    faces = _numbers(
        model[places[1] : places[2]]
        .translate(None, b"v")
        .replace(b" 1=", b" ")
        .replace(b" 2=", b" ")
        .replace(b" 3=", b" ")
    )
    return vertices.reshape(-1, 3).astype(np.float32)[faces.reshape(-1, 3).astype(np.int64)]


def _numbers(text: bytes) -> NDArray[np.float64]:
    """Return all numbers in a text; letters and marks only separate them."""
    digits = b"0123456789.-"
    blank = bytes(byte if byte in digits else 32 for byte in range(256))
    return np.fromstring(text.translate(blank), dtype=np.float64, sep=" ")


def _model(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], metadata: Mapping[str, str], object_name: str
) -> Iterator[str]:
    yield (
        '<?xml version="1.0" encoding="UTF-8"?>\n<model unit="millimeter" xml:lang="en-US"'
        ' xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02"'
        f' xmlns:demo="{NAMESPACE}">\n'
    )
    for name, value in metadata.items():
        yield f"<metadata name={quoteattr(name)}>{escape(value)}</metadata>\n"
    yield f'<resources><object id="1" type="model" name={quoteattr(object_name)}><mesh><vertices>\n'
    yield from _rows('<vertex x="%.4f" y="%.4f" z="%.4f"/>\n', vertices)
    yield "</vertices><triangles>\n"
    yield from _rows('<triangle v1="%d" v2="%d" v3="%d"/>\n', faces)
    yield '</triangles></mesh></object></resources><build><item objectid="1"/></build></model>\n'


def _rows(template: str, table: NDArray[Any]) -> Iterator[str]:
    """Yield text in which the template is filled in once for each row of [N, K]."""
    for start in range(0, len(table), _ROWS_AT_ONCE):
        part = table[start : start + _ROWS_AT_ONCE]
        yield (template * len(part)) % tuple(part.ravel().tolist())


@dataclass(frozen=True, eq=False)
class GlbMesh:
    """One mesh with its material; Y up, right-handed, counter-clockwise from the front.

    Attributes:
        positions: float32 [V, 3].
        faces: int32 [F, 3].
        material: glTF material; a texture it names has index 0.
        normals: float32 [V, 3], unit length.
        uv: float32 [V, 2], v down.
        colors: uint8 [V, 4], linear; they multiply the texture's.
        jpeg: Bytes of the texture.
    """

    positions: NDArray[np.float32]
    faces: NDArray[np.int32]
    material: Json
    normals: NDArray[np.float32] | None = None
    uv: NDArray[np.float32] | None = None
    colors: NDArray[np.uint8] | None = None
    jpeg: bytes | None = None


@dataclass(frozen=True, eq=False)
class GlbScene:
    """What surrounds the mesh.

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


def to_glb(mesh: GlbMesh, scene: GlbScene) -> bytes:
    """Return the file's bytes."""
    buffers = _Buffers()
    attributes = {"POSITION": buffers.add(mesh.positions, kind="VEC3", target=ARRAY_BUFFER, bounds=True)}
    if mesh.normals is not None:
        attributes["NORMAL"] = buffers.add(mesh.normals, kind="VEC3", target=ARRAY_BUFFER)
    if mesh.uv is not None:
        attributes["TEXCOORD_0"] = buffers.add(mesh.uv, kind="VEC2", target=ARRAY_BUFFER)
    if mesh.colors is not None:
        attributes["COLOR_0"] = buffers.add(mesh.colors, kind="VEC4", target=ARRAY_BUFFER)
    # 65535 is no vertex: it begins a new strip.
    index = np.uint16 if len(mesh.positions) < 2**16 else np.uint32
    indices = buffers.add(mesh.faces.ravel().astype(index), kind="SCALAR", target=ELEMENT_ARRAY_BUFFER)
    document: Json = {
        "asset": {"version": "2.0", "generator": "Marigold Demo"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"name": scene.name, "mesh": 0}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": indices, "material": 0}]}],
        "materials": [mesh.material],
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
    if mesh.jpeg is not None:
        document["images"] = [{"bufferView": buffers.add_bytes(mesh.jpeg), "mimeType": "image/jpeg"}]
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
            "componentType": COMPONENTS[array.dtype.name],
            "count": len(array),
            "type": kind,
        }
        if array.dtype == np.uint8:
            accessor["normalized"] = True
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


def unit_normals(corners: Points) -> Points:
    """Return right-hand normals float32 [F, 3] of triangles [F, 3, 3]; zero where there is no area."""
    normals = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.sqrt(np.einsum("fk,fk->f", normals, normals))
    normals /= np.maximum(length, np.finfo(np.float32).tiny)[:, None]
    return normals


def smooth_normals(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return normals of vertices, weighted by the area of their faces: float32 [V, 3]."""
    corners = vertices[faces]
    normals = cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])  # [F, 3]
    index, count = faces.ravel(), len(vertices)
    summed = np.stack([np.bincount(index, np.repeat(normals[:, k], 3), count) for k in range(3)], axis=1)
    length = np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    unit: NDArray[np.float32] = (summed / length).astype(np.float32)
    return unit


def cross(a: Points, b: Points) -> Points:
    """Return the cross products of [F, 3] and [F, 3]; a third of np.cross's time."""
    product = np.empty_like(a)
    for k, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        np.multiply(a[:, i], b[:, j], out=product[:, k])
        product[:, k] -= a[:, j] * b[:, i]
    return product


def to_zip(members: Mapping[str, bytes]) -> bytes:
    """Return a ZIP with a fixed date, so that the same members give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            kind = zipfile.ZIP_STORED if name.endswith(COMPRESSED) else zipfile.ZIP_DEFLATED
            archive.writestr(entry, data, compress_type=kind, compresslevel=1)
    return buffer.getvalue()
