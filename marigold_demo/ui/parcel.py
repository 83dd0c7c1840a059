"""All files of one piece in one ZIP. Knows nothing of widgets."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from marigold_demo import workflow
from marigold_demo.geometry.print_report import build_report
from marigold_demo.io.archive import to_zip
from marigold_demo.settings import MeshSettings, ReliefSettings
from marigold_demo.ui.desk import Desk, Piece, lay


def everything(
    desk: Desk, piece: Piece, *, relief: ReliefSettings, mesh: MeshSettings, colored: NDArray[np.uint8]
) -> str:
    """Build relief and mesh and write all files into one ZIP; return its path.

    Raises:
        SettingsError: The settings contradict each other.
    """
    stem, recipe = piece.photo.stem, replace(piece.recipe(relief), mesh=mesh)
    solid = desk.workflow.relief(piece.depth, relief, photo=piece.photo)
    reliefs = list(workflow.relief_files(stem, solid, recipe=recipe))
    surface = desk.workflow.surface(piece.depth, piece.photo, mesh)
    members = dict(
        [
            *workflow.depth_files(stem, piece.depth, recipe=recipe),
            workflow.colored_file(stem, colored, recipe=recipe),
            *reliefs,
            workflow.surface_file(stem, surface, recipe=recipe),
            (f"{stem}_report.txt", build_report(solid, *reliefs[0]).to_text().encode()),
            (f"{stem}_recipe.json", recipe.to_json().encode()),
        ]
    )
    return lay(desk.folder(), f"{stem}_marigold.zip", to_zip(members))
