#!/usr/bin/env python3
"""Depth by our loop and by diffusers' MarigoldDepthPipeline: same weights, same noise, one process, in turns.

Usage:
    python benchmarks/inference.py --quick           embedded checkpoint and ensembling, as `ratio NAME VALUE`
    python benchmarks/inference.py                   embedded checkpoint, more settings, memory and floor
    python benchmarks/inference.py --random          random weights of Stable Diffusion 2's size (15 GB)
    python benchmarks/inference.py --gpu             the same in float16 on a GPU; 1, 4 steps; 1, 10 members
    python benchmarks/inference.py FOLDER_OR_NAME    a checkpoint on disk or in the hub's cache

A ratio is diffusers' time by ours; more than 1 means that ours is faster. The floor is the time that the
multiplications of diffusers' networks alone would take at the speed of a large matrix product on this
machine; what needs fewer of them can be above 100 %.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    LCMScheduler,
    MarigoldDepthPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.marigold.marigold_image_processing import MarigoldImageProcessor
from ensembling import difference, time_ensembling
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

import marigold_demo.network.pipeline
from marigold_demo.depth import DepthMap
from marigold_demo.errors import CheckpointError
from marigold_demo.io.photo import Photo
from marigold_demo.network import ensemble
from marigold_demo.network.checkpoint import open_pipeline
from marigold_demo.network.cpu import restore
from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.network.plan import CheckpointDefaults
from marigold_demo.settings import DepthSettings

PHOTO_SIZE = (768, 1024)  # H, W
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Stable Diffusion 2 as a Marigold: networks of its size, for random weights.
UNET = {
    "sample_size": 96,
    "in_channels": 8,
    "out_channels": 4,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
TINY_VAE = {"_class_name": "AutoencoderTiny"}  # TAESD: the class's defaults


def main() -> None:
    choices = _parse()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {device_name(choices.device)}")
    if choices.quick:
        cases = [DepthSettings(ensemble=members, outlines="network") for members in (1, 10)]
        time_checkpoint("embedded", cases=cases, dtypes=["float32"], choices=choices)
        time_ensembling([5, 10, 20], repeats=1, limit_s=90)
        return
    counts = [(steps, members) for steps in choices.steps for members in choices.ensemble]
    cases = [
        DepthSettings(steps=steps, ensemble=members, resolution=choices.resolution, outlines="network")
        for steps, members in counts
    ]
    for name in ["random"] if choices.random else choices.checkpoints:
        time_checkpoint(name, cases=cases, dtypes=choices.dtypes, choices=choices)
    if not choices.random:
        time_ensembling([3, 5, 10, 20], repeats=2)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoints", nargs="*", default=["embedded"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--ensemble", type=int, nargs="+", default=[1, 5, 10])
    parser.add_argument(
        "--resolution", type=int, help="longest edge in pixels; the checkpoint's own if left out"
    )
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--diffusers-batch",
        type=int,
        default=1,
        help="members that diffusers takes together; 1 is its default",
    )
    parser.add_argument(
        "--cpu-time",
        dest="clock",
        action="store_const",
        const=time.process_time,
        default=time.perf_counter,
        help="processor time instead of wall time, for a busy machine (with OMP_WAIT_POLICY=passive)",
    )
    choices = parser.parse_args()
    if choices.gpu:
        if not torch.cuda.is_available():
            parser.error("--gpu: torch finds no CUDA device here")
        choices.random, choices.device, choices.dtypes = True, "cuda", ["float16"]
        choices.steps, choices.ensemble = [1, 4], [1, 10]
    return choices


def device_name(device: str) -> str:
    """Return what the numbers depend on."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return f"{device}, {torch.get_num_threads()} threads"


@dataclass(frozen=True)
class Result:
    """What one program took and gave."""

    seconds: float
    peak_mb: float
    depth: np.ndarray  # [H, W]
    members: np.ndarray  # [E, *inner]


@dataclass(frozen=True)
class Program:
    """Something to time: `prepare` is not counted, `run` is."""

    prepare: Callable[[], object]
    run: Callable[[DepthSettings], DepthMap]


def time_checkpoint(
    name: str, *, cases: list[DepthSettings], dtypes: list[str], choices: argparse.Namespace
) -> None:
    """Print a table of one checkpoint: each precision of ours against each of diffusers'."""
    photo = make_photo()
    dtypes = [dtype for dtype in dtypes if runs_well(DTYPES[dtype], choices.device)]
    ours, theirs, drafts = {}, {}, {}
    for dtype in dtypes:
        pipeline = open_checkpoint(name, dtype=DTYPES[dtype])
        ours[dtype] = pipeline.optimize(choices.device).to(choices.device)
        # The large random networks are shared and changed over between runs, for want of memory.
        reference = pipeline if name == "random" else open_checkpoint(name, dtype=DTYPES[dtype])
        theirs[dtype] = Reference(
            reference.to(choices.device), photo=photo, batch_size=choices.diffusers_batch
        )
        if name == "random":
            drafts[dtype] = make_random_draft(pipeline, choices.device)
    rates = {dtype: matrix_rate(DTYPES[dtype], choices) for dtype in dtypes}
    print(f"\n{name}, photo {PHOTO_SIZE[1]} x {PHOTO_SIZE[0]}")
    print("| ours / diffusers | steps | members | resolution | ours s | diffusers s | ratio | peak MB | "
          "difference of members, depth | share of the floor |\n" + "|---" * 10 + "|")  # fmt: skip
    for case in cases:
        defaults = ours[dtypes[0]].defaults
        case = replace(
            case,
            steps=case.steps or defaults.steps,
            resolution=defaults.resolution if case.resolution is None else case.resolution,
        )
        programs: dict[tuple[str, str], Program] = {}
        for dtype in dtypes:
            programs["ours", dtype] = Program(
                partial(ours[dtype].optimize, choices.device), partial(ours[dtype], photo)
            )
            programs["diffusers", dtype] = Program(theirs[dtype].restore, theirs[dtype].run)
        for dtype, draft in drafts.items():
            programs["draft", dtype] = Program(partial(draft.optimize, choices.device), partial(draft, photo))
        results = in_turns(programs, case, choices=choices)
        for dtype in dtypes:
            if ours[dtype].dtype != DTYPES[dtype]:
                sys.exit(f"{name} overflows in {dtype}: the app runs it in float32; leave {dtype} out.")
        flop = count_flop(ours[dtypes[0]], photo, case)
        label = name.rstrip("/").rpartition("/")[2]
        for mine, other in [(a, b) for a in dtypes for b in dtypes if a == b or b == "float32"]:
            a, b = results["ours", mine], results["diffusers", other]
            apart = f"{np.abs(a.members - b.members).max():.1e}, {difference(a.depth, b.depth):.1e}"
            if defaults.start == "zeros" and case.ensemble > 1:
                apart = "not the same: views of the photo / equal members"
            print(
                f"| {mine} / {other} | {case.steps} | {case.ensemble} | {case.resolution} | {a.seconds:.3f} "
                f"| {b.seconds:.3f} | {b.seconds / a.seconds:.2f} | {a.peak_mb:.0f} / {b.peak_mb:.0f} "
                f"| {apart} | {flop / rates[mine] / a.seconds:.0%} |"
            )
            precision = "" if mine == other == "float32" else f"_{mine}_by_{other}"
            row = f"{label}_{case.steps}_steps_{case.ensemble}_members{precision}"
            print(f"ratio {row} {b.seconds / a.seconds:.2f}", flush=True)
        for dtype in dtypes[1:]:
            a, b = results["diffusers", dtype].members, results["diffusers", dtypes[0]].members
            print(f"diffusers' own members in {dtype} and {dtypes[0]}: {np.abs(a - b).max():.1e} apart")
        for dtype in drafts:
            a, b = results["draft", dtype], results["diffusers", dtypes[0]]
            print(
                f"| draft {dtype} / {dtypes[0]} | {case.steps} | {case.ensemble} | {case.resolution} "
                f"| {a.seconds:.3f} | {b.seconds:.3f} | {b.seconds / a.seconds:.2f} "
                f"| {a.peak_mb:.0f} / {b.peak_mb:.0f} | no meaning with random weights |  |"
            )
            row = f"{label}_{case.steps}_steps_{case.ensemble}_members_draft_{dtype}"
            print(f"ratio {row} {b.seconds / a.seconds:.2f}", flush=True)


def runs_well(dtype: torch.dtype, device: str) -> bool:
    """Return whether a device multiplies a number format in hardware; else a row takes hours."""
    if dtype == torch.float32 or not device.startswith("cpu"):
        return True
    capabilities = torch.cpu.get_capabilities()
    fast = dtype == torch.bfloat16 and (capabilities["avx512_bf16"] or capabilities["amx_bf16"])
    if not fast:
        print(f"{dtype} is left out: this CPU has no instructions for it.")
    return bool(fast)


def open_checkpoint(name: str, *, dtype: torch.dtype) -> DepthPipeline:
    """Open a checkpoint on the CPU; without an embedded one, random weights of its size."""
    if name == "random":
        return make_random_pipeline(dtype)
    try:
        return open_pipeline(name, dtype=dtype)
    except CheckpointError as error:
        if name != "embedded":
            sys.exit(str(error))
    from marigold_demo.training.start import make_tiny

    print("No embedded checkpoint: random weights of its size, without an image encoder.")
    return make_tiny(image_encoder=None, seed=0).to(dtype)


def make_random_pipeline(dtype: torch.dtype) -> DepthPipeline:
    """Make a Marigold of Stable Diffusion 2's size with random weights."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(UNET).eval()
    vae = AutoencoderKL.from_config(VAE).eval()
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    return DepthPipeline(
        unet=unet,
        vae=vae,
        scheduler=scheduler,
        empty_prompt=torch.randn(1, 2, 1024),
        defaults=CheckpointDefaults(steps=1, resolution=768),
    ).to(dtype)


def make_random_draft(pipeline: DepthPipeline, device: str) -> DepthPipeline:
    """Put a tiny VAE of TAESD's size, with random weights, into a pipeline."""
    torch.manual_seed(1)
    return DepthPipeline(
        unet=pipeline.unet,
        vae=AutoencoderTiny.from_config(TINY_VAE).eval().to(device, pipeline.dtype),
        scheduler=pipeline.scheduler,
        empty_prompt=pipeline.empty_prompt,
        defaults=pipeline.defaults,
    )


class Reference:
    """diffusers' pipeline over the networks of one of ours, with its own processors and layout."""

    def __init__(self, pipeline: DepthPipeline, *, photo: Photo, batch_size: int = 1) -> None:
        self.pipeline, self.photo, self.batch_size = pipeline, photo, batch_size
        self.unet = WithFeatures(pipeline) if pipeline.image_encoder is not None else pipeline.unet
        self.diffusers = MarigoldDepthPipeline(
            unet=self.unet,
            vae=pipeline.vae,
            scheduler=pipeline.scheduler,
            text_encoder=None,
            tokenizer=None,
            prediction_type="depth",
        )
        self.diffusers.empty_text_embedding = pipeline.empty_prompt
        self.diffusers.set_progress_bar_config(disable=True)
        preprocess = self.diffusers.image_processor.preprocess

        def preprocess_in_float32(image: object, resolution: int, method: str, device: object, dtype: object):
            """Resize before the cast: torch cannot in bfloat16, so diffusers as it comes does not run."""
            pixels, *sizes = preprocess(image, resolution, method, device, torch.float32)
            return pixels.to(dtype), *sizes

        if pipeline.dtype == torch.bfloat16 and pipeline.device.type == "cpu":
            self.diffusers.image_processor.preprocess = preprocess_in_float32

    def restore(self) -> None:
        """Undo what ours does to networks."""
        restore(self.pipeline.networks)

    def run(self, settings: DepthSettings) -> DepthMap:
        """Estimate the depth of the photo, from the same first latents as ours in every number format."""
        pipeline, generator = self.pipeline, torch.Generator().manual_seed(settings.seed)
        start: dict[str, object] = {"generator": generator}  # diffusers takes one or the other
        if not isinstance(pipeline.scheduler, LCMScheduler):
            grid = pipeline.plan(self.photo.size, settings).grid
            shape = (settings.ensemble, 4, *(side // pipeline.vae_scale_factor for side in grid.padded))
            zeros = pipeline.defaults.start == "zeros"
            latents = torch.zeros(shape) if zeros else torch.randn(shape, generator=generator)
            start = {"latents": latents.to(pipeline.device, pipeline.dtype)}
        output = self.diffusers(
            Image.fromarray(self.photo.rgb),
            num_inference_steps=settings.steps,
            ensemble_size=settings.ensemble,
            processing_resolution=settings.resolution,
            output_uncertainty=settings.ensemble > 1,
            batch_size=self.batch_size,
            **start,
        )
        return DepthMap(values=output.prediction[0, ..., 0])


class WithFeatures(torch.nn.Module):
    """A UNet that finds the features of an image encoder by itself: once per photo, as ours does."""

    def __init__(self, pipeline: DepthPipeline) -> None:
        super().__init__()
        self.unet, self.config = pipeline.unet, pipeline.unet.config
        self.device, self.dtype = pipeline.device, pipeline.dtype
        encode = pipeline.vae.encode

        def encode_and_look(rgb: torch.Tensor) -> object:
            self.features = pipeline.image_encoder(rgb)
            return encode(rgb)

        pipeline.vae.encode = encode_and_look

    def forward(self, latents: torch.Tensor, *args: object, **kwargs: object) -> object:
        """Add the features to the latents [B, 8, h, w]."""
        features = self.features.expand(len(latents), -1, -1, -1)
        return self.unet(torch.cat([latents, features], dim=1), *args, **kwargs)


def in_turns(
    programs: dict[tuple[str, str], Program], case: DepthSettings, *, choices: argparse.Namespace
) -> dict[tuple[str, str], Result]:
    """Run programs one after the other, again and again; the first round warms up and keeps the members."""
    members, depths, peaks = {}, {}, {}
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in programs}
    for turn in range(choices.repeats + 1):
        for key, program in programs.items():
            program.prepare()
            if turn == 0:
                with kept_members() as kept, peak_memory(choices.device) as peak:
                    depths[key] = program.run(case).values
                members[key], peaks[key] = kept[0], peak[0]
                continue
            start = choices.clock()
            program.run(case)
            seconds[key].append(choices.clock() - start)
    return {
        key: Result(statistics.median(seconds[key]), peaks[key], depths[key], members[key])
        for key in programs
    }


@contextmanager
def kept_members():
    """Collect the members [E, *inner] that go into either reduction."""
    kept: list[np.ndarray] = []
    reduce_members, unpad_image = ensemble.reduce_members, MarigoldImageProcessor.unpad_image

    def ours(members, **choices):
        kept.append(members)
        return reduce_members(members, **choices)

    def theirs(image, padding):
        image = unpad_image(image, padding)
        kept.append(image[:, 0].float().cpu().numpy())
        return image

    marigold_demo.network.pipeline.reduce_members = ours
    MarigoldImageProcessor.unpad_image = staticmethod(theirs)
    try:
        yield kept
    finally:
        marigold_demo.network.pipeline.reduce_members = reduce_members
        MarigoldImageProcessor.unpad_image = staticmethod(unpad_image)


@contextmanager
def peak_memory(device: str):
    """Measure what a run takes at most on top of what was there, in megabytes."""
    peak: list[float] = []
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak.append((torch.cuda.max_memory_allocated() - before) / 1e6)
        return
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the highest resident size so far
    before = _status_kb("VmRSS")
    yield peak
    peak.append((_status_kb("VmHWM") - before) / 1e3)


def _status_kb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field))


def matrix_rate(dtype: torch.dtype, choices: argparse.Namespace) -> float:
    """Return FLOP per second of a large matrix product, the best of some."""
    size = 8192 if choices.device.startswith("cuda") else 2048
    a, b = torch.randn(2, size, size, device=choices.device).to(dtype)
    best = float("inf")
    for _ in range(6):
        start = choices.clock()
        product = a @ b
        _ = float(product[0, 0])  # waits for a GPU
        best = min(best, choices.clock() - start)
    return 2 * size**3 / best


def count_flop(pipeline: DepthPipeline, photo: Photo, case: DepthSettings) -> float:
    """Count the multiplications and additions of one prediction by networks as they come, nothing folded."""
    restore(pipeline.networks)
    with FlopCounterMode(display=False) as counter:
        pipeline(photo, case)
    return float(counter.get_total_flops())


def make_photo() -> Photo:
    """Make a photo of blurred noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    rgb = np.asarray(coarse.resize(PHOTO_SIZE[::-1], Image.Resampling.BICUBIC))
    return Photo(rgb=rgb, stem="noise", alpha=None, fov_deg=None, notes=())


if __name__ == "__main__":
    main()
