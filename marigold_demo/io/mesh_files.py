"""Triangles into the bytes of STL and 3MF files, and back. Both are in millimeters.

STL is binary. 3MF follows the core specification alone: one object without materials, because slicers ignore
those of the specification. These writers take a third of trimesh's time, and 3MF carries metadata.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES = 84  # text and count
FACE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
TITLE = b"Binary STL, unit mm, Marigold Demo".ljust(80, b" ")  # must not start with "solid", as text STL does

Points = NDArray[np.float32]
MODEL = "3D/3dmodel.model"
NAMESPACE = "urn:marigold-demo:recipe"  # names of metadata outside the specification's list need a namespace
CONTENT_TYPES = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>'
    "</Types>"
)
RELATIONSHIPS = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    f'<Relationship Target="/{MODEL}" Id="rel0"'
    ' Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/></Relationships>'
)
ROWS_AT_ONCE = 50_000  # one %-format over so many rows is as quick as one over all, and needs little memory
COMPRESSED = (".jpg", ".png")  # compressing these again takes time and saves nothing


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


def read_stl(file: BinaryIO) -> NDArray[np.float32]:
    """Return the triangles of an open binary STL: float32 [F, 3, 3].

    Raises:
        ValueError: Its size does not fit the count.
    """
    corners: NDArray[np.float32] = from_stl(file.read())["corners"]
    return corners


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


def to_threemf(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], *, metadata: Mapping[str, str]
) -> bytes:
    """Return a 3MF in millimeters.

    Args:
        vertices: float32 [V, 3] in millimeters; written to a ten-thousandth.
        faces: int32 [F, 3].
        metadata: Title, Description and the like; names with a colon are the project's own.
    """
    model = "".join(_model(vertices, faces, metadata)).encode()
    return to_zip(
        {"[Content_Types].xml": CONTENT_TYPES.encode(), "_rels/.rels": RELATIONSHIPS.encode(), MODEL: model}
    )


def read_threemf(file: BinaryIO) -> NDArray[np.float32]:
    """Return the triangles of an open 3MF of ours: float32 [F, 3, 3].

    Raises:
        ValueError: It holds no mesh.
    """
    with zipfile.ZipFile(file) as archive:
        model = archive.read(MODEL)
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
    vertices: NDArray[np.float32], faces: NDArray[np.int32], metadata: Mapping[str, str]
) -> Iterator[str]:
    yield (
        '<?xml version="1.0" encoding="UTF-8"?>\n<model unit="millimeter" xml:lang="en-US"'
        ' xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02"'
        f' xmlns:demo="{NAMESPACE}">\n'
    )
    for name, value in metadata.items():
        yield f"<metadata name={quoteattr(name)}>{escape(value)}</metadata>\n"
    yield '<resources><object id="1" type="model"><mesh><vertices>\n'
    yield from _rows('<vertex x="%.4f" y="%.4f" z="%.4f"/>\n', vertices)
    yield "</vertices><triangles>\n"
    yield from _rows('<triangle v1="%d" v2="%d" v3="%d"/>\n', faces)
    yield '</triangles></mesh></object></resources><build><item objectid="1"/></build></model>\n'


def _rows(template: str, table: NDArray[Any]) -> Iterator[str]:
    """Yield text in which the template is filled in once for each row of [N, K]."""
    for start in range(0, len(table), ROWS_AT_ONCE):
        part = table[start : start + ROWS_AT_ONCE]
        yield (template * len(part)) % tuple(part.ravel().tolist())


def to_zip(members: Mapping[str, bytes]) -> bytes:
    """Return a ZIP with a fixed date, so that the same members give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            kind = zipfile.ZIP_STORED if name.endswith(COMPRESSED) else zipfile.ZIP_DEFLATED
            archive.writestr(entry, data, compress_type=kind, compresslevel=1)
    return buffer.getvalue()
