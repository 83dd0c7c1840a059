#!/usr/bin/env python3
"""Depth by networks beside Marigold, at their real size with random weights: seconds and memory of one photo.

Usage:
    python benchmarks/other_methods.py [--repeats 9] [--cpu-time]

Depth Anything V2 Small sees a photo of 1024 x 768 at 686 x 518. "Network alone" is transformers' model as it
comes, without processing before and behind it. The least of all runs is given: other work on a shared machine
makes a run slower and never faster. With --cpu-time it is processor time by the number of threads, which work
that is done beside it changes less (with OMP_WAIT_POLICY=passive).
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from inference import device_name, make_photo, peak_memory
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

from marigold_demo.network.checkpoint import best_dtype
from marigold_demo.network.feedforward import FAMILIES, FeedForwardPipeline
from marigold_demo.settings import DepthSettings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cpu-time", action="store_true")
    choices = parser.parse_args()
    torch.manual_seed(0)
    photo, family = make_photo(), FAMILIES["depth_anything"]
    plain = DepthAnythingForDepthEstimation(DepthAnythingConfig()).eval()  # the defaults are those of Small
    network = DepthAnythingForDepthEstimation(DepthAnythingConfig()).eval()
    pipeline = FeedForwardPipeline(network, family.preprocessing, prediction=family.prediction).optimize()
    photo_depths = [pipeline(photo, DepthSettings()).values]
    fast = best_dtype("cpu", folder=None)  # as the app does
    if fast != torch.float32:
        pipeline.encode_in(fast)
        photo_depths.append(pipeline(photo, DepthSettings()).values)
    million = sum(weights.numel() for weights in network.parameters()) / 1e6
    print(f"torch {torch.__version__}, {device_name('cpu')}")
    print(f"Depth Anything V2 Small, {million:.1f} M parameters, random weights, encoder in {fast}")
    apart = np.abs(photo_depths[-1] - photo_depths[0])
    print(f"Depth apart from all in float32, of its range: mean {apart.mean():.4f}, most {apart.max():.4f}\n")
    print("| seen at | photo to depth s | network alone s | peak MB on top |\n|---|---|---|---|")
    for resolution in (None, 520):  # its own size for such a photo, and the next below
        settings = DepthSettings(resolution=resolution)
        height, width = pipeline.preprocessing.input_size(photo.size[::-1], resolution)
        image = pipeline.preprocessing.make_input(photo.rgb, (height, width), device=torch.device("cpu"))
        with peak_memory("cpu") as peak:
            pipeline(photo, settings)
        whole = least(lambda settings=settings: pipeline(photo, settings), choices)
        alone = least(lambda image=image: run(plain, image), choices)
        print(f"| {width} x {height} | {whole:.2f} | {alone:.2f} | {peak[0]:.0f} |", flush=True)


@torch.inference_mode()
def run(network: torch.nn.Module, image: torch.Tensor) -> np.ndarray:
    return network(image).predicted_depth.numpy()


def least(work: Callable[[], object], choices: argparse.Namespace) -> float:
    """Return the least time of some runs after a warm-up, in seconds."""
    clock = time.process_time if choices.cpu_time else time.perf_counter
    work()
    seconds = []
    for _ in range(choices.repeats):
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds) / (torch.get_num_threads() if choices.cpu_time else 1)


if __name__ == "__main__":
    main()
