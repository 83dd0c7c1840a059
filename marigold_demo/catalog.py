"""The checkpoints this app knows by name, and how a name is written."""

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
