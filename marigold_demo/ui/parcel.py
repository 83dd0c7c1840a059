"""All files of one result in one ZIP. Knows nothing of widgets."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from marigold_demo import workflow
from marigold_demo.geometry.print_report import build_report
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
    reliefs = list(workflow.relief_files(stem, solid, recipe=recipe))
    surface = store.workflow.surface(result.depth, result.photo, mesh)
    members = dict(
        [
            *workflow.depth_files(stem, result.depth, recipe=recipe),
            workflow.colored_file(stem, colored, recipe=recipe),
            *reliefs,
            workflow.surface_file(stem, surface, recipe=recipe),
            (f"{stem}_report.txt", build_report(solid, *reliefs[0]).to_text().encode()),
            (f"{stem}_recipe.json", recipe.to_json().encode()),
        ]
    )
    return write_file(store.folder(), f"{stem}_marigold.zip", to_zip(members))
