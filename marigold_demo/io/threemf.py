"""Triangles into 3MF, which carries its unit. Knows nothing of reliefs.

Plain core specification: one object, no materials, because slicers ignore those of the specification.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from marigold_demo.io.archive import to_zip
from marigold_demo.io.rows import rows

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


def to_threemf(
    vertices: NDArray[np.float32], faces: NDArray[np.int32], *, metadata: Mapping[str, str]
) -> bytes:
    """Return a 3MF in millimetres.

    Args:
        vertices: float32 [V, 3] in millimetres; written to a ten-thousandth.
        faces: int32 [F, 3].
        metadata: Title, Description and the like; names with a colon are the project's own.
    """
    model = "".join(_model(vertices, faces, metadata)).encode()
    return to_zip(
        {"[Content_Types].xml": CONTENT_TYPES.encode(), "_rels/.rels": RELATIONSHIPS.encode(), MODEL: model}
    )


def from_threemf(data: bytes) -> NDArray[np.float32]:
    """Return the triangles of a 3MF of ours: float32 [F, 3, 3].

    Raises:
        ValueError: It holds no mesh.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
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
    """Return all numbers of a piece of text; letters and marks only part them."""
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
    yield from rows('<vertex x="%.4f" y="%.4f" z="%.4f"/>\n', vertices)
    yield "</vertices><triangles>\n"
    yield from rows('<triangle v1="%d" v2="%d" v3="%d"/>\n', faces)
    yield '</triangles></mesh></object></resources><build><item objectid="1"/></build></model>\n'
