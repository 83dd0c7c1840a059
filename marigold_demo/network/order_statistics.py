"""The lower median of a few long rows, by a sorting network. Knows nothing of depth.

NumPy sorts or partitions [E, N] column by column; a network of compare-and-exchange steps does it row by row,
in whole vectors, an order of magnitude faster for the few rows of an ensemble.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Comparators = tuple[tuple[int, int, bool, bool], ...]  # low row, high row, is the low needed, is the high


def lower_median(rows: NDArray[Any]) -> NDArray[Any]:
    """Return the lower median over rows [E, N] as [N], as torch.median does; `rows` is used as scratch space.

    For an even number of rows it is the lower of the two in the middle, so it is always one of the values.
    """
    table = list(rows)
    spare = np.empty_like(table[0])  # [N]
    for low, high, needs_low, needs_high in median_network(len(table)):
        if needs_low and needs_high:
            np.minimum(table[low], table[high], out=spare)
            np.maximum(table[low], table[high], out=table[high])
            table[low], spare = spare, table[low]
        elif needs_low:
            np.minimum(table[low], table[high], out=table[low])
        else:
            np.maximum(table[low], table[high], out=table[high])
    median: NDArray[Any] = table[(len(table) - 1) // 2]
    return median


@lru_cache
def median_network(count: int) -> Comparators:
    """Return Batcher's odd-even merge sort of `count` rows without what the lower median does not need."""
    steps: list[tuple[int, int, bool, bool]] = []
    needed = {(count - 1) // 2}
    for low, high in reversed(_sorting_network(count)):
        if low in needed or high in needed:
            steps.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return tuple(reversed(steps))


def _sorting_network(count: int) -> list[tuple[int, int]]:
    """Return Batcher's odd-even merge sort (Knuth, The Art of Computer Programming 3, algorithm 5.2.2 M)."""
    steps: list[tuple[int, int]] = []
    top = 1 << max(0, (count - 1).bit_length() - 1)
    p = top
    while p > 0:
        q, r, distance = top, 0, p
        while distance > 0:
            steps += [(i, i + distance) for i in range(count - distance) if i & p == r]
            distance, q, r = q - p, q >> 1, p
        p >>= 1
    return steps
