"""What others published: AbsRel and delta1 in percent, zero-shot, on the five data sets of Marigold's paper.

The rows of the paper's own table (Ke et al., CVPR 2024, table 1) are marked. The others are from the tables
of Garcia et al., "Fine-Tuning Image-Conditional Diffusion Models is Easier than You Think" and of He et al.,
"Lotus". Of Marigold v1-1, figures on NYUv2 alone were found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

DATA_SETS = {"NYUv2": 654, "KITTI": 652, "ETH3D": 454, "ScanNet": 800, "DIODE": 771}  # and their images


@dataclass(frozen=True)
class Published:
    """One row: AbsRel and delta1 in percent per data set, aligned in depth unless it says otherwise.

    Attributes:
        method: Its name.
        figures: In the order of DATA_SETS; None where nothing was published.
        in_paper: Whether it is a row of the table of Ke et al.
        alignment: In what the predictions were aligned; "not said" of networks that predict disparity in a
            table of others.
    """

    method: str
    figures: tuple[tuple[float, float] | None, ...]
    in_paper: bool = False
    alignment: str = "depth"

    def of(self, source: str) -> tuple[float, float] | None:
        """Return AbsRel and delta1 in percent for a data set, None for any other source."""
        return self.figures[list(DATA_SETS).index(source)] if source in DATA_SETS else None


PUBLISHED = (
    Published(
        "DiverseDepth", ((11.7, 87.5), (19.0, 70.4), (22.8, 69.4), (10.9, 88.2), (37.6, 63.1)), in_paper=True
    ),
    Published(
        "MiDaS",
        ((11.1, 88.5), (23.6, 63.0), (18.4, 75.2), (12.1, 84.6), (33.2, 71.5)),
        in_paper=True,
        alignment="not said",
    ),
    Published("LeReS", ((9.0, 91.6), (14.9, 78.4), (17.1, 77.7), (9.1, 91.7), (27.1, 76.6)), in_paper=True),
    Published(
        "Omnidata", ((7.4, 94.5), (14.9, 83.5), (16.6, 77.8), (7.5, 93.6), (33.9, 74.2)), in_paper=True
    ),
    Published("HDN", ((6.9, 94.8), (11.5, 86.7), (12.1, 83.3), (8.0, 93.9), (24.6, 78.0)), in_paper=True),
    Published(
        "DPT",
        ((9.8, 90.3), (10.0, 90.1), (7.8, 94.6), (8.2, 93.4), (18.2, 75.8)),
        in_paper=True,
        alignment="not said",
    ),
    Published(
        "Marigold v1-0, 50 x 1",
        ((6.0, 95.9), (10.5, 90.4), (7.1, 95.1), (6.9, 94.5), (31.0, 77.2)),
        in_paper=True,
    ),
    Published(
        "Marigold v1-0, 50 x 10",
        ((5.5, 96.4), (9.9, 91.6), (6.5, 96.0), (6.4, 95.1), (30.8, 77.3)),
        in_paper=True,
    ),
    Published("Marigold LCM, 1 x 1", ((6.5, 95.4), (10.7, 89.9), (7.5, 94.5), (7.6, 93.8), (31.5, 76.3))),
    Published("Marigold v1-1, 1 x 1", ((5.9, 96.1), None, None, None, None)),
    Published("Marigold v1-1, 4 x 10", ((5.5, 96.4), None, None, None, None)),
    Published("Marigold + E2E-FT", ((5.2, 96.6), (9.6, 91.9), (6.2, 95.9), (5.8, 96.2), (30.2, 77.9))),
    Published(
        "Lotus-D", ((5.1, 97.2), (8.1, 93.1), (6.1, 97.0), (5.5, 96.5), (22.8, 73.8)), alignment="disparity"
    ),
    Published(
        "Depth Anything V2",
        ((4.5, 97.9), (7.4, 94.6), (13.1, 86.5), (4.2, 97.8), (26.5, 73.4)),
        alignment="disparity",
    ),
)
PAPER = tuple(row for row in PUBLISHED if row.in_paper)
_SIGNS = {"depth": "", "disparity": "†"}  # of the alignment; ‡ where nobody says it
OTHERS = tuple(row for row in PUBLISHED if not row.in_paper)


def ranks_of(column: Sequence[float | None], *, higher: bool) -> list[float | None]:
    """Return the rank of each figure from 1, as it is shown; equal ones share the smallest."""
    known = sorted((round(figure, 1) for figure in column if figure is not None), reverse=higher)
    return [None if figure is None else known.index(round(figure, 1)) + 1.0 for figure in column]


def table(best: Callable[[str], str], second: Callable[[str], str]) -> list[list[str]]:
    """Return the cells of all rows: method, "AbsRel / delta1" per data set, and mean rank.

    The rows of the paper come first; those of other tables have no rank, and no figure of theirs is marked.

    Args:
        best: Marks the best figure of a column.
        second: Marks the one after it.
    """
    known = [[pair for row in PAPER if (pair := row.figures[n])] for n in range(len(DATA_SETS))]  # all
    columns = [[pair[part] for pair in pairs] for pairs in known for part in (0, 1)]
    placed = [ranks_of(column, higher=bool(n % 2)) for n, column in enumerate(columns)]
    means = [sum(column[row] or 0 for column in placed) / len(placed) for row in range(len(PAPER))]
    order = ranks_of(means, higher=False)

    def marked(figure: float, rank: float | None) -> str:
        return {1.0: best, 2.0: second}.get(rank or 0.0, str)(f"{figure:.1f}")

    rows = []
    for n, row in enumerate(PAPER):
        cells = [marked(column[n], rank[n]) for column, rank in zip(columns, placed, strict=True)]
        pairs = [" / ".join(cells[at : at + 2]) for at in range(0, len(cells), 2)]
        rows.append([_name(row), *pairs, marked(means[n], order[n])])
    for row in OTHERS:
        pairs = ["–" if pair is None else "{:.1f} / {:.1f}".format(*pair) for pair in row.figures]
        rows.append([_name(row), *pairs, "–"])
    return rows


def _name(row: Published) -> str:
    """Return a method with a sign where it was not aligned in depth, or nobody says so."""
    return (
        f"{row.method} {'†' if row.alignment == 'disparity' else '‡'}"
        if row.alignment != "depth"
        else row.method
    )


def as_markdown() -> str:
    """Return the table of all published rows in Markdown."""
    head = ["method", *DATA_SETS, "mean rank"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    lines += table(lambda text: f"**{text}**", lambda text: f"<u>{text}</u>")
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
