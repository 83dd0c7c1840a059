"""The checkpoints this app knows by name, and how a name is written."""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from marigold_demo.errors import SettingsError

EMBEDDED = "embedded"
LONGEST_NAME = 1000  # characters
HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_QUOTES = {"'": "'", '"': '"', "`": "`", "“": "”", "‘": "’", "<": ">"}


@dataclass(frozen=True)
class KnownCheckpoint:
    """A checkpoint by name.

    Attributes:
        name: What DepthSettings.checkpoint takes.
        title: What a visitor reads: the name, and in brackets what it is for.
        about: One sentence on what it gives.
        download_mb: Megabytes downloaded at the first use on a GPU (16 bits), the double on a CPU; 0 for
            what comes with the app.
        steps: Denoising steps that it takes by itself; a checkpoint on this machine says so too.
        start_zeros: Tuned end to end, so that the first latent is zeros (its own config does not say it).
    """

    name: str
    title: str
    about: str
    download_mb: int
    steps: int = 1
    start_zeros: bool = False

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


def find(name: str) -> KnownCheckpoint | None:
    """Return what is known of a checkpoint, or None."""
    return next((known for known in CATALOG if known.name == name), None)


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
