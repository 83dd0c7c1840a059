"""Several methods in one table, ours beside those of the paper: AbsRel, delta1 and the mean rank.

As in the paper's table the best figure of a column is bold and the second underlined, and a method's rank is
the mean of its ranks in all columns. Rows say how they were aligned; those that differ in it cannot be
compared.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from marigold_demo.evaluation.evaluate import Mean
from marigold_demo.published import DATA_SETS, PUBLISHED, ranks_of

Marks = tuple[Callable[[str], str], Callable[[str], str]]  # of the best and of the second figure
_MARKDOWN: Marks = (lambda text: f"**{text}**", lambda text: f"<u>{text}</u>")
_TERMINAL: Marks = (lambda text: f"\x1b[1m{text}\x1b[0m", lambda text: f"\x1b[4m{text}\x1b[0m")
_PLAIN: Marks = (lambda text: f"{text}*", lambda text: f"{text}'")
OVERALL = "mean of sources"


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        method: Its name.
        alignment: "depth" or "disparity", in which the predictions were aligned; both where they were mixed.
        figures: AbsRel and delta1 in percent for each source of the table; None where there is none.
        is_published: Whether others measured it.
    """

    method: str
    alignment: str
    figures: tuple[tuple[float, float] | None, ...]
    is_published: bool = False


@dataclass(frozen=True)
class Comparison:
    """A table of methods.

    Attributes:
        sources: What its columns are measured on, the mean of all sources last.
        rows: Published ones first.
    """

    sources: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def columns(self) -> list[list[float | None]]:
        """Two columns for each source: AbsRel and delta1 in percent of each row."""
        pairs = [[row.figures[number] for row in self.rows] for number in range(len(self.sources))]
        return [
            [None if pair is None else pair[part] for pair in column] for column in pairs for part in (0, 1)
        ]

    def mean_ranks(self) -> list[float | None]:
        """Return the mean of each row's ranks in all columns but those of the mean; None without figures."""
        count = len(self.sources) - (self.sources[-1:] == (OVERALL,) and len(self.sources) > 1)
        placed = [ranks_of(column, higher=bool(n % 2)) for n, column in enumerate(self.columns[: 2 * count])]
        found = [[rank for ranks in placed if (rank := ranks[n]) is not None] for n in range(len(self.rows))]
        return [sum(ranks) / len(ranks) if ranks else None for ranks in found]

    def as_text(self, *, colors: bool = False) -> str:
        """Return the table for a terminal; without `colors` the best is marked by * and the second by '."""
        cells = self._cells(_TERMINAL if colors else _PLAIN)
        plain = self._cells((str, str)) if colors else cells
        widths = [max(len(line[n]) for line in plain) for n in range(len(plain[0]))]
        lines = []
        for shown, bare in zip(cells, plain, strict=True):
            padded = [
                text + " " * (width - len(word)) if n < 2 else " " * (width - len(word)) + text
                for n, (text, word, width) in enumerate(zip(shown, bare, widths, strict=True))
            ]
            lines.append("  ".join(padded).rstrip())
        legend = "bold: best, underlined: second" if colors else "*: best, ': second"
        return "\n".join([f"AbsRel % / delta1 % ({legend})", *lines])

    def as_markdown(self) -> str:
        """Return the table in Markdown."""
        head, *lines = self._cells(_MARKDOWN)
        rule = ["---"] * 2 + ["---:"] * (len(head) - 2)
        rows = [head, rule, *lines]
        return "".join(
            f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows
        )

    def as_csv(self) -> str:
        """Return the table as CSV without marks; a cell is empty where there is no figure."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        head, *lines = self._cells((str, str), missing="")
        writer.writerows([head, *lines])
        return text.getvalue()

    def as_json(self) -> bytes:
        """Return the table as JSON: sources, and rows with their figures in percent."""
        rows = [
            {
                "method": row.method,
                "alignment": row.alignment,
                "published": row.is_published,
                "figures": {
                    source: None if pair is None else {"abs_rel": pair[0], "delta1": pair[1]}
                    for source, pair in zip(self.sources, row.figures, strict=True)
                },
                "mean_rank": rank,
            }
            for row, rank in zip(self.rows, self.mean_ranks(), strict=True)
        ]
        return (json.dumps({"sources": self.sources, "methods": rows}, indent=2) + "\n").encode()

    def _cells(self, marks: Marks, *, missing: str = "-") -> list[list[str]]:
        """Return the lines of the table: method, alignment, figures, mean rank."""
        parts = ("AbsRel", "delta1")
        head = ["method", "alignment", *(f"{source} {part}" for source in self.sources for part in parts)]
        columns = [_marked(c, marks, higher=bool(n % 2), missing=missing) for n, c in enumerate(self.columns)]
        ranks = _marked(self.mean_ranks(), marks, higher=False, missing=missing)
        names = [f"{row.method} (published)" if row.is_published else row.method for row in self.rows]
        lines = [
            [name, row.alignment, *(column[n] for column in columns), ranks[n]]
            for n, (name, row) in enumerate(zip(names, self.rows, strict=True))
        ]
        return [[*head, "mean rank"], *lines]


def compare(ours: Iterable[tuple[str, str, Sequence[Mean]]]) -> Comparison:
    """Return the table of what was measured here, beside the paper's rows where its data sets are among it.

    Args:
        ours: Name, alignment and means of each method, as `evaluate.means` gives them.
    """
    ours = list(ours)
    every = [mean for *_, means in ours for mean in means]
    # Where only the order of depths is known there is nothing to show.
    sources = tuple(dict.fromkeys(mean.source for mean in every if mean.abs_rel is not None))
    rows = []
    if set(sources) & set(DATA_SETS):
        rows = [
            Row(one.method, one.alignment, tuple(map(one.of, sources)), is_published=True)
            for one in PUBLISHED
            if one.in_paper
        ]
    for method, alignment, means in ours:
        found = {mean.source: mean for mean in means}
        rows.append(Row(method, alignment, tuple(_percent(found.get(source)) for source in sources)))
    return Comparison(sources, tuple(rows))


def _percent(mean: Mean | None) -> tuple[float, float] | None:
    if mean is None or mean.abs_rel is None or mean.delta1 is None:
        return None
    return 100 * mean.abs_rel, 100 * mean.delta1


def _marked(column: Sequence[float | None], marks: Marks, *, higher: bool, missing: str) -> list[str]:
    known = sorted({round(figure, 1) for figure in column if figure is not None}, reverse=higher)
    cells = []
    for figure in column:
        if figure is None:
            cells.append(missing)
            continue
        place, text = known.index(round(figure, 1)), f"{figure:.1f}"
        cells.append(marks[place](text) if place < 2 and len(known) > 1 else text)
    return cells
