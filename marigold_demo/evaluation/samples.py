"""A photo with true depth, and how a data set wants it judged. Knows no file layout and no predictor."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from marigold_demo.errors import DataError
from marigold_demo.io.photo import Photo


@dataclass(frozen=True)
class Protocol:
    """How one data set is judged.

    Attributes:
        title: Its name in tables.
        min_depth: Aligned depth is clipped to this, in the units of the data set.
        max_depth: And to this.
        resolution: Processing resolution in pixels, 0 the photo's own; None leaves it to the checkpoint.
        align_px: Scale and shift are fitted on so many pixels along the long side, evenly taken; None: all.
    """

    title: str
    min_depth: float = 1e-6
    max_depth: float = np.inf
    resolution: int | None = None
    align_px: int | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """One photo and what is known of its depth."""

    photo: Photo
    depth: NDArray[np.float32]  # [H, W], larger is farther, > 0 where valid
    valid: NDArray[np.bool_]  # [H, W]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a data set, read only when it is needed.

    Attributes:
        name: Unique within all that is evaluated together.
        source: The data set, or the source within a mixed one; figures are means per source.
        protocol: How it is judged.
        ordinal: Only the order of depths is known: rank correlation alone is measured.
        read: Reads it; raises DataError.
    """

    name: str
    source: str
    protocol: Protocol
    read: Callable[[], Pair] = field(repr=False)
    ordinal: bool = False


def read_rgb(content: bytes, *, name: str) -> NDArray[np.uint8]:
    """Decode a data set's photo as it is stored, [H, W, 3].

    Raises:
        DataError: It is damaged or not a picture; names it.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{name} is not a picture that can be read; the data set is damaged.") from error


def checked_pair(photo: Photo, depth: NDArray[np.floating], valid: NDArray[np.bool_], *, name: str) -> Pair:
    """Hold photo, depth and mask against each other.

    Raises:
        DataError: Shapes differ, no pixel is valid, or a valid depth is not positive; names the file.
    """
    height, width = photo.rgb.shape[:2]
    for array, what in ((depth, "depth"), (valid, "mask")):
        if array.shape != (height, width):
            raise DataError(
                f"{name}: the {what} has shape {array.shape}, its photo {(height, width)}; both must agree."
            )
    if not valid.any():
        raise DataError(f"{name} has no pixel with valid depth; leave it out.")
    known = depth[valid]
    if not (np.isfinite(known).all() and known.min() > 0):
        raise DataError(f"{name}: valid depths must be finite and more than 0; mark others as not valid.")
    return Pair(photo, depth.astype(np.float32), valid)
