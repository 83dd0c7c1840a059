"""The functions of the public API: photo -> depth -> relief or textured mesh -> file."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from marigold_demo.catalog import EMBEDDED
from marigold_demo.depth import DepthMap, Progress, Run
from marigold_demo.geometry import relief as relief_geometry
from marigold_demo.geometry.textured_mesh import Surface
from marigold_demo.io import export
from marigold_demo.io.formats import Holds, format_of
from marigold_demo.io.photo import Photo, load_photo
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings
from marigold_demo.workflow import Workflow

PhotoLike = Path | str | Photo | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Model:
    """A checkpoint that is loaded.

    Attributes:
        checkpoint: Its name.
    """

    checkpoint: str

    def estimate(
        self,
        photo: PhotoLike,
        settings: DepthSettings | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> DepthMap:
        """Return the depth of a photo.

        Args:
            photo: A file, a Photo, a Pillow image, or uint8 [H, W, 3] in sRGB.
            settings: Steps, ensemble, resolution and others; None: the defaults. `checkpoint` is this one's.
            on_progress: Called before each call of a network; an exception from it ends the prediction.
            options: Fields of DepthSettings, which override `settings`.

        Returns:
            Values float32 [H, W] from 0 (near) to 1 (far), and the uncertainty where there were several
            predictions.

        Raises:
            DemoError: The photo or the settings cannot be used.
        """
        from marigold_demo.network.checkpoint import predict

        chosen = replace(settings or DepthSettings(), **options | {"checkpoint": self.checkpoint})
        return Workflow(predict, keep_bytes=0).estimate(_photo(photo), chosen, run=Run(on_progress))


class Relief(relief_geometry.Relief):
    """A watertight relief; `mesh` is a trimesh.Trimesh in millimeters, `notes` what should be known."""

    def save(self, path: Path | str) -> Path:
        """Write an .stl, .3mf, .obj, .ply, .glb, a height map as .png, or a picture as _relief.png."""
        return save(self, path)


class Mesh(Surface):
    """A textured surface; `mesh` is a trimesh.Trimesh, `notes` what should be known."""

    def save(self, path: Path | str) -> Path:
        """Write a .glb, a .ply with colors, or a .zip with OBJ and texture; see `save`."""
        return save(self, path)


def load(checkpoint: str = EMBEDDED) -> Model:
    """Load a checkpoint on the best device there is: CUDA, MPS, or the CPU.

    Args:
        checkpoint: "embedded", a folder in diffusers' layout, or a hub name, also with @revision.

    Raises:
        CheckpointError: It is missing, damaged, out of reach or of the wrong kind.
    """
    from marigold_demo.network.checkpoint import load_pipeline

    load_pipeline(checkpoint)
    return Model(checkpoint)


def estimate(photo: PhotoLike, *, checkpoint: str = EMBEDDED, **options: Any) -> DepthMap:
    """Return the depth of a photo: `load(checkpoint).estimate(photo, **options)`."""
    return load(checkpoint).estimate(photo, **options)


def make_relief(
    depth: DepthMap | NDArray[np.floating],
    settings: ReliefSettings | None = None,
    *,
    photo: PhotoLike | None = None,
    **options: Any,
) -> Relief:
    """Return the watertight relief of a depth map.

    Args:
        depth: A DepthMap, or [H, W] with 0 near and 1 far.
        settings: Sizes in millimeters, frame, mode and others; None: the defaults.
        photo: Its brightness becomes fine relief; needed for source="luminance" and cutout="alpha".
        options: Fields of ReliefSettings, which override `settings`.

    Raises:
        SettingsError: The settings contradict each other or the picture.
        DepthFileError: The depth holds no finite value.
    """
    chosen = replace(settings or ReliefSettings(), **options)
    built = Workflow.relief(_depth(depth), chosen, photo=None if photo is None else _photo(photo))
    return Relief(**_fields(built))


def make_mesh(
    depth: DepthMap | NDArray[np.floating],
    photo: PhotoLike,
    settings: MeshSettings | None = None,
    **options: Any,
) -> Mesh:
    """Return the textured surface of a depth map.

    Args:
        depth: A DepthMap, or [H, W] with 0 near and 1 far.
        photo: Its texture; of the same shape as the depth, in any size.
        settings: Camera, edges and mesh quality; None: the defaults.
        options: Fields of MeshSettings, which override `settings`.

    Raises:
        SettingsError: The settings cannot be used, or the photo has another shape than the depth.
        DepthFileError: The depth holds no finite value.
    """
    built = Workflow.surface(_depth(depth), _photo(photo), replace(settings or MeshSettings(), **options))
    return Mesh(**_fields(built))


def save(result: DepthMap | relief_geometry.Relief | Surface, path: Path | str) -> Path:
    """Write a result into a file, in the format that its ending names; the folder is made where missing.

    Args:
        result: Depth (.npy float32, .png 16 bits), a relief (.stl, .3mf, .obj, .ply, .glb, .png as height
            map) or a textured mesh (.glb, .ply, .zip with OBJ and texture).
        path: The file; one of that name is replaced.

    Raises:
        SettingsError: The relief is no sound solid.
        ValueError: The result is not written in such a format.
    """
    path = Path(path)
    if isinstance(result, DepthMap):
        holds: Holds = "depth"
        known = format_of(holds, "_16bit.png" if path.suffix.lower() == ".png" else path.name)
    else:
        holds = "relief" if isinstance(result, relief_geometry.Relief) else "mesh"
        known = format_of(holds, path.name)
        if isinstance(result, relief_geometry.Relief):
            result.assert_sound()
    _, data = known.write(result, path.stem)
    return export.save(path.parent, path.name, data)


def _photo(photo: PhotoLike) -> Photo:
    if isinstance(photo, Photo):
        return photo
    if isinstance(photo, Image.Image):
        upright = ImageOps.exif_transpose(photo)
        return Photo(rgb=np.asarray(upright.convert("RGB")))
    return Photo(rgb=photo) if isinstance(photo, np.ndarray) else load_photo(photo)


def _depth(depth: DepthMap | NDArray[np.floating]) -> DepthMap:
    return depth if isinstance(depth, DepthMap) else DepthMap(np.asarray(depth, dtype=np.float32))


def _fields(built: Any) -> dict[str, Any]:
    return {field.name: getattr(built, field.name) for field in fields(built)}
