"""The checkpoints this app knows by name. Knows nothing of how they are loaded."""

from dataclasses import dataclass

EMBEDDED = "embedded"


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
