"""Arrays into lines of text, many at a time. Knows nothing of formats or meshes."""

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

AT_ONCE = 50_000  # one %-format over so many rows is as quick as one over all, and needs little memory


def rows(template: str, table: NDArray[Any]) -> Iterator[str]:
    """Yield pieces of text in which the template is filled in once for each row of [N, K]."""
    for start in range(0, len(table), AT_ONCE):
        piece = table[start : start + AT_ONCE]
        yield (template * len(piece)) % tuple(piece.ravel().tolist())
