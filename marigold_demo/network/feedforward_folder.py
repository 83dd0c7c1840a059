"""A folder as transformers saves a depth network, or with LeReS -> FeedForwardPipeline on the CPU.

The layout: `config.json`, the weights as safetensors and perhaps `preprocessor_config.json`. What the network
predicts follows from its config; an entry `"prediction"` in it, one of `catalog.Prediction`, overrides that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
import transformers
from transformers.utils import logging as transformers_logging

from marigold_demo.catalog import Prediction, find
from marigold_demo.errors import CheckpointError
from marigold_demo.network.checkpoint_config import INSTEAD, check_numbers, check_quantization
from marigold_demo.network.feedforward import FeedForwardPipeline, Preprocessing
from marigold_demo.network.leres import TERMS, read_leres
from marigold_demo.network.weight_files import (
    CONFIG,
    LERES_FILES,
    NETWORK,
    PREPROCESSOR,
    find_weights,
    read_json,
)
from marigold_demo.network.weights import READ_ERRORS, missing_library, no_progress_bar

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
LARGEST_SIDE = 4096


@dataclass(frozen=True)
class Family:
    """One kind of network.

    Attributes:
        title: What people call it.
        network: Name of transformers' class; LeReS is our own.
        preprocessing: Where the folder says nothing.
        prediction: Unless the config says otherwise.
        ensemble: Views that are reduced to one.
    """

    title: str
    network: str
    preprocessing: Preprocessing
    prediction: Prediction
    ensemble: int = 1


_DPT = Preprocessing((384, 384), cubic=True, mean=HALF, std=HALF)
_DEPTH_ANYTHING = Preprocessing(
    (518, 518), keep_aspect=True, multiple=14, cubic=True, mean=IMAGENET_MEAN, std=IMAGENET_STD
)
_ZOE = Preprocessing((384, 512), keep_aspect=True, multiple=32, way="padded", mean=HALF, std=HALF)
_DEPTH_PRO = Preprocessing((1536, 1536), way="plain", mean=HALF, std=HALF, fixed=True)
_LERES = Preprocessing((448, 448), multiple=32, way="plain", mean=IMAGENET_MEAN, std=IMAGENET_STD)
FAMILIES: Mapping[str, Family] = {
    "dpt": Family("DPT", "DPTForDepthEstimation", _DPT, "affine_disparity"),
    "depth_anything": Family(
        "Depth Anything", "DepthAnythingForDepthEstimation", _DEPTH_ANYTHING, "affine_disparity"
    ),
    # The mean with the mirrored photo is a part of the method.
    "zoedepth": Family("ZoeDepth", "ZoeDepthForDepthEstimation", _ZOE, "metric_depth", ensemble=2),
    "glpn": Family(
        "GLPN", "GLPNForDepthEstimation", Preprocessing(None, multiple=32, longest=640), "metric_depth"
    ),
    "leres": Family("LeReS", "LeReS", _LERES, "affine_depth"),
    "depth_pro": Family("Depth Pro", "DepthProForDepthEstimation", _DEPTH_PRO, "metric_depth"),
}


def check_feedforward(folder: Path, *, name: str) -> tuple[Family, dict[str, Any]]:
    """Return the kind of network in a folder and its config, without a look at the weights.

    Raises:
        CheckpointError: It is none that can be run here, or its config is damaged.
    """
    encoder = next((kind for file, kind in LERES_FILES.items() if (folder / file).is_file()), None)
    if encoder is not None and not (folder / CONFIG).is_file():
        return FAMILIES["leres"], {"model_type": "leres", "encoder": encoder}
    config = read_json(folder / CONFIG, name=name)
    kind, listed = str(config.get("model_type")), config.get("architectures")
    family = FAMILIES.get(kind)
    if family is None:
        titles = ", ".join(family.title for family in FAMILIES.values())
        raise CheckpointError(
            f"{name} is a network of the kind {kind[:40]}, which this app does not run; it runs {titles} and "
            f"Marigold: {INSTEAD}."
        )
    network = str(listed[0]) if isinstance(listed, list) and listed else family.network
    if network != family.network:
        raise CheckpointError(
            f"{name} is a {network[:60]}, which predicts no depth; take a {family.network}."
        )
    check_numbers(config, file=CONFIG, name=name)
    check_quantization(config, part=NETWORK, name=name)
    return family, config


def read_feedforward(folder: Path, *, name: str, dtype: torch.dtype = torch.float32) -> FeedForwardPipeline:
    """Read a folder onto the CPU.

    Raises:
        CheckpointError: A file is missing, damaged or of the wrong kind.
    """
    family, config = check_feedforward(folder, name=name)
    preprocessing = read_preprocessing(folder, family, name=name)
    if family is FAMILIES["leres"]:
        leres = read_leres(folder, config, name=name).to(dtype)
        return FeedForwardPipeline(leres, preprocessing, prediction=family.prediction, notes=(TERMS,))
    variant = find_weights(folder, name=name, part=NETWORK).variant or None
    try:
        with no_progress_bar(transformers_logging):
            network, info = getattr(transformers, family.network).from_pretrained(
                folder,
                dtype=dtype,
                variant=variant,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except ImportError as error:
        raise missing_library(NETWORK, error, name=name) from error
    except READ_ERRORS as error:
        raise CheckpointError(
            f"The weights of {name} do not fit its {CONFIG}, or one of them is damaged; download both again."
        ) from error
    if info["missing_keys"] or info["mismatched_keys"]:
        raise CheckpointError(f"{name} lacks some of its weights; download the checkpoint again.")
    prediction = prediction_of(config, family, name=name)
    inverse = family.network == FAMILIES["depth_pro"].network
    if inverse and not network.use_fov_model:
        prediction = "affine_depth"  # without a field of view there are no meters
    return FeedForwardPipeline(
        network.eval(), preprocessing, prediction=prediction, ensemble=family.ensemble, inverse=inverse
    )


def prediction_of(config: dict[str, Any], family: Family, *, name: str) -> Prediction:
    """Return what a network predicts: as its config says, as the catalog knows, else as its kind does.

    Raises:
        CheckpointError: The config says what no network predicts.
    """
    said, known = config.get("prediction"), find(name.partition("@")[0])
    if said is not None and said not in get_args(Prediction):
        choices = ", ".join(get_args(Prediction))
        raise CheckpointError(
            f"{CONFIG} of {name} has {str(said)[:40]} in prediction; it must be one of {choices}."
        )
    if said is not None or known is not None:
        return said or known.prediction  # type: ignore[union-attr]
    backbone = config.get("backbone_config")
    kind = str(backbone.get("model_type")) if isinstance(backbone, dict) else ""
    is_metric = config.get("depth_estimation_type") == "metric"
    # DPT on DINOv2 was trained for meters (Oquab et al., 2023), all others for disparity.
    if is_metric or (family.network == FAMILIES["dpt"].network and kind.startswith("dinov2")):
        return "metric_depth"
    return family.prediction


def read_preprocessing(folder: Path, family: Family, *, name: str) -> Preprocessing:
    """Return how a photo becomes the network's input, of `preprocessor_config.json` where it is there.

    Raises:
        CheckpointError: It is damaged.
    """
    usual = family.preprocessing
    if not (folder / PREPROCESSOR).is_file():
        return usual
    said = read_json(folder / PREPROCESSOR, name=name)
    try:
        found = _preprocessing(said, usual)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{PREPROCESSOR} of {name} is damaged; download it again.") from error
    sides = (*(found.size or ()), found.multiple)
    numbers = (found.scale, *found.mean, *found.std)
    if not all(1 <= side <= LARGEST_SIDE for side in sides) or not all(abs(n) < 1e6 for n in numbers):
        raise CheckpointError(f"{PREPROCESSOR} of {name} has sizes that no network takes; download it again.")
    if len(found.mean) != 3 or len(found.std) != 3 or min(found.std) <= 0:
        raise CheckpointError(f"{PREPROCESSOR} of {name} is not for photos of three colors.")
    return found


def _preprocessing(said: dict[str, Any], usual: Preprocessing) -> Preprocessing:
    size = said.get("size", usual.size)
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = (edge, edge) if edge is not None else (size["height"], size["width"])
    elif isinstance(size, int):
        size = (size, size)
    multiple = said.get("size_divisor") or said.get("ensure_multiple_of") or usual.multiple
    if usual.size is None or said.get("do_resize") is False:
        size = None
    scale = said.get("rescale_factor", usual.scale) if said.get("do_rescale", True) else 1.0
    mean, std = said.get("image_mean", usual.mean), said.get("image_std", usual.std)
    if said.get("do_normalize", "image_mean" in said or usual.mean != (0.0, 0.0, 0.0)) is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return replace(
        usual,
        size=None if size is None else (int(size[0]), int(size[1])),
        keep_aspect=bool(said.get("keep_aspect_ratio", usual.keep_aspect)),
        multiple=int(multiple),
        cubic=said.get("resample", 3 if usual.cubic else 2) == 3,
        scale=float(scale),
        mean=tuple(float(value) for value in mean),
        std=tuple(float(value) for value in std),
    )
