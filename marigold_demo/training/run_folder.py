"""The folder of a run: state, log, curves, numbered checkpoints, the best and the finished one.

Whatever replaces a file or folder is written beside it and renamed, so that a full disk or an interruption
leaves the old one.
"""

import csv
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from diffusers import AutoencoderTiny
from matplotlib.figure import Figure
from PIL import Image

from marigold_demo.errors import CheckpointError, SettingsError
from marigold_demo.network.checkpoint_folder import replaced_at_the_end, save_pipeline
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.training import TrainSettings

FIXED = ("init", "data", "pictures", "image_encoder", "batch", "accumulate", "shapes", "fresh", "seed")
NOT_READ = ("*.bin", "*.ckpt", "*.msgpack", "*.h5")  # of a text encoder, beside its safetensors
COLUMNS = ("stage", "step", "lr", "loss", "validation", "abs_rel", "delta1", "seconds")


@dataclass(frozen=True)
class FolderScore:
    """Means over the sources of all folders."""

    abs_rel: float
    delta1: float


@dataclass(frozen=True)
class LogRow:
    """One line of the log; validation is None between validations, score where no folder is validated on."""

    stage: str
    step: int
    lr: float
    loss: float
    validation: float | None
    seconds: float
    score: FolderScore | None = None


class RunFolder:
    """Files of one run.

    Attributes:
        folder: Holds them all.
        init: Folder that training starts from, or None; its text encoder comes along with checkpoints.
        keep: How many numbered checkpoints stay.
    """

    def __init__(self, folder: Path, settings: TrainSettings, *, init: Path | None = None) -> None:
        """Open or start a run.

        Raises:
            SettingsError: The folder holds a run with other data, networks or seed.
        """
        self.folder, self.init, self.keep = folder, init, settings.keep_checkpoints
        folder.mkdir(parents=True, exist_ok=True)
        self._check_settings(settings)

    @property
    def checkpoint(self) -> Path:
        """Where the finished weights go."""
        return self.folder / "checkpoint"

    def save_finished(self, pipeline: DepthPipeline) -> None:
        """Write the finished weights."""
        save_checkpoint(pipeline, self.checkpoint, init=self.init)

    def save_numbered(self, pipeline: DepthPipeline, *, stage: str, step: int) -> None:
        """Write the weights of one step as a checkpoint, and drop the oldest ones beyond `keep`."""
        folder = self.folder / "checkpoints"
        save_checkpoint(pipeline, folder / f"{stage}_{step:06d}", init=self.init)
        known = [path for path in folder.iterdir() if not path.name.startswith(".")]
        for old in sorted(known, key=lambda path: path.stat().st_mtime_ns)[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)

    def save_best(self, pipeline: DepthPipeline, *, stage: str, step: int, validation: float) -> None:
        """Write the weights with the best validation so far as a checkpoint; best.json says which."""
        save_checkpoint(pipeline, self.folder / "best", init=self.init)
        about = {"stage": stage, "step": step, "validation": validation}
        (self.folder / "best.json").write_text(json.dumps(about) + "\n")

    def load_state(self) -> dict[str, Any] | None:
        """Return the last saved state, None at the start.

        Raises:
            CheckpointError: The state is damaged.
        """
        path = self.folder / "state.pt"
        if not path.exists():
            return None
        try:
            return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
        except (OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as error:
            raise CheckpointError(f"{path} is damaged; delete it to start the run anew.") from error

    def save_state(self, state: dict[str, Any]) -> None:
        """Keep a state in place of the last one."""
        beside = self.folder / ".state.pt.new"
        torch.save(state, beside)
        beside.replace(self.folder / "state.pt")

    def log(self, row: LogRow) -> None:
        """Add a line to log.csv."""
        path = self.folder / "log.csv"
        is_new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if is_new:
                writer.writerow(COLUMNS)
            score = ("", "")
            if row.score is not None:
                score = (f"{row.score.abs_rel:.5f}", f"{row.score.delta1:.5f}")
            validation = "" if row.validation is None else f"{row.validation:.5f}"
            cells = (row.stage, row.step, f"{row.lr:.3g}", f"{row.loss:.5f}", validation, *score)
            writer.writerow([*cells, f"{row.seconds:.1f}"])

    def save_sheet(self, sheet: Image.Image, *, stage: str, step: int) -> None:
        """Keep pictures of a validation."""
        folder = self.folder / "validation"
        folder.mkdir(exist_ok=True)
        sheet.save(folder / f"{stage}_{step:06d}.jpg", quality=90)

    def draw_curves(self) -> None:
        """Draw log.csv as curves.png, one panel a stage."""
        with (self.folder / "log.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        stages = list(dict.fromkeys(row["stage"] for row in rows))
        figure = Figure(figsize=(5 * len(stages), 3.2))
        for panel, stage in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
            mine = [row for row in rows if row["stage"] == stage]
            checked = [row for row in mine if row["validation"]]
            panel.plot([int(r["step"]) for r in mine], [float(r["loss"]) for r in mine], label="training")
            panel.plot(
                [int(r["step"]) for r in checked],
                [float(r["validation"]) for r in checked],
                label="validation",
            )
            panel.set(title=stage, xlabel="step", ylabel="loss", yscale="log")
            panel.legend()
        figure.tight_layout()
        beside = self.folder / ".curves.png"
        figure.savefig(beside, format="png", dpi=100)
        beside.replace(self.folder / "curves.png")

    def _check_settings(self, settings: TrainSettings) -> None:
        path = self.folder / "settings.json"
        mine = asdict(settings)
        if path.exists():
            theirs = json.loads(path.read_text())
            changed = [name for name in FIXED if theirs.get(name, mine[name]) != mine[name]]
            if changed:
                name = changed[0]
                raise SettingsError(
                    f"{self.folder} holds a run with {name} = {theirs.get(name)!r}, not {mine[name]!r}; "
                    "give another out folder, or the same settings to go on."
                )
        beside = self.folder / ".settings.json"
        beside.write_text(json.dumps(mine, indent=2) + "\n")
        beside.replace(path)


def save_checkpoint(pipeline: DepthPipeline, folder: Path, *, init: Path | None) -> None:
    """Write a checkpoint folder in float16.

    The text encoder of `init`, where it has one, comes along, so that diffusers' pipeline loads the folder.
    It replaces a folder of that name at the very end.
    """
    with replaced_at_the_end(folder) as fresh:
        save_pipeline(_halved(pipeline), fresh)
        _add_text_encoder(fresh, init=init)


def _halved(pipeline: DepthPipeline) -> DepthPipeline:
    """Return a copy in float16 on the CPU; nothing more is taken of a GPU's memory."""
    halved = empty_copy(pipeline, device="meta")
    for empty, network in zip(halved.networks, pipeline.networks, strict=True):
        weights = {
            name: weight.detach().to("cpu", torch.float16) if weight.is_floating_point() else weight.cpu()
            for name, weight in network.state_dict().items()
        }
        empty.load_state_dict(weights, assign=True)
    return halved


def empty_copy(pipeline: DepthPipeline, *, device: str) -> DepthPipeline:
    """Return a pipeline of the same networks with other weights: new ones on a device, none on "meta"."""

    def again(network: Any) -> Any:
        if network is None:
            return None
        # Without diffusers' own entries: what they list as defaults would be set back to them.
        known = {name: value for name, value in network.config.items() if name[:1] != "_"}
        if isinstance(network, AutoencoderTiny):
            known.pop("block_out_channels", None)  # it sets them itself, and warns
        with torch.device(device):
            return type(network).from_config(known)

    return DepthPipeline(
        unet=again(pipeline.unet),
        vae=again(pipeline.vae),
        scheduler=type(pipeline.scheduler).from_config(pipeline.scheduler.config),
        empty_prompt=pipeline.empty_prompt,
        defaults=pipeline.defaults,
        image_encoder=again(pipeline.image_encoder),
    )


def _add_text_encoder(folder: Path, *, init: Path | None) -> None:
    parts = {"text_encoder": "CLIPTextModel", "tokenizer": "CLIPTokenizer"}
    if init is None or not all((init / part).is_dir() for part in parts):
        return
    path = folder / "model_index.json"
    index = json.loads(path.read_text())
    for part, kind in parts.items():
        shutil.copytree(init / part, folder / part, ignore=shutil.ignore_patterns(*NOT_READ))
        index[part] = ["transformers", kind]
    path.write_text(json.dumps(index, indent=2) + "\n")
