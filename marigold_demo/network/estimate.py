"""What a prediction will cost on this machine, before it begins: download, time, memory.

Counted from the shapes of the networks, turned into seconds by the machine's pace, corrected by the last real
runs. Nothing is downloaded or loaded for it, and nothing waits: the first question about a checkpoint starts
the counting, and until that is done the answer is that time and memory are not known.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel

from marigold_demo.advice import Advice
from marigold_demo.catalog import find
from marigold_demo.errors import CheckpointError
from marigold_demo.network import architecture, hub, pace
from marigold_demo.network.checkpoint import best_device, best_dtype, local_folder
from marigold_demo.network.checkpoint_files import check_complete
from marigold_demo.network.checkpoint_folder import sketch_pipeline
from marigold_demo.network.cost import LARGE, SMALL, Cost, CostModel, EndingError, count
from marigold_demo.network.defaults import Defaults
from marigold_demo.network.draft import TAESD_BYTES, find_draft, is_draft, is_tiny
from marigold_demo.network.image_grid import fit_grid
from marigold_demo.network.member_batches import batch_size
from marigold_demo.network.pipeline import DECODE_SHARE, DENOISE_SHARE, DepthPipeline
from marigold_demo.network.views import choose_views
from marigold_demo.settings import DepthSettings

# On a CPU: what torch's libraries take once, and how much more than counted the process holds while maps are
# small (measured: 2.0 to 2.5 for the embedded checkpoint at 512 to 1024 px, 1.0 for Stable Diffusion at 768).
LIBRARIES_BYTES, SMALL_BYTES, SMALL_SHARE = 50 * hub.MB, 2**26, 2.2
COUNTING = "estimate"  # name of the threads
MEMBER_MAPS = 4  # of the size of the result, for each member, while they are aligned and reduced


def advise(size: tuple[int, int], settings: DepthSettings) -> Advice:
    """Foresee the price of a prediction for a photo of this width and height.

    Raises:
        CheckpointError: The settings name neither a whole checkpoint folder nor a hub repository.
    """
    model = _Model.of(settings)
    missing = _missing_bytes(settings, model.folder)
    plan = _plans.get(model)
    if plan is None:
        if model.can_be_counted and model not in _counting:
            _counting.add(model)
            threading.Thread(target=_prepare_unless_ending, args=(model,), name=COUNTING).start()
        return Advice(download_bytes=missing)
    cost, memory = plan.price(size, settings)
    return Advice(seconds=_seconds(cost, plan, settings), memory_bytes=memory, download_bytes=missing)


def prepare(settings: DepthSettings) -> None:
    """Count and measure now what `advise` would otherwise do in the background."""
    model = _Model.of(settings)
    if model.can_be_counted:
        _prepare(model)


@dataclass(frozen=True)
class _Model:
    """What decides on the price of a network call: where the networks come from and where they run."""

    name: str
    folder: Path | None  # on this machine, whole
    device: str
    dtype: torch.dtype
    draft: bool

    @classmethod
    def of(cls, settings: DepthSettings) -> "_Model":
        folder = local_folder(settings.checkpoint)
        if folder is not None:
            check_complete(folder, name=settings.checkpoint)
        else:
            folder = hub.cached(settings.checkpoint)
            if folder is not None and not hub.is_complete(folder):
                folder = None
        device = best_device()
        dtype = best_dtype(device, folder=folder)
        return cls(settings.checkpoint, folder, device, dtype, settings.quality == "draft")

    @property
    def can_be_counted(self) -> bool:
        return self.folder is not None or find(self.name) is not None

    def sketch(self) -> DepthPipeline:
        """Build the networks without weights."""
        if self.folder is not None:
            pipeline = sketch_pipeline(self.folder, name=self.name)
        else:
            pipeline = _stable_diffusion(self.name)
        if self.draft and not is_draft(pipeline):
            with torch.device("meta"):
                pipeline = DepthPipeline(
                    unet=pipeline.unet,
                    vae=AutoencoderTiny.from_config(architecture.TINY_VAE),
                    scheduler=pipeline.scheduler,
                    empty_prompt=pipeline.empty_prompt,
                    defaults=pipeline.defaults,
                )
        return pipeline.to(self.dtype).settle(self.device)


def _stable_diffusion(name: str) -> DepthPipeline:
    """Sketch a checkpoint of the catalog that is not on this machine."""
    known = find(name)
    if known is None:
        raise ValueError(f"{name} is not in the catalog")
    with torch.device("meta"):
        return DepthPipeline(
            unet=UNet2DConditionModel.from_config(architecture.UNET),
            vae=AutoencoderKL.from_config(architecture.VAE),
            scheduler=DDIMScheduler(),
            empty_prompt=torch.empty(1, 2, architecture.UNET["cross_attention_dim"]),
            defaults=Defaults(
                steps=known.steps,
                resolution=architecture.RESOLUTION,
                start="zeros" if known.start_zeros else "noise",
            ),
        )


@dataclass(frozen=True, eq=False)
class _Plan:
    """What the parts of a prediction cost, by the pixels that the network sees."""

    model: _Model
    pipeline: DepthPipeline
    encode: CostModel
    denoise: CostModel
    decode: CostModel
    weights_bytes: int

    def price(self, size: tuple[int, int], settings: DepthSettings) -> tuple[Cost, int]:
        """Return the cost of a prediction, and its memory with weights."""
        pipeline, multiple = self.pipeline, self.pipeline.multiple
        resolution = pipeline.longest_edge(size, settings)
        steps = settings.steps or pipeline.defaults.steps
        ensemble = settings.ensemble or pipeline.defaults.ensemble
        width, height = size
        seen = [(resolution, ensemble)]
        if ensemble > 1 and not pipeline.members_differ(settings):
            views = choose_views(ensemble, resolution=resolution, multiple=multiple)
            seen = [(view.resolution, 1) for view in views]
        total, kept, peak = Cost(), 0, 0.0
        for longest, members in seen:
            grid = fit_grid((height, width), resolution=longest, multiple=multiple)
            cost = self._members(grid.pixels, steps=steps, members=members)
            total, peak = total + cost, max(peak, cost.peak_bytes * self._heap_share(grid.pixels))
            kept += members * grid.inner[0] * grid.inner[1]
        photo_maps = 2 if ensemble > 1 else 1
        kept_bytes = 4 * (MEMBER_MAPS * kept + photo_maps * width * height)
        own = LIBRARIES_BYTES if self.model.device == "cpu" else 0
        return total, round(self.weights_bytes + own + max(peak, kept_bytes))

    def _heap_share(self, pixels: int) -> float:
        """Return how much memory is held for each byte in use."""
        layer = self.pipeline.layer_bytes(pixels, network=self.pipeline.vae)
        return SMALL_SHARE if self.model.device == "cpu" and layer < SMALL_BYTES else 1.0

    def _members(self, pixels: int, *, steps: int, members: int) -> Cost:
        latent_pixels = pixels // self.pipeline.multiple**2
        unet, vae = self.pipeline.unet, self.pipeline.vae
        return (
            self.encode.at(pixels)
            + self.denoise.at(pixels)
            .times(members, together=self._batch(latent_pixels, unet, share=DENOISE_SHARE))
            .times(steps)
            + self.decode.at(pixels).times(members, together=self._batch(pixels, vae, share=DECODE_SHARE))
        )

    def _batch(self, pixels: int, network: object, *, share: int) -> int:
        layer = self.pipeline.layer_bytes(pixels, network=network)
        return batch_size(layer, device=torch.device(self.model.device), share=share)


_plans: dict[_Model, _Plan] = {}
_counting: set[_Model] = set()


def _prepare_unless_ending(model: _Model) -> None:
    with suppress(EndingError, CheckpointError):  # what is wrong with a checkpoint is said where it is loaded
        _prepare(model)


def _prepare(model: _Model) -> None:
    """Count the networks and measure the machine."""
    pipeline = model.sketch()
    weights = [
        weight.numel() * weight.element_size()
        for network in pipeline.networks
        for weight in network.parameters()
    ]
    encode, denoise, decode = (
        CostModel(count(run(pipeline, SMALL)), count(run(pipeline, LARGE)))
        for run in (_encoding, _denoising, _decoding)
    )
    _plans[model] = _Plan(model, pipeline, encode, denoise, decode, sum(weights))
    with suppress(RuntimeError):  # a GPU that is lent for runs only: time stays unknown
        pace.measure(model.device, model.dtype)


def _encoding(pipeline: DepthPipeline, pixels: int) -> Callable[[], object]:
    side = round(pixels**0.5)
    rgb = torch.empty(1, 3, side, side, device="meta")

    def run() -> object:
        if pipeline.image_encoder is not None:
            pipeline.image_encoder(rgb.to(pipeline.dtype))
        return pipeline.encode_image(rgb)

    return run


def _denoising(pipeline: DepthPipeline, pixels: int) -> Callable[[], object]:
    side = round(pixels**0.5) // pipeline.multiple
    with torch.device("meta"):
        seen = torch.empty(1, pipeline.unet.config.in_channels, side, side, dtype=pipeline.dtype)
        t = torch.empty((), dtype=torch.int64)
    return lambda: pipeline.unet(seen, t, encoder_hidden_states=pipeline.empty_prompt, return_dict=False)


def _decoding(pipeline: DepthPipeline, pixels: int) -> Callable[[], object]:
    side = round(pixels**0.5) // pipeline.multiple
    latent = torch.empty(1, pipeline.unet.config.out_channels, side, side, device="meta")
    return lambda: pipeline.decode_depth(latent)


def _seconds(cost: Cost, plan: _Plan, settings: DepthSettings) -> float | None:
    """Return the time of some work: at the machine's pace, times what the last runs took beyond it."""
    speed = pace.known(plan.model.device, plan.model.dtype)
    if speed is None:
        return None
    ratios = [
        run.seconds / speed.seconds(plan.price(run.size, run.settings)[0]) for run in pace.last_runs(settings)
    ]
    return speed.seconds(cost) * (geometric_mean(ratios) if ratios else 1.0)


def _missing_bytes(settings: DepthSettings, folder: Path | None) -> int | None:
    """Return how much has to be downloaded, None where nobody here knows."""
    draft = TAESD_BYTES if settings.quality == "draft" else 0
    if folder is not None:
        return 0 if not draft or is_tiny(folder) or find_draft(folder) else draft
    known = find(settings.checkpoint)
    if known is None:
        return None
    whole = known.download_mb * hub.MB * (1 if best_device() == "cuda" else 2)
    return max(0, whole - hub.cached_bytes(settings.checkpoint)) + draft
