"""Other methods, which give depth in one pass: a folder -> FeedForwardPipeline, and photo -> DepthMap by it.

DPT (Ranftl et al., ICCV 2021), Depth Anything V1 and V2 (Yang et al., CVPR and NeurIPS 2024), ZoeDepth (Bhat
et al., 2023), GLPN (Kim et al., 2022) and Depth Pro (Bochkovskii et al., 2024) as transformers runs them.
Photos are resized and normalized here as its image processors do it; some of those need torchvision.

The layout: `config.json`, the weights as safetensors and perhaps `preprocessor_config.json`. What the network
predicts follows from its config; an entry `"prediction"` in it, one of `catalog.Prediction`, overrides that.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers.utils import logging as transformers_logging

from marigold_demo.catalog import Prediction, find
from marigold_demo.depth import FAR_NEAR, DepthMap, Progress, Run, invert
from marigold_demo.errors import CheckpointError
from marigold_demo.io.photo import Photo
from marigold_demo.network.checkpoint_files import (
    CONFIG,
    LERES_FILES,
    NETWORK,
    PREPROCESSOR,
    find_weights,
    read_json,
)
from marigold_demo.network.ensemble import lower_median, reduce_members
from marigold_demo.network.leres import TERMS, read_leres
from marigold_demo.network.memory import in_batches
from marigold_demo.network.plan import choose_views, guided_upsample, resize
from marigold_demo.network.weights import (
    INSTEAD,
    READ_ERRORS,
    check_numbers,
    check_quantization,
    missing_library,
    no_progress_bar,
)
from marigold_demo.settings import DepthSettings

Size = tuple[int, int]  # height, width
Plane = NDArray[np.float32]
Way = Literal["pillow", "padded", "plain"]
STEP = 32  # in pixels, of networks whose own size says nothing
MOST_PX = 2048  # along the long side, where the settings do not say
LARGE_ENCODER = 10**7  # weights
LEAST_M, TINY = 1e-3, 1e-6
PADDING = 3.0  # ZoeDepth pads by so many times sqrt(side / 2)
DISPARITY_NOTE = (
    f"This network predicts disparity, whose shift is not known: the depth has far : near of {FAR_NEAR:g}."
)


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the input of a network.

    Attributes:
        size: Height and width of the input; None: the photo's own, but at most `longest`.
        keep_aspect: One of both is met, and the other follows the photo.
        multiple: Both sides are multiples of this.
        way: Pillow's resize of bytes; ZoeDepth's, padded by reflection, with aligned corners; or torch's
            plain one of floats, as for Depth Pro.
        cubic: Bicubic in place of bilinear.
        scale: What bytes are multiplied by.
        mean: Subtracted from each channel then.
        std: What each is divided by.
        fixed: The network takes no other size.
        longest: Long side of a photo of no fixed size, in pixels.
    """

    size: Size | None
    keep_aspect: bool = False
    multiple: int = 1
    way: Way = "pillow"
    cubic: bool = False
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    fixed: bool = False
    longest: int = MOST_PX

    def padding(self, photo: Size) -> Size:
        """Return the rows above and below, and the columns at the left and right, that are added."""
        if self.way != "padded":
            return 0, 0
        height, width = (int(math.sqrt(side / 2) * PADDING) for side in photo)
        return height, width

    def input_size(self, photo: Size, longest: int | None = None) -> Size:
        """Return height and width of the network's input.

        Args:
            photo: Height and width of the photo in pixels.
            longest: Longest edge that is wanted; 0: the photo's own; None: what suits the network.
        """
        padding = self.padding(photo)
        height, width = photo[0] + 2 * padding[0], photo[1] + 2 * padding[1]
        if self.fixed and self.size is not None:
            return self.size
        if longest == 0:
            return rounded((height, width), self.step)
        if self.size is None:
            share = longest / max(photo) if longest else min(1.0, self.longest / max(photo))
            return rounded((height, width), self.step, share=share, down=True)
        natural = self.size
        if self.keep_aspect:
            scales = self.size[0] / height, self.size[1] / width
            scale = (
                scales[1] if abs(1 - scales[1]) < abs(1 - scales[0]) else scales[0]
            )  # as little as possible
            natural = rounded((height, width), self.multiple, share=scale)
        if longest is None and max(natural) <= self.longest:
            return natural
        return rounded(natural, self.step, share=(longest or self.longest) / max(natural))

    @property
    def step(self) -> int:
        """What both sides are multiples of where they are not the network's own."""
        return self.multiple if self.multiple > 1 else STEP

    def make_input(self, rgb: NDArray[np.uint8], size: Size, *, device: torch.device) -> Tensor:
        """Return a photo [H, W, 3] as float32 [1, 3, *size]."""
        if self.way == "pillow" and rgb.shape[:2] != size:
            kind = Image.Resampling.BICUBIC if self.cubic else Image.Resampling.BILINEAR
            rgb = np.asarray(Image.fromarray(rgb).resize(size[::-1], kind))
        above, beside = self.padding((rgb.shape[0], rgb.shape[1]))
        if above or beside:
            rgb = np.pad(rgb, ((above, above), (beside, beside), (0, 0)), mode="reflect")
        image = torch.tensor(rgb, device=device).permute(2, 0, 1)[None].float() * self.scale  # [1, 3, H, W]
        mean, std = (torch.tensor(v, device=device)[:, None, None] for v in (self.mean, self.std))
        image = (image - mean) / std
        if image.shape[-2:] == size:
            return image
        mode = "bicubic" if self.cubic else "bilinear"
        return functional.interpolate(image, size, mode=mode, align_corners=self.way == "padded")


def rounded(size: Size, step: int, *, share: float = 1.0, down: bool = False) -> Size:
    """Return a share of a size with both sides rounded to multiples of a step, one step at least."""
    height, width = ((side * share) // step if down else round(side * share / step) for side in size)
    return max(int(height), 1) * step, max(int(width), 1) * step


class FeedForwardPipeline:
    """A network that gives depth in one pass, with what belongs before and behind it.

    Attributes:
        network: Maps [1, 3, h, w] to an output with `predicted_depth` [1, h', w'].
        preprocessing: How a photo becomes its input.
        prediction: What it predicts.
        ensemble: How many views of a photo are reduced to one, where the settings do not say.
        inverse: The output is inverse depth at unit focal length, as Depth Pro's.
        notes: What is to be said of each depth.
        encoder_dtype: Number format in which the encoder multiplies, where it is not that of the weights.
    """

    encoder_dtype: torch.dtype | None = None

    def __init__(
        self,
        network: Any,
        preprocessing: Preprocessing,
        *,
        prediction: Prediction,
        ensemble: int = 1,
        inverse: bool = False,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.network, self.preprocessing = network, preprocessing
        self.prediction: Prediction = prediction
        self.ensemble, self.inverse, self.notes = ensemble, inverse, notes

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the network; before and behind it all is float32."""
        return next(self.network.parameters()).dtype  # type: ignore[no-any-return]

    def to(self, target: torch.device | torch.dtype | str) -> "FeedForwardPipeline":
        """Move the network to a device, or cast it to a number format."""
        self.network.to(target)
        return self

    def optimize(self, device: str = "cpu") -> "FeedForwardPipeline":
        """Freeze the weights, and lay them out for convolutions (13 % less time on a CPU)."""
        self.network.requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)
        return self

    def encode_in(self, dtype: torch.dtype) -> "FeedForwardPipeline":
        """Let a large encoder multiply in a number format of 16 bits, and all that follows in its own.

        Half the time on a CPU with bfloat16. In the last layers 16 bits would give depth in steps.
        """
        encoder = getattr(self.network, "backbone", None)
        if encoder is None or sum(weights.numel() for weights in encoder.parameters()) < LARGE_ENCODER:
            return self
        forward, kind = encoder.forward, self.device.type

        @wraps(forward)
        def encode(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(kind, dtype):
                output = forward(*args, **kwargs)
            output.feature_maps = tuple(features.float() for features in output.feature_maps)
            return output

        encoder.forward, self.encoder_dtype = encode, dtype
        return self

    def longest_edge(self, size: tuple[int, int], settings: DepthSettings) -> int:
        """Return the longest edge in pixels that the network sees of a photo of this width and height."""
        return max(self.preprocessing.input_size(size[::-1], settings.resolution))

    @torch.inference_mode()
    def __call__(self, photo: Photo, settings: DepthSettings, run: Run | None = None) -> DepthMap:
        """Estimate the depth of a photo, at its size.

        Args:
            photo: What to estimate the depth of.
            settings: Ensemble, resolution and outlines are looked at; there is one step and no noise.
            run: Reports before each network call; may cancel there.

        Raises:
            SettingsError: Memory does not suffice.
            CheckpointError: The network gave numbers that are not finite.
            CancelledError: The run was canceled.
        """
        members, fov_deg = self._members(photo.rgb, settings, run or Run())
        if not np.isfinite(members).all():
            raise CheckpointError(
                f"The checkpoint {settings.checkpoint} gave depth that is not a number; its weights are "
                "probably damaged. Download it again or choose another one."
            )
        middle, deviation = self._reduced(members)
        enlarge = self._enlarger(photo.rgb, guided=settings.outlines == "photo")
        wide = None if deviation is None else np.maximum(enlarge(deviation), 0)
        notes = [*self.notes, *([DISPARITY_NOTE] if self.prediction == "affine_disparity" else [])]
        if (settings.steps or 1) > 1:
            notes.append("This network takes one step; the number of steps was not looked at.")
        return self._finished(enlarge(middle), wide, fov_deg=fov_deg, notes=tuple(notes))

    def _members(
        self, rgb: NDArray[np.uint8], settings: DepthSettings, run: Run
    ) -> tuple[NDArray[np.float32], float | None]:
        """Return what the network says of each view, [E, h, w] in the first's size; the angle of view."""
        photo = rgb.shape[0], rgb.shape[1]
        size, step = self.preprocessing.input_size(photo, settings.resolution), self.preprocessing.step
        views = choose_views(settings.ensemble or self.ensemble, resolution=max(size), multiple=step)
        views = views[:2] if self.preprocessing.fixed else views
        members, angles = [], []
        for number, view in enumerate(views):
            shown = np.ascontiguousarray(rgb[:, ::-1]) if view.mirrored else rgb
            seen = size
            if view.resolution != max(size):
                seen = self.preprocessing.input_size(photo, view.resolution)
            image = self.preprocessing.make_input(shown, seen, device=self.device)
            before = _reporter(run, number, len(views))
            ((member, angle),) = in_batches(1, self._caller(image), size=1, before=before)  # [1, h, w]
            members.append(member.flip(-1) if view.mirrored else member)
            angles += [] if angle is None else [angle]
        run.report(Progress("align", len(views), len(views)))
        first = members[0].shape[-2], members[0].shape[-1]
        together = torch.cat([resize(member, first) for member in members])
        fov_deg = float(np.mean(angles)) if angles else None
        return together.cpu().numpy(), _of_long_side(fov_deg, photo)

    def _caller(self, image: Tensor) -> Callable[[slice], tuple[Tensor, float | None]]:
        def call(_: slice) -> tuple[Tensor, float | None]:
            output = self.network(image.to(self.dtype))
            depth = output.predicted_depth.float()  # [1, h, w]
            angle = getattr(output, "field_of_view", None)
            if not self.inverse or angle is None:
                return depth, None
            fov_deg = float(angle.float().reshape(-1)[0])
            return depth * (2 * math.tan(math.radians(fov_deg) / 2)), fov_deg

        return call

    def _reduced(self, members: NDArray[np.float32]) -> tuple[Plane, Plane | None]:
        """Return the middle of members [E, h, w] and how far they are apart."""
        if self.prediction == "log_depth":
            members = np.exp(members - members.max())
        if len(members) == 1:
            return members[0], None
        if self.prediction != "metric_depth":  # known up to scale and shift
            reduced = reduce_members(members, center="mean")
            return reduced.values, reduced.uncertainty
        middle: Plane = members.mean(axis=0)
        apart = np.abs(members - middle).reshape(len(members), -1)  # [E, h * w]
        return middle, lower_median(apart).reshape(middle.shape)

    def _enlarger(self, rgb: NDArray[np.uint8], *, guided: bool) -> Callable[[Plane], Plane]:
        """Return what brings a map of the network to the size of the photo [H, W, 3]."""
        (height, width), padding = rgb.shape[:2], self.preprocessing.padding((rgb.shape[0], rgb.shape[1]))
        whole = height + 2 * padding[0], width + 2 * padding[1]
        mode = "bilinear" if self.preprocessing.way == "plain" else "bicubic"

        def enlarge(plane: Plane) -> Plane:
            if guided and plane.shape[0] < whole[0] and not any(padding):
                small = Image.fromarray(rgb).resize(plane.shape[::-1], Image.Resampling.BILINEAR)
                return guided_upsample(plane, np.asarray(small), rgb)
            big = functional.interpolate(torch.tensor(plane)[None, None], whole, mode=mode)[0, 0]
            inner: Plane = big[padding[0] :, padding[1] :][:height, :width].numpy()
            return inner

        return enlarge

    def _finished(
        self, plane: Plane, deviation: Plane | None, *, fov_deg: float | None, notes: tuple[str, ...]
    ) -> DepthMap:
        """Turn what the network predicts, at the photo's size, into depth."""
        if self.inverse:
            clamped = np.clip(plane, 1e-4, 1e4)
            plane = np.float32(1) / clamped
            deviation = None if deviation is None else deviation / clamped**2
        meters = None
        if self.prediction == "metric_depth":
            plane = np.maximum(plane, np.float32(LEAST_M))
            meters = float(plane.min()), float(plane.max())
        near, span = plane.min(), max(float(np.ptp(plane)), TINY)
        values = (plane - near) / np.float32(span)  # [H, W] in [0, 1]
        uncertainty = None if deviation is None else deviation / np.float32(span)
        if self.prediction == "affine_disparity":
            c = np.float32(1 / (FAR_NEAR - 1))
            slope = c * (1 + c) / (values + c) ** 2  # of `invert`
            uncertainty = None if uncertainty is None else uncertainty * slope
            values = invert(values)
        return DepthMap(
            values=values,
            uncertainty=uncertainty,
            notes=notes,
            prediction=self.prediction,
            meters=meters,
            fov_deg=fov_deg,
        )


def _reporter(run: Run, number: int, total: int) -> Callable[[int], None]:
    return lambda _: run.report(Progress("predict", number, total))


def _of_long_side(fov_deg: float | None, photo: Size) -> float | None:
    """Return the field of view of a photo's long side, of that of its width."""
    if fov_deg is None:
        return None
    half = math.tan(math.radians(fov_deg) / 2) * max(photo) / photo[1]
    return math.degrees(2 * math.atan(half))


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
