"""Scores as text, CSV and JSON, beside figures that others published with the same protocol.

The CSV has a row per image and is added to as images are scored, so an interrupted run can go on. Each row
names the predictor and settings it belongs to; rows of others are passed over. Published figures are
AbsRel and delta1 in percent, zero-shot, scale and shift by least squares. From the tables of Garcia et al.,
"Fine-Tuning Image-Conditional Diffusion Models is Easier than You Think" and of He et al., "Lotus", which
repeat those of Ke et al., CVPR 2024. Of Marigold v1-1, figures on NYUv2 alone were found.
"""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from marigold_demo.errors import DataError
from marigold_demo.evaluation.evaluate import Mean, Score

DATA_SETS = {"NYUv2": 654, "KITTI": 652, "ETH3D": 454, "ScanNet": 800, "DIODE": 771}  # and their images


@dataclass(frozen=True)
class Published:
    """One row: AbsRel and delta1 in percent per data set; None where nothing was published."""

    method: str
    figures: tuple[tuple[float, float] | None, ...]  # in the order of DATA_SETS

    def of(self, source: str) -> tuple[float, float] | None:
        """Return AbsRel and delta1 in percent for a data set, None for any other source."""
        return self.figures[list(DATA_SETS).index(source)] if source in DATA_SETS else None


PUBLISHED = (
    Published("MiDaS", ((11.1, 88.5), (23.6, 63.0), (18.4, 75.2), (12.1, 84.6), (33.2, 71.5))),
    Published("LeReS", ((9.0, 91.6), (14.9, 78.4), (17.1, 77.7), (9.1, 91.7), (27.1, 76.6))),
    Published("DPT", ((9.8, 90.3), (10.0, 90.1), (7.8, 94.6), (8.2, 93.4), (18.2, 75.8))),
    Published("Marigold v1-0, 50 x 1", ((6.0, 95.9), (10.5, 90.4), (7.1, 95.1), (6.9, 94.5), (31.0, 77.2))),
    Published("Marigold v1-0, 50 x 10", ((5.5, 96.4), (9.9, 91.6), (6.5, 96.0), (6.4, 95.1), (30.8, 77.3))),
    Published("Marigold LCM, 1 x 1", ((6.5, 95.4), (10.7, 89.9), (7.5, 94.5), (7.6, 93.8), (31.5, 76.3))),
    Published("Marigold v1-1, 1 x 1", ((5.9, 96.1), None, None, None, None)),
    Published("Marigold v1-1, 4 x 10", ((5.5, 96.4), None, None, None, None)),
    Published("Marigold + E2E-FT", ((5.2, 96.6), (9.6, 91.9), (6.2, 95.9), (5.8, 96.2), (30.2, 77.9))),
    Published("Lotus-D", ((5.1, 97.2), (8.1, 93.1), (6.1, 97.0), (5.5, 96.5), (22.8, 73.8))),
    Published("Depth Anything V2", ((4.5, 97.9), (7.4, 94.6), (13.1, 86.5), (4.2, 97.8), (26.5, 73.4))),
)


COLUMNS = ("predictor", "source", "name", "abs_rel", "delta1", "spearman")


def as_text(means: Iterable[Mean], *, predictor: str) -> str:
    """Return one table: our sources, then what others published on those that are published."""
    means = tuple(means)
    lines = [["source", "images", "AbsRel", "delta1 %", "Spearman"]]
    for mean in means:
        figures = _decimal(mean.abs_rel), _percent(mean.delta1), _decimal(mean.spearman)
        lines.append([mean.source, str(mean.images), *figures])
    text = f"{predictor}\n{_aligned(lines)}"
    known = [mean for mean in means if mean.source in DATA_SETS]
    if known:
        text += f"\n\nAbsRel % / delta1 %, beside what was published\n{_aligned(_beside(known, predictor))}"
    parts = [m for m in known if m.images < DATA_SETS[m.source]]
    return text + "".join(f"\n{m.source}: ours on {m.images} of {DATA_SETS[m.source]} images." for m in parts)


def as_json(means: Iterable[Mean], *, predictor: str) -> bytes:
    """Return the means as JSON, AbsRel and delta1 as shares."""
    rows = [
        {
            "source": mean.source,
            "images": mean.images,
            "measured": mean.measured,
            "abs_rel": mean.abs_rel,
            "delta1": mean.delta1,
            "spearman": mean.spearman,
        }
        for mean in means
    ]
    return (json.dumps({"predictor": predictor, "means": rows}, indent=2) + "\n").encode()


class ResultsCsv:
    """The CSV of one run: a row per image, written as soon as it is scored.

    Attributes:
        known: By name, what an earlier run of the same predictor scored; empty unless it is resumed.
    """

    def __init__(self, path: Path | None, *, predictor: str, resume: bool) -> None:
        """Start a table, or go on with one; without a path nothing is written.

        Raises:
            DataError: The file cannot be written, or is no table of this kind.
        """
        self._path, self._predictor = path, predictor
        self.known: dict[str, Score] = {}
        if path is None:
            return
        rows = _read(path) if resume and path.is_file() else [COLUMNS]
        self.known = {row[2]: _score(path, row) for row in rows[1:] if row[0] == predictor}
        self._write("".join(map(_csv_line, rows)), mode="w")  # without a last line that was cut off

    def add(self, score: Score) -> None:
        """Write the row of one image; numbers come back exactly.

        Raises:
            DataError: The file cannot be written.
        """
        numbers = ("" if x is None else repr(x) for x in (score.abs_rel, score.delta1, score.spearman))
        self._write(_csv_line((self._predictor, score.source, score.name, *numbers)), mode="a")

    def _write(self, text: str, *, mode: str) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open(mode, encoding="utf-8", newline="") as file:
                file.write(text)
        except OSError as error:
            problem = f"{self._path} cannot be written ({error.strerror})"
            raise DataError(f"{problem}; make room or name another output.") from error


def _read(path: Path) -> list[tuple[str, ...]]:
    """Return the whole rows of a table."""
    wrong = f"{path} is not a table of scores; name another output, or leave --resume out to write it anew."
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(wrong) from error
    whole = text[: text.rfind("\n") + 1]
    rows = [tuple(row) for row in csv.reader(io.StringIO(whole, newline=""))]
    if not rows or rows[0] != COLUMNS or any(len(row) != len(COLUMNS) for row in rows):
        raise DataError(wrong)
    return rows


def _score(path: Path, row: tuple[str, ...]) -> Score:
    _, source, name, *numbers = row
    try:
        abs_rel, delta1 = (float(text) if text else None for text in numbers[:2])
        return Score(name, source, abs_rel, delta1, float(numbers[2]))
    except ValueError as error:
        raise DataError(
            f"{path} holds {row} in place of a score; leave --resume out to write it anew."
        ) from error


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _beside(sources: list[Mean], predictor: str) -> list[list[str]]:
    ours = [f"{_percent(mean.abs_rel)} / {_percent(mean.delta1)}" for mean in sources]
    lines = [["method", *(mean.source for mean in sources)], [predictor, *ours]]
    for row in PUBLISHED:
        figures = (row.of(mean.source) for mean in sources)
        lines.append([row.method, *(f"{pair[0]:.1f} / {pair[1]:.1f}" if pair else "-" for pair in figures)])
    return lines


def _aligned(lines: list[list[str]]) -> str:
    """Set columns side by side: the first to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    first, *others = widths
    rows = ([line[0].ljust(first), *map(str.rjust, line[1:], others)] for line in lines)
    return "\n".join("  ".join(row) for row in rows)


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
