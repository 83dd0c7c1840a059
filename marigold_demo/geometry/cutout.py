"""The subject cut out of its picture: which grid cells stay, and their border. Knows nothing of millimetres.

Cells are kept or cut whole. Two kept cells that touch at a corner alone would make an edge of four faces, so
the gap between them is filled.
"""

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Indices = NDArray[np.int32]


def tidy(wanted: Mask, *, finest: int) -> Mask:
    """Return the cells that stay: one piece without threads, specks or corners that only just touch.

    Args:
        wanted: bool [R-1, C-1], cells of the subject.
        finest: Parts and holes narrower than so many cells go; 1 keeps all.

    Returns:
        bool [R-1, C-1], all False where nothing is left.
    """
    kept = wanted
    for cells, operation in (
        (finest // 2, scipy.ndimage.binary_opening),
        (finest // 2, scipy.ndimage.binary_closing),
    ):
        if cells:
            padded = np.pad(kept, cells, mode="edge")  # or the border of the picture would be eaten
            kept = operation(padded, iterations=cells)[cells:-cells, cells:-cells]
    return _largest(_without_pinches(_largest(kept)))


def _largest(cells: Mask) -> Mask:
    """Keep the largest piece of cells that share sides."""
    pieces, count = scipy.ndimage.label(cells)
    if count < 2:
        return cells
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest: Mask = pieces == sizes.argmax()
    return largest


def _without_pinches(cells: Mask) -> Mask:
    """Fill one cell wherever two cells touch at a corner alone, until none do."""
    cells = cells.copy()
    while True:
        a, b, c, d = cells[:-1, :-1], cells[:-1, 1:], cells[1:, :-1], cells[1:, 1:]
        falling, rising = a & d & ~b & ~c, b & c & ~a & ~d
        if not (falling.any() or rising.any()):
            return cells
        b |= falling
        a |= rising


def around_border(kept: Mask) -> Mask:
    """Mark the samples bool [R, C] of all cells at the border of what is kept, on both sides of it."""
    padded = np.pad(kept, 1)  # outside the picture nothing is kept
    differs = scipy.ndimage.maximum_filter(padded, size=3) & ~scipy.ndimage.minimum_filter(padded, size=3)
    cells = differs[1:-1, 1:-1]
    return corners_of(cells)


def corners_of(cells: Mask) -> Mask:
    """Mark the samples bool [R, C] at the corners of cells [R-1, C-1]."""
    samples = np.zeros((cells.shape[0] + 1, cells.shape[1] + 1), dtype=bool)
    for corner in (samples[:-1, :-1], samples[1:, :-1], samples[:-1, 1:], samples[1:, 1:]):
        corner |= cells
    return samples


def faces_within(faces: Indices, kept: Mask) -> Indices:
    """Return the faces in kept cells; every face across the border must be half a cell.

    Args:
        faces: int32 [F, 3], row-major indices of samples.
        kept: bool [R-1, C-1].
    """
    row, column = np.divmod(np.ascontiguousarray(faces.T), np.int32(kept.shape[1] + 1))  # [3, F]
    inside: Indices = faces[kept[np.minimum.reduce(row), np.minimum.reduce(column)]]
    return inside


def border_edges(kept: Mask) -> tuple[Indices, Indices]:
    """Return start and end samples int32 [N] of the border, what is kept on the left as seen from above."""
    rows, columns = kept.shape[0] + 1, kept.shape[1] + 1
    sample = np.arange(rows * columns, dtype=np.int32).reshape(rows, columns)
    across, down = np.pad(kept, ((1, 1), (0, 0))), np.pad(kept, ((0, 0), (1, 1)))
    above, below = across[:-1], across[1:]  # cells above and below each horizontal edge: [R, C-1]
    left, right = down[:, :-1], down[:, 1:]  # cells left and right of each vertical edge: [R-1, C]
    starts_and_ends = [
        (sample[:, 1:][below & ~above], sample[:, :-1][below & ~above]),
        (sample[:, :-1][above & ~below], sample[:, 1:][above & ~below]),
        (sample[:-1][right & ~left], sample[1:][right & ~left]),
        (sample[1:][left & ~right], sample[:-1][left & ~right]),
    ]
    return (
        np.concatenate([start for start, _ in starts_and_ends]),
        np.concatenate([end for _, end in starts_and_ends]),
    )
