"""All files of one result in one ZIP. Knows nothing of widgets."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from marigold_demo.geometry.print_report import build_report
from marigold_demo.io.formats import formats_of, page_files
from marigold_demo.io.mesh_files import to_zip
from marigold_demo.settings import MeshSettings, ReliefSettings
from marigold_demo.ui.session_store import DepthResult, SessionStore, write_file


def everything(
    store: SessionStore,
    result: DepthResult,
    *,
    relief: ReliefSettings,
    mesh: MeshSettings,
    colored: NDArray[np.uint8],
) -> str:
    """Build relief and mesh and write all files into one ZIP; return its path.

    Raises:
        SettingsError: The settings contradict each other.
    """
    stem, recipe = result.photo.stem, replace(result.recipe(relief), mesh=mesh)
    solid = store.workflow.relief(result.depth, relief, photo=result.photo)
    reliefs = list(page_files("relief", solid, stem, recipe=recipe))
    surface = store.workflow.surface(result.depth, result.photo, mesh)
    members = dict(
        [
            *page_files("depth", result.depth, stem, recipe=recipe),
            *page_files("picture", colored, stem, recipe=recipe),
            *reliefs,
            formats_of("mesh")["glb"].write(surface, stem, recipe=recipe),
            (f"{stem}_report.txt", build_report(solid, *reliefs[0]).to_text().encode()),
            (f"{stem}_recipe.json", recipe.to_json().encode()),
        ]
    )
    return write_file(store.folder(), f"{stem}_marigold.zip", to_zip(members))
