"""The checkpoints this app knows by name, how a name is written, and what others published of methods.

Published are AbsRel and delta1 in percent, zero-shot, on the five data sets of Marigold's paper. The rows of
the paper's own table (Ke et al., CVPR 2024, table 1) are marked. The others are from the tables of Garcia et
al., "Fine-Tuning Image-Conditional Diffusion Models is Easier than You Think" and of He et al., "Lotus". Of
Marigold v1-1, figures on NYUv2 alone were found.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

from marigold_demo.errors import SettingsError

EMBEDDED = "embedded"
LONGEST_NAME = 1000  # characters
HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
# Depth up to scale and shift; inverse depth up to both, larger is nearer; meters; the logarithm of depth.
Prediction = Literal["affine_depth", "affine_disparity", "metric_depth", "log_depth"]
_QUOTES = {"'": "'", '"': '"', "`": "`", "“": "”", "‘": "’", "<": ">"}


@dataclass(frozen=True)
class KnownCheckpoint:
    """A checkpoint by name.

    Attributes:
        name: What DepthSettings.checkpoint takes.
        title: What a visitor reads: the name, and in brackets what it is for.
        about: One sentence on what it gives.
        download_mb: Megabytes downloaded at the first use on a GPU (16 bits), the double on a CPU; 0 for
            what comes with the app. Other methods than Marigold: on any device.
        steps: Denoising steps that it takes by itself; a checkpoint on this machine says so too.
        start_zeros: Tuned end to end, so that the first latent is zeros (its own config does not say it).
        prediction: What the network predicts.
        is_marigold: A diffusion checkpoint in diffusers' layout; all others give depth in one pass.
        terms: One sentence on a license that restricts the use; to be shown before a download.
        cpu_s: Seconds that one prediction takes on two cores, where it was measured.
    """

    name: str
    title: str
    about: str
    download_mb: int
    steps: int = 1
    start_zeros: bool = False
    prediction: Prediction = "affine_depth"
    is_marigold: bool = True
    terms: str = ""
    cpu_s: float | None = None

    @property
    def short_title(self) -> str:
        """The name alone."""
        return self.title.partition(" (")[0]


CATALOG: tuple[KnownCheckpoint, ...] = (
    KnownCheckpoint(
        name=EMBEDDED,
        title="Draft (embedded, instant)",
        about="A small Marigold that comes with the app: good shapes, soft detail, at once on any computer.",
        download_mb=0,
    ),
    KnownCheckpoint(
        name="prs-eth/marigold-depth-v1-1",
        title="Marigold v1-1 (best)",
        about="The official checkpoint: the finest detail. Seconds on a GPU, minutes without one.",
        download_mb=2600,
        steps=4,
    ),
    KnownCheckpoint(
        name="GonzaloMG/marigold-e2e-ft-depth",
        title="Marigold end-to-end",
        about="Tuned end to end: fine depth in one step. An ensemble sees the photo mirrored and resized.",
        download_mb=5200,
        start_zeros=True,
    ),
    KnownCheckpoint(
        name="prs-eth/marigold-depth-lcm-v1-0",
        title="Marigold LCM",
        about="Distilled to 1 to 4 steps; combining several predictions helps it most.",
        download_mb=2600,
        steps=4,
    ),
    KnownCheckpoint(
        name="prs-eth/marigold-depth-v1-0",
        title="Marigold v1-0",
        about="The checkpoint of the paper: 10 to 50 steps, so the slowest.",
        download_mb=2600,
        steps=10,
    ),
)


_NO_COMMERCE = "The weights are licensed CC-BY-NC-4.0: no commercial use."


def _other(
    name: str,
    title: str,
    prediction: Prediction,
    mb: int,
    about: str,
    terms: str = "",
    cpu_s: float | None = None,
) -> KnownCheckpoint:
    return KnownCheckpoint(
        name, title, about, mb, prediction=prediction, is_marigold=False, terms=terms, cpu_s=cpu_s
    )


# Methods beside Marigold; the smallest first.
OTHER_METHODS: tuple[KnownCheckpoint, ...] = (
    _other(
        "depth-anything/Depth-Anything-V2-Small-hf",
        "Depth Anything V2 Small",
        "affine_disparity",
        99,
        "Fine outlines in about a second without a GPU. Apache-2.0.",
        cpu_s=1.0,
    ),
    _other(
        "depth-anything/Depth-Anything-V2-Base-hf",
        "Depth Anything V2 Base",
        "affine_disparity",
        390,
        "Finer than Small, some seconds without a GPU.",
        _NO_COMMERCE,
    ),
    _other(
        "depth-anything/Depth-Anything-V2-Large-hf",
        "Depth Anything V2 Large",
        "affine_disparity",
        1340,
        "The finest of the three.",
        _NO_COMMERCE,
    ),
    _other(
        "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
        "Depth Anything V2 Small, meters indoors",
        "metric_depth",
        99,
        "Distances in meters, for rooms (up to 20 m). License: see its model card.",
    ),
    _other(
        "depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf",
        "Depth Anything V2 Small, meters outdoors",
        "metric_depth",
        99,
        "Distances in meters, for streets (up to 80 m). License: see its model card.",
    ),
    _other(
        "Intel/dpt-large",
        "DPT Large",
        "affine_disparity",
        1370,
        "MiDaS 3.0, the DPT of the paper's table. Apache-2.0.",
    ),
    _other(
        "vinvino02/glpn-nyu",
        "GLPN",
        "metric_depth",
        245,
        "Distances in meters, for rooms (up to 10 m). Apache-2.0.",
    ),
    _other(
        "Intel/zoedepth-nyu-kitti",
        "ZoeDepth",
        "metric_depth",
        1380,
        "Distances in meters, for rooms and streets. MIT.",
    ),
    _other(
        "apple/DepthPro-hf",
        "Depth Pro",
        "metric_depth",
        1900,
        "Distances in meters and the field of view, with fine outlines; minutes without a GPU.",
        "The weights are under Apple's license for research (AMLR): no commercial use.",
    ),
)


FINEST, SMALL = CATALOG[1], OTHER_METHODS[0]  # what refines a draft, with a GPU and without


def find(name: str) -> KnownCheckpoint | None:
    """Return what is known of a checkpoint, or None."""
    return next((known for known in (*CATALOG, *OTHER_METHODS) if known.name == name), None)


def plain_name(text: str) -> str:
    """Return the name of a checkpoint as it is meant, of what was typed or pasted.

    Spaces and quotes around it and slashes at its end go, and the address of a model on the hub becomes
    owner/repository or owner/repository@revision; all else stays as it is. Nothing is looked up.

    Raises:
        SettingsError: It is empty, too long to be a name, or has control characters in it.
    """
    if len(text) > LONGEST_NAME or any(ord(sign) < 32 for sign in text.strip()):
        raise SettingsError(f"checkpoint must be a name of at most {LONGEST_NAME} characters in one line.")
    name, before = text, None
    while name != before:
        before = name
        name = name.strip()
        if len(name) > 1 and _QUOTES.get(name[0]) == name[-1]:
            name = name[1:-1]
        if len(name) > 1:
            name = name.rstrip("/") or "/"
    if not name:
        raise SettingsError("checkpoint is empty; name a folder, a hub repository or 'embedded'.")
    return _of_address(name)


def _of_address(name: str) -> str:
    """Return owner/repository@revision of a model's address on the hub, anything else as it is."""
    whole = f"https://{name}" if name.lower().startswith(tuple(f"{host}/" for host in HUB_HOSTS)) else name
    try:
        address = urlsplit(whole)
    except ValueError:
        return name
    parts = [part for part in address.path.split("/") if part]
    if address.scheme == "hf":
        parts = [address.netloc, *parts]
    elif address.scheme not in ("http", "https") or address.netloc.lower() not in HUB_HOSTS:
        return name
    if len(parts) < 2 or parts[0] in ("datasets", "spaces"):
        return name
    named = "/".join(parts[:2])
    revision = unquote(parts[3]) if len(parts) > 3 and parts[2] in ("tree", "blob", "resolve") else "main"
    return named if revision == "main" else f"{named}@{revision}"


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
