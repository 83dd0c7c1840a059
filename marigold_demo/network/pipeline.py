"""DepthPipeline: photo -> DepthMap by encode, denoise, decode, ensemble.

Marigold (Ke et al., "Repurposing Diffusion-Based Image Generators for Monocular Depth Estimation", CVPR 2024)
on diffusers' networks and schedulers, with the numerics of diffusers' MarigoldDepthPipeline.

Marigold reads depth as the mean of the three decoded color channels (section 3.2). Both the mean and
everything behind the last convolution are linear, so averaging that convolution's filters first gives the
same number and never holds the three channels in memory.
"""

import copy
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from marigold_demo.depth import DepthMap, Progress, Run
from marigold_demo.errors import CheckpointError
from marigold_demo.io.photo import Photo
from marigold_demo.network.cpu import move, optimize
from marigold_demo.network.ensemble import reduce_members
from marigold_demo.network.memory import MemoryFallback, batch_size, in_batches, keep_allocations
from marigold_demo.network.plan import (
    CheckpointDefaults,
    Grid,
    Plan,
    fit_grid,
    guided_upsample,
    longest_edge,
    make_plan,
    make_scheduler,
    photo_on_grid,
    photo_to_grid,
    reduced,
    resize,
    to_photo_size,
    unpad,
)
from marigold_demo.settings import DepthSettings

DENOISE_SHARE, DECODE_SHARE = 256, 32  # what part of a GPU's memory the first layer of a batch may take


@dataclass(frozen=True)
class Condition:
    """What the UNet is conditioned on: latents [N, 4, h, w] and perhaps features [N, K, h, w]."""

    image_latent: Tensor
    features: Tensor | None


class DepthPipeline:
    """A Marigold checkpoint at work.

    Attributes:
        unet: UNet2DConditionModel with cat([image_latent, depth_latent] (+ [features])) as its input.
        vae: AutoencoderKL or AutoencoderTiny.
        scheduler: DDIMScheduler or LCMScheduler; read as a recipe, never stepped itself.
        empty_prompt: Embedding of the empty prompt [1, L, D].
        defaults: Steps, resolution and start of this checkpoint.
        image_encoder: Network rgb [N, 3, PH, PW] -> features [N, K, h, w], or None.
        vae_scale_factor: Pixels of the photo along one side of a latent; both sides of the padded grid are
            multiples of it.
    """

    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        scheduler: Any,
        empty_prompt: Tensor,
        defaults: CheckpointDefaults,
        image_encoder: nn.Module | None = None,
    ) -> None:
        self.unet = unet
        self.vae = vae
        self.scheduler = scheduler
        self.empty_prompt = empty_prompt
        self.defaults = defaults
        self.image_encoder = image_encoder
        self.vae_scale_factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self._depth_decoder = depth_decoder(vae.decoder)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.unet.parameters()).device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the networks; between them all is float32."""
        return next(self.unet.parameters()).dtype  # type: ignore[no-any-return]

    def to(self, target: torch.device | torch.dtype | str) -> "DepthPipeline":
        """Move all networks to a device, or cast them to a number format."""
        move(self.networks, target)
        self.empty_prompt = self.empty_prompt.to(target)
        return self

    def optimize(self, device: str = "cpu") -> "DepthPipeline":
        """Make predictions on a device faster; training is over then.

        Weights freeze, constants are folded in. This is done before the networks are moved there with `to`.
        """
        optimize(self, device)
        return self

    @property
    def networks(self) -> list[Any]:
        """UNet, VAE and, where there is one, the image encoder."""
        return [network for network in (self.unet, self.vae, self.image_encoder) if network is not None]

    def __call__(self, photo: Photo, settings: DepthSettings, run: Run | None = None) -> DepthMap:
        """Estimate the depth of a photo, at its size.

        The same photo, settings, device and number format give the same bytes.

        Args:
            photo: What to estimate the depth of.
            settings: How; what they leave open is up to the checkpoint.
            run: Reports before each network call; may cancel there.

        Raises:
            SettingsError: The scheduler cannot take so many steps, or memory does not suffice.
            CheckpointError: The networks gave numbers that are not finite, in float32 too.
            CancelledError: The run was canceled.
        """
        return self.batch([photo], settings, run)[0]

    @torch.inference_mode()
    def batch(
        self, photos: Sequence[Photo], settings: DepthSettings, run: Run | None = None
    ) -> list[DepthMap]:
        """Estimate the depth of photos of one `batch_key`; on one thread of a CPU, the bytes of one by one.

        Raises:
            DemoError: As `__call__`.
        """
        run, plans = run or Run(), [self.plan(photo.size, settings) for photo in photos]
        rgbs = [_reduced(photo.rgb, plan) for photo, plan in zip(photos, plans, strict=True)]
        grids, views = [self._grids(plan) for plan in plans], plans[0].views
        calls_per_view = len(photos) * plans[0].calls_per_view
        total = len(views) * calls_per_view
        members: list[list[Tensor]] = [[] for _ in photos]
        with keep_allocations(self.device, layer_bytes=self._layer_bytes(plans[0].grid.pixels, self.vae)):
            for number, view in enumerate(views):
                shown = [np.ascontiguousarray(rgb[:, ::-1]) if view.mirrored else rgb for rgb in rgbs]
                calls = _Calls(run, done=number * calls_per_view, total=total)
                seen = self._predict_view(shown, [grid[number] for grid in grids], plans[0], calls)
                for found, part, plan in zip(members, seen, plans, strict=True):
                    found.append(resize(part.flip(-1) if view.mirrored else part, plan.grid.inner))
        run.report(Progress("align", total, total))
        joined = [torch.cat(found) for found in members]  # [E, *inner] each
        if not all(torch.isfinite(part).all() for part in joined):
            if self.dtype != torch.float32:
                self.to(torch.float32)  # some cards and checkpoints overflow in 16 bits
                return self.batch(photos, settings, run)
            raise CheckpointError(
                f"The checkpoint {settings.checkpoint} gave depth that is not a number; its weights are "
                "probably damaged. Download it again or choose another one."
            )
        return [
            _to_depth(*parts) for parts in zip(joined, [photo.rgb for photo in photos], plans, strict=True)
        ]

    def batch_key(self, size: tuple[int, int], settings: DepthSettings) -> Hashable | None:
        """Return what photos of this width and height share with those that go with them; None: with none.

        Noise is drawn for one photo at a time, so only checkpoints without noise take several.
        """
        plan = self.plan(size, settings)
        return None if plan.is_random else tuple(grid.padded for grid in self._grids(plan))

    def plan(self, size: tuple[int, int], settings: DepthSettings) -> Plan:
        """Resolve settings for a photo of this width and height in pixels."""
        return make_plan(
            size, settings, defaults=self.defaults, scheduler=self.scheduler, multiple=self.vae_scale_factor
        )

    def longest_edge(self, size: tuple[int, int], settings: DepthSettings) -> int:
        """Return the longest edge in pixels that the network sees of a photo."""
        return longest_edge(size, settings, defaults=self.defaults)

    def _grids(self, plan: Plan) -> list[Grid]:
        """Return the sizes of each view."""
        step = self.vae_scale_factor
        return [fit_grid(plan.grid.photo, resolution=view.resolution, multiple=step) for view in plan.views]

    def _predict_view(
        self, rgbs: Sequence[NDArray[np.uint8]], grids: Sequence[Grid], plan: Plan, calls: "_Calls"
    ) -> list[Tensor]:
        """Return the members that see one view of each photo: float32 [E, *inner] each, 0 near .. 1 far."""
        photos, steps, grid = len(rgbs), plan.steps, grids[0]
        count = photos * plan.members_per_view
        layer_bytes = self._layer_bytes(grid.pixels, self.vae)
        fallback = MemoryFallback(self.vae, self._depth_decoder, layer_bytes=layer_bytes)

        # 1. Each photo, resized and padded, is encoded once whatever the number of members.
        image = torch.cat(
            [photo_to_grid(rgb, own, device=self.device) for rgb, own in zip(rgbs, grids, strict=True)]
        )  # [N, 3, PH, PW]
        encode = partial(self._encode_condition, image, fallback)
        before = partial(calls.report, "encode", 0)
        size = self._batch_size(grid.pixels, self.vae, share=DECODE_SHARE)
        condition = _joined(in_batches(photos, encode, size=size, before=before, escalate=fallback.escalate))

        # 2. Denoised: steps outside, batches inside, so that the noise does not depend on the batches.
        scheduler = make_scheduler(self.scheduler, steps=steps, spacing=plan.spacing)
        generator = torch.Generator().manual_seed(plan.seed)
        latents = self._start_latents(condition.image_latent, plan, generator=generator)
        size = self._batch_size(latents[0, 0].numel(), self.unet, share=DENOISE_SHARE)
        for step, t in enumerate(scheduler.timesteps):
            predict = partial(self._predict_step, condition, latents, t)
            before = partial(calls.report, "denoise", photos + step * count)
            prediction = torch.cat(in_batches(count, predict, size=size, before=before))  # [E, 4, h, w]
            latents = scheduler.step(prediction, t, latents, generator=generator).prev_sample

        # 3. Decoded to the mean of the three channels, without the padding.
        decode = partial(self._decode, latents, fallback)
        size = self._batch_size(grid.pixels, self.vae, share=DECODE_SHARE)
        before = partial(calls.report, "decode", photos + steps * count)
        depth = torch.cat(
            in_batches(count, decode, size=size, before=before, escalate=fallback.escalate)
        )  # [N * E, 1, PH, PW]
        each = torch.split(depth, plan.members_per_view)
        return [unpad(part, own)[:, 0] for part, own in zip(each, grids, strict=True)]

    def _encode_condition(self, image: Tensor, fallback: MemoryFallback, batch: slice) -> Condition:
        rgb, features = image[batch], None
        with fallback.applied():
            if self.image_encoder is not None:
                features = self.image_encoder(rgb.to(self.dtype))
            return Condition(image_latent=self.encode_image(rgb), features=features)

    def _start_latents(self, image_latent: Tensor, plan: Plan, *, generator: torch.Generator) -> Tensor:
        """Return the first depth latents [N * E, 4, h, w], drawn on the CPU whatever the device."""
        shape = (len(image_latent) * plan.members_per_view, *image_latent.shape[1:])
        if plan.start == "zeros":
            return torch.zeros(shape, device=self.device)
        return torch.randn(shape, generator=generator).to(self.device)

    def _predict_step(self, condition: Condition, latents: Tensor, t: Tensor, batch: slice) -> Tensor:
        """Return noise or velocity, the scheduler knows which, of a batch at step t: float32 [B, 4, h, w]."""
        parts = [condition.image_latent, latents, condition.features]
        seen = torch.cat(
            [
                part.expand(len(latents), -1, -1, -1)[batch].to(self.dtype)
                for part in parts
                if part is not None
            ],
            dim=1,
        )  # [B, 8 + K, h, w]
        prompt = self.empty_prompt.to(self.dtype).expand(len(seen), -1, -1)  # [B, L, D]
        (prediction,) = self.unet(seen, t.to(self.device), encoder_hidden_states=prompt, return_dict=False)
        return prediction.float()  # type: ignore[no-any-return]

    def _decode(self, latents: Tensor, fallback: MemoryFallback, batch: slice) -> Tensor:
        """Decode a batch of members to float32 [B, 1, PH, PW], 0 near .. 1 far."""
        with fallback.applied():
            return self.decode_depth(latents[batch]).add_(1).div_(2)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """Encode rgb [N, 3, PH, PW] in [-1, 1] to image_latent [N, 4, h, w], the mode of its distribution."""
        encoded = self.vae.encode(rgb.to(self.vae.dtype))
        latent = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latent.float() * float(self.vae.config.scaling_factor)  # type: ignore[no-any-return]

    def encode_depth(self, depth: Tensor) -> Tensor:
        """Encode depth [N, 1, PH, PW] in [-1, 1] to depth_latent [N, 4, h, w]: as a gray image."""
        return self.encode_image(depth.expand(-1, 3, -1, -1))

    def decode_depth(self, latent: Tensor) -> Tensor:
        """Decode depth_latent [N, 4, h, w] to depth [N, 1, PH, PW] in [-1, 1], the mean of three channels."""
        latent = (latent / float(self.vae.config.scaling_factor)).to(self.vae.dtype)
        unquantize = getattr(self.vae, "post_quant_conv", None)
        if unquantize is not None:
            latent = unquantize(latent)
        return self._depth_decoder(latent).clip(-1, 1)  # type: ignore[no-any-return]

    def _batch_size(self, pixels: int, network: Any, *, share: int) -> int:
        return batch_size(self._layer_bytes(pixels, network), device=self.device, share=share)

    def _layer_bytes(self, pixels: int, network: Any) -> int:
        """Return what the first layer of a network takes for one member."""
        return pixels * int(network.config.block_out_channels[0]) * self.dtype.itemsize


def _joined(parts: Sequence[Condition]) -> Condition:
    """Return the conditions of several batches of photos as one."""
    features = [part.features for part in parts if part.features is not None]
    latent = torch.cat([part.image_latent for part in parts])
    return Condition(latent, torch.cat(features) if features else None)


def _reduced(rgb: NDArray[np.uint8], plan: Plan) -> NDArray[np.uint8]:
    """Return what the views are made of: the photo, or a smaller one where there are several views."""
    if len(plan.views) == 1:
        return rgb
    return reduced(rgb, least_px=2 * max(view.resolution for view in plan.views))


def _to_depth(members: Tensor, rgb: NDArray[np.uint8], plan: Plan) -> DepthMap:
    """Reduce the members [E, *inner] of a photo [H, W, 3] to its depth."""
    depth = reduce_members(members.cpu().numpy(), center="median" if plan.is_random else "mean")
    if plan.guided:
        values = guided_upsample(depth.values, photo_on_grid(rgb, plan.grid), rgb)
    else:
        values = to_photo_size(depth.values, plan.grid)
    uncertainty = None if depth.uncertainty is None else to_photo_size(depth.uncertainty, plan.grid)
    return DepthMap(values=values, uncertainty=uncertainty, notes=plan.notes)


@dataclass(frozen=True)
class _Calls:
    """The network calls of one view among those of a prediction."""

    run: Run
    done: int  # calls of the views before
    total: int

    def report(self, stage: str, first: int, done: int) -> None:
        """Report that `first + done` calls of this view are finished; may raise CancelledError."""
        self.run.report(Progress(stage, self.done + first + done, self.total))


class MeanConv(nn.Module):
    """A convolution whose output is the mean over another one's output channels, computed in float32.

    The filters are averaged at each call, so it follows the other one through training, casts and moves.
    """

    row_halo = 1  # rows beyond a chunk that `memory.in_row_chunks` has to show

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, C, PH, PW] to float32 [B, 1, PH, PW]."""
        weight = self.conv.weight.float().mean(dim=0, keepdim=True)  # [1, C, 3, 3]
        bias = None if self.conv.bias is None else self.conv.bias.float().mean(dim=0, keepdim=True)  # [1]
        return functional.conv2d(
            features.float(), weight, bias, stride=self.conv.stride, padding=self.conv.padding
        )


def depth_decoder(decoder: Any) -> Any:
    """Return a decoder [B, 4, h, w] -> [B, 1, PH, PW] that shares all weights with the given one.

    Args:
        decoder: The `decoder` of an AutoencoderKL or an AutoencoderTiny.
    """
    shared = copy.copy(decoder)
    shared._modules = dict(decoder._modules)  # own table of the same submodules
    if hasattr(decoder, "conv_out"):  # AutoencoderKL
        shared.conv_out = MeanConv(decoder.conv_out)
    else:  # AutoencoderTiny
        layers = list(decoder.layers)
        shared.layers = nn.Sequential(*layers[:-1], MeanConv(layers[-1]))
    return shared
