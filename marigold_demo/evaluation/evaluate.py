"""Images and a predictor -> one score per image, their means, and tables: ours, and several methods in one.

The protocol of Marigold (Ke et al., CVPR 2024, section 4.1; script/depth/eval.py of its repository): scale
and shift by least squares on the valid pixels of each image, clip to the data set's range, AbsRel, delta1. A
network that predicts disparity is fitted to inverse depth instead ("least_square_disparity" there).

The CSV has a row per image and is added to as images are scored, so an interrupted run can go on. Each row
names the predictor and settings it belongs to; rows of others are passed over.

A comparison is as the paper's table: the best figure of a column is bold and the second underlined, and a
method's rank is the mean of its ranks in all columns. Rows say how they were aligned; those that differ in it
cannot be compared.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from marigold_demo.catalog import DATA_SETS, PUBLISHED, ranks_of
from marigold_demo.depth import DepthMap, Run, invert
from marigold_demo.errors import DataError
from marigold_demo.evaluation.datasets import (
    BENCHMARKS,
    MANIFEST,
    Pair,
    Sample,
    benchmark_samples,
    folder_samples,
)
from marigold_demo.io.photo import Photo
from marigold_demo.settings import DepthSettings

DELTA1 = 1.25
Predict = Callable[[Photo, DepthSettings, Run], DepthMap]
Alignment = Literal["depth", "disparity"]
_LEAST_DEPTH, _LEAST_DISPARITY = 1e-6, 1e-3
_MOST_RANKED = 1_000_000
COLUMNS = ("predictor", "source", "name", "abs_rel", "delta1", "spearman", "alignment")


@dataclass(frozen=True)
class Affine:
    """The two free numbers: aligned = scale * depth + shift."""

    scale: float
    shift: float

    def __call__(self, depth: NDArray[Any]) -> NDArray[Any]:
        """Return `scale * depth + shift` in the array's own number format."""
        dtype = depth.dtype if np.issubdtype(depth.dtype, np.floating) else np.dtype(np.float64)
        return depth * dtype.type(self.scale) + dtype.type(self.shift)


def fit_affine(
    prediction: NDArray[Any], target: NDArray[Any], *, mask: NDArray[np.bool_] | None = None
) -> Affine:
    """Fit prediction to target by least squares, in float64.

    The closed form of eq. (9) of Ranftl et al., "Towards Robust Monocular Depth Estimation", TPAMI 2022, and
    the alignment of Marigold's evaluation (Ke et al., CVPR 2024, section 4.2).

    Args:
        prediction: Values of any shape.
        target: Values of the same shape.
        mask: Which of them count; None counts all.

    Returns:
        The affine map; scale 0 and the mean of the target where the prediction is constant.

    Raises:
        ValueError: Shapes differ, nothing is left to fit, or a counted value is not finite.
    """
    if prediction.shape != target.shape or (mask is not None and mask.shape != target.shape):
        raise ValueError(f"prediction {prediction.shape}, target {target.shape} and mask must have one shape")
    x = np.array(prediction if mask is None else prediction[mask], dtype=np.float64).ravel()
    y = np.array(target if mask is None else target[mask], dtype=np.float64).ravel()
    if not x.size:
        raise ValueError("no value is left to fit")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a value that counts is not finite")
    if x.min() == x.max():
        return Affine(scale=0.0, shift=float(y.mean()))
    x_mean, y_mean = x.mean(), y.mean()
    x -= x_mean
    scale = float(x @ (y - y_mean) / (x @ x))
    return Affine(scale=scale, shift=float(y_mean - scale * x_mean))


def abs_rel(aligned: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Return the mean of |aligned - truth| / truth over values [P] of any shape; truth > 0."""
    return float(np.mean(np.abs(aligned - truth) / truth))


def delta1(aligned: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Return the share of values [P] with max(aligned / truth, truth / aligned) < 1.25; both > 0."""
    return float(np.mean(np.maximum(aligned / truth, truth / aligned) < DELTA1))


def spearman(prediction: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    """Return the rank correlation of values [P], ties sharing their mean rank; 0 where either is constant."""
    ranks = [stats.rankdata(values, axis=None) for values in (prediction, truth)]
    x, y = (rank - rank.mean() for rank in ranks)
    spread = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / spread if spread > 0 else 0.0


def rows_only(photo: Photo, settings: DepthSettings, run: Run) -> DepthMap:
    """Predict "farther towards the top": 1 in the top row, 0 in the bottom one, straight between."""
    height, width = photo.rgb.shape[:2]
    rows = np.linspace(1, 0, height, dtype=np.float32)  # [H]
    return DepthMap(np.repeat(rows[:, None], width, axis=1))


def constant(photo: Photo, settings: DepthSettings, run: Run) -> DepthMap:
    """Predict the same depth everywhere; after alignment that is the mean of the ground truth."""
    return DepthMap(np.full(photo.rgb.shape[:2], 0.5, dtype=np.float32))


BASELINES = {"rows-only": rows_only, "constant": constant}


@dataclass(frozen=True)
class Score:
    """What one image got; AbsRel and delta1 are None where only the order of depths is known.

    Scores of different alignments cannot be compared.
    """

    name: str
    source: str
    abs_rel: float | None
    delta1: float | None
    spearman: float
    alignment: Alignment = "depth"


@dataclass(frozen=True)
class Mean:
    """Means over the images of one source, or over sources.

    Attributes:
        source: The source, or what the sources have in common.
        images: How many images `spearman` is a mean of.
        measured: How many of them have metric depth: AbsRel and delta1 are means over these.
    """

    source: str
    images: int
    measured: int
    abs_rel: float | None
    delta1: float | None
    spearman: float


def find_samples(root: Path | str) -> tuple[Sample, ...]:
    """Return the samples under a folder: its manifest's, else those of the paper's five data sets.

    Raises:
        DataError: There is neither, or what is there is not as expected.
    """
    root = Path(root)
    if (root / MANIFEST).is_file():
        return folder_samples(root)
    samples = benchmark_samples(root) if root.is_dir() else ()
    if not samples:
        names = ", ".join(benchmark.name for benchmark in BENCHMARKS)
        raise DataError(
            f"{root} holds nothing to evaluate on; it needs a {MANIFEST} with the columns name, rgb, depth "
            f"and source, or one of the folders {names} as Marigold's authors publish them."
        )
    return samples


def score_all(predict: Predict, samples: Iterable[Sample], settings: DepthSettings) -> Iterator[Score]:
    """Predict and score one image after the other; each data set's own processing resolution is the default.

    Raises:
        DataError: An image or its depth cannot be read; names the file.
    """
    for sample in samples:
        pair = sample.read()
        prediction = predict(pair.photo, _settings_for(sample, settings), Run())
        alignment: Alignment = "disparity" if prediction.prediction == "affine_disparity" else "depth"
        yield score(prediction.values, pair, sample=sample, alignment=alignment)


def score(
    prediction: NDArray[np.float32], pair: Pair, *, sample: Sample, alignment: Alignment = "depth"
) -> Score:
    """Align one prediction [H, W] and measure it; ordinal depth gets rank correlation only.

    Args:
        prediction: Depth in [0, 1], as `depth.invert` makes it of disparity.
        pair: Photo and true depth.
        sample: Says how it is measured.
        alignment: Whether depth is fitted to depth, or disparity to inverse depth.
    """
    truth = pair.depth[pair.valid].astype(np.float64)  # [P]
    values = prediction[pair.valid].astype(np.float64)  # [P]
    step = -(-truth.size // _MOST_RANKED)  # sorting tens of millions would take longer than the network
    ranks = spearman(values[::step], truth[::step])
    if sample.ordinal:
        return Score(sample.name, sample.source, None, None, ranks, alignment)
    chosen = _grid(pair.valid.shape, long_side=sample.protocol.align_px)
    seen, mask, target = prediction[chosen], pair.valid[chosen], pair.depth[chosen]
    if alignment == "depth":
        aligned = fit_affine(seen, target, mask=mask)(values)
    else:
        disparity, positive = invert(seen), mask & (seen < 1)  # 1 is no disparity
        inverse = np.divide(1, target, out=np.zeros(target.shape), where=mask)
        affine = fit_affine(disparity, inverse, mask=positive if positive.any() else mask)
        aligned = 1 / np.maximum(affine(invert(prediction)[pair.valid].astype(np.float64)), _LEAST_DISPARITY)
    aligned = np.clip(aligned, sample.protocol.min_depth, sample.protocol.max_depth)
    aligned = np.maximum(aligned, _LEAST_DEPTH)
    errors = abs_rel(aligned, truth), delta1(aligned, truth)
    return Score(sample.name, sample.source, *errors, ranks, alignment)


def means(scores: Iterable[Score]) -> tuple[Mean, ...]:
    """Return the mean over images per source, in order of appearance, and last the mean of the sources."""
    groups: dict[str, list[Score]] = {}
    for one in scores:
        groups.setdefault(one.source, []).append(one)
    sources = tuple(_mean(source, group) for source, group in groups.items())
    if not sources:
        return ()
    images, measured = sum(m.images for m in sources), sum(m.measured for m in sources)
    return (
        *sources,
        Mean(
            source="mean of sources",
            images=images,
            measured=measured,
            abs_rel=_average([m.abs_rel for m in sources]),
            delta1=_average([m.delta1 for m in sources]),
            spearman=float(np.mean([m.spearman for m in sources])),
        ),
    )


def _mean(source: str, group: list[Score]) -> Mean:
    return Mean(
        source=source,
        images=len(group),
        measured=sum(one.abs_rel is not None for one in group),
        abs_rel=_average([one.abs_rel for one in group]),
        delta1=_average([one.delta1 for one in group]),
        spearman=float(np.mean([one.spearman for one in group])),
    )


def _average(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _settings_for(sample: Sample, settings: DepthSettings) -> DepthSettings:
    if settings.resolution is not None or sample.protocol.resolution is None:
        return settings
    return replace(settings, resolution=sample.protocol.resolution)


def _grid(shape: tuple[int, ...], *, long_side: int | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and columns of a nearest-neighbor reduction to a long side; all where it is short."""
    share = min(1.0, long_side / max(shape)) if long_side else 1.0
    counts = (int(side * share + 1e-9) for side in shape)
    rows, columns = (np.floor(np.arange(count) / share).astype(np.intp) for count in counts)
    return np.ix_(rows, columns)  # type: ignore[return-value]


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
    rows = [asdict(mean) for mean in means]
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
        cells = (self._predictor, score.source, score.name, *numbers, score.alignment)
        self._write(_csv_line(cells), mode="a")

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
    _, source, name, *numbers, alignment = row
    try:
        abs_rel, delta1 = (float(text) if text else None for text in numbers[:2])
        if alignment not in get_args(Alignment):
            raise ValueError(alignment)
        return Score(name, source, abs_rel, delta1, float(numbers[2]), alignment)  # type: ignore[arg-type]
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
        rows.append(Row(method, alignment, tuple(_figures_of(found.get(source)) for source in sources)))
    return Comparison(sources, tuple(rows))


def _figures_of(mean: Mean | None) -> tuple[float, float] | None:
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
