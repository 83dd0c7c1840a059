"""A textured surface as the photo saw it, for a viewer whose camera looks at the middle of its box.

From there nothing that stands before something else uncovers a hole. The viewer's angle is fixed, so the
camera goes nearer or farther and the surface is widened along the photo's rays; planes stay planes, and in
the middle of the depth shapes keep their proportions.
"""

import numpy as np
from numpy.typing import NDArray

from marigold_demo.geometry.textured_mesh import Surface

VIEWER_HALF = float(np.tan(0.4))  # half the height of what Babylon's viewer shows, per unit of distance
MARGIN = 0.98  # of the canvas that the photo fills
NEAREST = 0.3  # of the camera's distance from the nearest point may be left

Points = NDArray[np.float32]


def from_the_eye(surface: Surface, *, aspect: float) -> Points:
    """Return the vertices for such a viewer, with its camera one unit from the middle of their box.

    Args:
        surface: The surface.
        aspect: Width over height of the viewer.

    Returns:
        float32 [V + 2, 3]; the last two belong to no face and make the box symmetrical about the axis.
    """
    camera = surface.camera
    points = surface.vertices.astype(np.float64) / camera.near
    distance, ratio = -points[:, 2], camera.far / camera.near
    is_flat = camera.projection == "orthographic"
    rays = points[:, :2] / (1 if is_flat else distance[:, None])  # [V, 2]
    half = np.array([camera.half_width, camera.half_height])
    wider = MARGIN * VIEWER_HALF * float(np.min(np.array([aspect, 1]) / half))
    middle = float(np.sqrt(ratio))
    back = max((1 if is_flat else middle) / wider - middle, NEAREST - 1)
    near, far = 1 + back, ratio + back
    reach = np.append(wider * far * half, 0)
    corners = np.array([[0, 0, -near], [0, 0, -far]]) + np.array([[-1], [1]]) * reach
    moved = np.column_stack([wider * rays * (distance + back)[:, None], -(distance + back)])
    placed: Points = (np.concatenate([moved, corners]) / ((near + far) / 2)).astype(np.float32)
    return placed
