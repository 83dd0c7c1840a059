"""The file formats that are written, in one table for page, API, command line and ZIP.

Writers and readers are named by module and function in `io/`, and imported when they are called, so that the
table itself costs nothing to import.
"""

import importlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from marigold_demo.recipe import Recipe

Holds = Literal["depth", "picture", "relief", "mesh"]


@dataclass(frozen=True)
class Format:
    """One format of one kind of object.

    Attributes:
        name: What flags take.
        holds: "depth", "picture" (depth in colors), "relief" or "mesh" (a textured surface).
        ending: How the file's name ends.
        media_type: Its MIME type.
        writer: Module and function that make the bytes of a DepthMap, a picture uint8 [H, W, 3], a Relief or
            a Surface.
        takes: What else the writer takes: "recipe", "stem" or "invert".
        reader: Module and function that read the file back; empty where nothing here does.
        label: What the page's button says; empty where the page does not offer it.
    """

    name: str
    holds: Holds
    ending: str
    media_type: str
    writer: str
    takes: tuple[str, ...] = ()
    reader: str = ""
    label: str = ""

    @property
    def is_printable(self) -> bool:
        """Whether slicers take it, and the print report can check its bytes."""
        return self.holds == "relief" and bool(self.reader)

    def file_name(self, thing: Any, stem: str, *, invert: bool = False) -> str:
        """Return a name that says what the file holds, and its size and unit where there are any.

        Such as photo_depth_16bit.png, photo_relief.png or photo_relief_100x75mm_z4.6mm.stl.
        """
        if self.holds == "relief":
            if self.name == "heightmap":
                covered = thing.map_size
                x, y, z = (f"{side:.4g}" for side in (covered.width, covered.depth, covered.span))
                return f"{stem}_heightmap_{x}x{y}mm_span{z}mm{self.ending}"
            if self.name == "picture":
                return f"{stem}{self.ending}"
            x, y, z = (f"{side:.4g}" for side in thing.size_mm)
            return f"{stem}_relief_{x}x{y}mm_z{z}mm{self.ending}"
        middle = "_mesh" if self.holds == "mesh" else "_depth_inverted" if invert else "_depth"
        return f"{stem}{middle}{self.ending}"

    def write(
        self, thing: Any, stem: str, *, recipe: "Recipe | None" = None, invert: bool = False
    ) -> tuple[str, bytes]:
        """Return name and bytes of a file.

        Args:
            thing: What it holds; see `writer`.
            stem: Of the file's name.
            recipe: Put into the file where it carries one.
            invert: Write depth with 1 near and 0 far; colors are inverted by who makes them.
        """
        name = self.file_name(thing, stem, invert=invert)
        options = {"recipe": recipe, "stem": name.removesuffix(self.ending), "invert": invert}
        return name, _named(self.writer)(thing, **{key: options[key] for key in self.takes})

    def read(self, data: bytes) -> Any:
        """Return what the bytes hold: a DepthFile, or triangles float32 [F, 3, 3].

        Raises:
            DepthFileError: The depth cannot be used.
            ValueError: They hold no such triangles, or this format is not read back.
        """
        if not self.reader:
            raise ValueError(f"{self.name} of a {self.holds} is not read back")
        return _named(self.reader)(io.BytesIO(data))


FORMATS = (
    Format(
        "npy", "depth", ".npy", "application/octet-stream", "export.depth_npy", ("invert",),
        "depth_file.decode_depth", "Depth, 32-bit .npy",
    ),
    Format(
        "png16", "depth", "_16bit.png", "image/png", "export.depth_png16", ("recipe", "invert"),
        "depth_file.decode_depth", "Depth, 16-bit PNG",
    ),
    Format(
        "colored", "picture", "_colored.png", "image/png", "export.png", ("recipe",),
        label="Colored depth, PNG",
    ),
    Format(
        "stl", "relief", ".stl", "model/stl", "export.stl", (), "mesh_files.read_stl", "Relief, STL"
    ),
    Format(
        "3mf", "relief", ".3mf", "model/3mf", "export.threemf", ("recipe", "stem"),
        "mesh_files.read_threemf", "Relief, 3MF",
    ),
    Format("obj", "relief", ".obj", "model/obj", "export.obj"),
    Format("ply", "relief", ".ply", "application/octet-stream", "export.ply"),
    Format(
        "picture", "relief", "_relief.png", "image/png", "export.relief_png", ("recipe",),
        label="Picture of the relief, PNG",
    ),
    Format("glb", "relief", ".glb", "model/gltf-binary", "export.preview_glb", ("recipe",)),
    Format(
        "heightmap", "relief", ".png", "image/png", "export.heightmap_png", ("recipe",),
        label="Height map, 16-bit PNG",
    ),
    Format("glb", "mesh", ".glb", "model/gltf-binary", "export.glb", ("recipe",), label="Mesh, GLB"),
    Format("obj", "mesh", ".zip", "application/zip", "export.obj_zip", ("stem",), label="Mesh, OBJ in a zip"),
    Format("ply", "mesh", ".ply", "application/octet-stream", "export.colored_ply"),
)  # fmt: skip


def formats_of(*holds: Holds) -> dict[str, Format]:
    """Return the formats of one or more kinds of object by name."""
    return {found.name: found for found in FORMATS if found.holds in holds}


def page_formats(*holds: Holds) -> dict[str, Format]:
    """Return the formats that the page offers by name."""
    return {name: found for name, found in formats_of(*holds).items() if found.label}


def page_files(
    holds: Holds, thing: Any, stem: str, *, recipe: "Recipe | None" = None
) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of all files of an object that the page offers."""
    for found in page_formats(holds).values():
        yield found.write(thing, stem, recipe=recipe)


def format_of(holds: Holds, name: str) -> Format:
    """Return the format of a file by its name.

    Raises:
        ValueError: There is none.
    """
    found = [known for known in FORMATS if known.holds == holds and name.lower().endswith(known.ending)]
    if not found:
        endings = ", ".join(sorted({known.ending for known in FORMATS if known.holds == holds}))
        raise ValueError(f"{name} is no name of a {holds} file; it must end in one of {endings}")
    return found[0]


def _named(path: str) -> Any:
    module, name = path.split(".")
    return getattr(importlib.import_module(f"marigold_demo.io.{module}"), name)
