"""A flat piece bent onto a cylinder. Knows nothing of depth or triangles.

The axis runs along y under (or, for a negative radius, over) the middle of the piece; distances along the
back stay what they were.
"""

import numpy as np
from numpy.typing import NDArray

from marigold_demo.errors import SettingsError

LARGEST_TURN = 350  # degrees; more would let the ends meet

Points = NDArray[np.float32]


def check_bend(radius: float, *, width: float, thickness: float) -> None:
    """Hold a bend against the piece.

    Raises:
        SettingsError: The piece goes round more than once, or does not fit inside the curve.
    """
    smallest = width / np.radians(LARGEST_TURN)
    if abs(radius) < smallest:
        raise SettingsError(
            f"bend_radius_mm is {radius:g}, too tight for {width:g} mm;"
            f" it must be at least {np.ceil(smallest):g} mm."
        )
    if radius < 0 and -radius < 1.2 * thickness:
        raise SettingsError(
            f"bend_radius_mm is {radius:g}, but the piece is {thickness:g} mm thick;"
            f" the hollow side needs {-np.ceil(1.2 * thickness):g} mm or more."
        )


def widest_step(radius: float, tolerance: float, *, thickness: float) -> float:
    """Return how wide along the back a flat triangle may be to stay within the tolerance of the curve."""
    outermost = abs(radius) + (thickness if radius > 0 else 0)
    return float(np.sqrt(8 * tolerance / outermost) * abs(radius))


def bend(points: Points, radius: float) -> Points:
    """Bend points float32 [V, 3] and move them back to the corner at the origin."""
    x, y, z = points.astype(np.float64).T
    size = abs(radius)
    angle = (x - (x.min() + x.max()) / 2) / size
    reach = size + np.sign(radius) * z  # distance from the axis
    bent = np.column_stack([reach * np.sin(angle), y, np.sign(radius) * reach * np.cos(angle)])
    moved: Points = (bent - bent.min(axis=0)).astype(np.float32)
    return moved
