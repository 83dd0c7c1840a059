"""DepthPipeline: photo -> DepthMap by encode, denoise, decode, ensemble. Knows nothing of files or widgets.

Marigold (Ke et al., "Repurposing Diffusion-Based Image Generators for Monocular Depth Estimation", CVPR 2024)
on diffusers' networks and schedulers, with the numerics of diffusers' MarigoldDepthPipeline.
"""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers import LCMScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from marigold_demo.depth import DepthMap
from marigold_demo.errors import CheckpointError
from marigold_demo.io.photo import Photo
from marigold_demo.network.defaults import Defaults
from marigold_demo.network.depth_head import depth_decoder
from marigold_demo.network.ensemble import reduce_members
from marigold_demo.network.guided import follow_photo
from marigold_demo.network.image_grid import (
    Grid,
    fit_grid,
    photo_on_grid,
    photo_to_grid,
    reduced,
    resize,
    to_photo_size,
    unpad,
)
from marigold_demo.network.member_batches import batch_size, in_batches
from marigold_demo.network.schedule import make_scheduler
from marigold_demo.network.settling import move, settle
from marigold_demo.network.thrift import Thrift, lavish
from marigold_demo.network.views import choose_views, joined
from marigold_demo.progress import Progress
from marigold_demo.settings import DepthSettings

DENOISE_SHARE, DECODE_SHARE = 256, 32  # what part of a GPU's memory the first layer of a batch may take


@dataclass(frozen=True)
class Condition:
    """What the UNet is told of the photo: its latent [1, 4, h, w] and perhaps features [1, K, h, w]."""

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
        multiple: Both sides of the padded grid are multiples of this many pixels.
    """

    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        scheduler: Any,
        empty_prompt: Tensor,
        defaults: Defaults,
        image_encoder: nn.Module | None = None,
    ) -> None:
        self.unet = unet
        self.vae = vae
        self.scheduler = scheduler
        self.empty_prompt = empty_prompt
        self.defaults = defaults
        self.image_encoder = image_encoder
        self.multiple: int = 2 ** (len(vae.config.block_out_channels) - 1)
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

    def settle(self, device: str = "cpu") -> "DepthPipeline":
        """Make predictions on a device faster; training is over then.

        Weights freeze, constants are folded in. This is done before the networks are moved there with `to`.
        """
        settle(self.networks, unet=self.unet, prompt=self.empty_prompt, device=device)
        return self

    @property
    def networks(self) -> list[Any]:
        """UNet, VAE and, where there is one, the image encoder."""
        return [network for network in (self.unet, self.vae, self.image_encoder) if network is not None]

    def __call__(
        self, photo: Photo, settings: DepthSettings, *, on_step: Callable[[Progress], None] | None = None
    ) -> DepthMap:
        """Estimate the depth of a photo; an exception from `on_step` stops before the next network call."""
        with closing(self.stream(photo, settings)) as stream:
            for item in stream:
                if isinstance(item, DepthMap):
                    return item
                if on_step is not None:
                    on_step(item)
        raise RuntimeError("the stream ended without a depth map")

    @torch.inference_mode()
    def stream(self, photo: Photo, settings: DepthSettings) -> Generator[Progress | DepthMap, None, None]:
        """Yield progress before each network call and the depth map, at photo size, at the end.

        Closing the generator stops before the next network call. The same photo, settings, device and
        number format give the same bytes.

        Raises:
            SettingsError: The scheduler cannot take so many steps.
            CheckpointError: The networks gave numbers that are not finite, in float32 too.
        """
        grid = self._fit_grid(photo, self.longest_edge(photo.size, settings))
        by_chance, count = self.members_differ(settings), settings.ensemble or self.defaults.ensemble
        run = self._members if by_chance or count == 1 else self._views
        layer_bytes = self.layer_bytes(grid.pixels, network=self.vae)
        with lavish(self.device, layer_bytes=layer_bytes):
            members = yield from run(photo, settings, grid=grid)
            if not torch.isfinite(members).all() and self.dtype != torch.float32:
                self.to(torch.float32)  # some cards and checkpoints overflow in 16 bits
                members = yield from run(photo, settings, grid=grid)
        if not torch.isfinite(members).all():
            raise CheckpointError(
                f"The checkpoint {settings.checkpoint} gave depth that is not a number; its weights are "
                "probably damaged. Download it again or choose another one."
            )
        depth = reduce_members(members.cpu().numpy(), center="median" if by_chance else "mean")
        yield DepthMap(
            values=self._at_photo_size(depth.values, photo, settings, grid=grid),
            uncertainty=None if depth.uncertainty is None else to_photo_size(depth.uncertainty, grid),
        )

    def _at_photo_size(
        self, values: NDArray[np.float32], photo: Photo, settings: DepthSettings, *, grid: Grid
    ) -> NDArray[np.float32]:
        outlines = self.defaults.outlines if settings.outlines == "auto" else settings.outlines
        if outlines == "network" or max(grid.inner) >= max(grid.photo):
            return to_photo_size(values, grid)
        return follow_photo(values, photo_on_grid(photo.rgb, grid), photo.rgb)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """Encode rgb [N, 3, PH, PW] in [-1, 1] to image_latent [N, 4, h, w], the mode of its distribution."""
        encoded = self.vae.encode(rgb.to(self.vae.dtype))
        latent = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latent.float() * float(self.vae.config.scaling_factor)  # type: ignore[no-any-return]

    def encode_depth(self, depth: Tensor) -> Tensor:
        """Encode depth [N, 1, PH, PW] in [-1, 1] to depth_latent [N, 4, h, w]: as a grey picture."""
        return self.encode_image(depth.expand(-1, 3, -1, -1))

    def decode_depth(self, latent: Tensor) -> Tensor:
        """Decode depth_latent [N, 4, h, w] to depth [N, 1, PH, PW] in [-1, 1], the mean of three channels."""
        latent = (latent / float(self.vae.config.scaling_factor)).to(self.vae.dtype)
        unquantize = getattr(self.vae, "post_quant_conv", None)
        if unquantize is not None:
            latent = unquantize(latent)
        return self._depth_decoder(latent).clip(-1, 1)  # type: ignore[no-any-return]

    def longest_edge(self, size: tuple[int, int], settings: DepthSettings) -> int:
        """Return the longest edge in pixels that the network sees of a photo."""
        own = settings.resolution is None
        return (self.defaults.longest_edge(size) if own else settings.resolution) or max(size)

    def _fit_grid(self, photo: Photo, resolution: int) -> Grid:
        return fit_grid(photo.rgb.shape[:2], resolution=resolution, multiple=self.multiple)

    def _views(
        self, photo: Photo, settings: DepthSettings, *, grid: Grid
    ) -> Generator[Progress, None, Tensor]:
        """Yield progress; return members that see the photo mirrored and at other sizes, on one grid."""
        count, edge = settings.ensemble or self.defaults.ensemble, self.longest_edge(photo.size, settings)
        views = choose_views(count, resolution=edge, multiple=self.multiple)
        single = replace(settings, ensemble=1)
        small = replace(photo, rgb=reduced(photo.rgb, least_px=2 * max(view.resolution for view in views)))
        mirror = replace(small, rgb=small.rgb[:, ::-1])
        runs = (
            self._members(
                mirror if view.mirrored else small, single, grid=self._fit_grid(photo, view.resolution)
            )
            for view in views
        )
        members = yield from joined(runs, count=len(views))  # [1, *inner] each, of its own size
        pairs = zip(members, views, strict=True)
        turned = [member.flip(-1) if view.mirrored else member for member, view in pairs]
        return torch.cat([resize(member, grid.inner) for member in turned])

    def _members(
        self, photo: Photo, settings: DepthSettings, *, grid: Grid
    ) -> Generator[Progress, None, Tensor]:
        """Yield progress; return the members, float32 [E, *inner], 0 near .. 1 far."""
        steps, count = settings.steps or self.defaults.steps, settings.ensemble or self.defaults.ensemble
        total = 1 + count * steps + count  # encode, denoise, decode

        # 1. The photo on the network's grid, encoded once whatever the number of members.
        rgb = photo_to_grid(photo.rgb, grid, device=self.device)  # [1, 3, PH, PW]
        encoded: list[Condition] = []
        layer_bytes = self.layer_bytes(grid.pixels, network=self.vae)
        thrift = Thrift(self.vae, self._depth_decoder, layer_bytes=layer_bytes)
        run = thrift.applied(lambda _: encoded.append(self._encode_condition(rgb)))
        for _ in in_batches(1, size=1, run=run, relieve=thrift.relieve):
            yield Progress("encode", 0, total)
        condition = encoded[0]

        # 2. Denoised: steps outside, batches inside, so that the noise does not depend on the batches.
        scheduler = make_scheduler(self.scheduler, steps=steps)
        generator = torch.Generator().manual_seed(settings.seed)
        latents = self._start_latents(condition.image_latent, count=count, generator=generator)
        size = self._batch(latents[0, 0].numel(), network=self.unet, share=DENOISE_SHARE)
        for step, t in enumerate(scheduler.timesteps):
            prediction = torch.empty_like(latents)  # [E, 4, h, w]: noise or velocity, the scheduler knows
            run = partial(self._predict, condition, latents, t=t, out=prediction)
            for done in in_batches(count, size=size, run=run):
                yield Progress("denoise", 1 + step * count + done, total)
            latents = scheduler.step(prediction, t, latents, generator=generator).prev_sample

        # 3. Decoded, without the padding.
        members = torch.empty((count, *grid.inner), device=self.device)  # [E, *inner]
        run = thrift.applied(partial(self._decode, latents, grid=grid, out=members))
        size = self._batch(grid.pixels, network=self.vae, share=DECODE_SHARE)
        for done in in_batches(count, size=size, run=run, relieve=thrift.relieve):
            yield Progress("decode", 1 + steps * count + done, total)
        yield Progress("align", total, total)
        return members

    def members_differ(self, settings: DepthSettings) -> bool:
        """Tell whether chance has a part in a prediction."""
        steps = settings.steps or self.defaults.steps
        return self.defaults.start == "noise" or (isinstance(self.scheduler, LCMScheduler) and steps > 1)

    def _batch(self, pixels: int, *, network: Any, share: int) -> int:
        return batch_size(self.layer_bytes(pixels, network=network), device=self.device, share=share)

    def layer_bytes(self, pixels: int, *, network: Any) -> int:
        """Return what the first layer of a network takes for one member."""
        return pixels * int(network.config.block_out_channels[0]) * self.dtype.itemsize

    def _encode_condition(self, rgb: Tensor) -> Condition:
        features = None
        if self.image_encoder is not None:
            features = self.image_encoder(rgb.to(self.dtype))
        return Condition(image_latent=self.encode_image(rgb), features=features)

    def _start_latents(self, image_latent: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
        """Return the first depth latents [E, 4, h, w], drawn on the CPU whatever the device."""
        shape = (count, *image_latent.shape[1:])
        if self.defaults.start == "zeros":
            return torch.zeros(shape, device=self.device)
        return torch.randn(shape, generator=generator).to(self.device)

    def _predict(
        self, condition: Condition, latents: Tensor, batch: slice, *, t: Tensor, out: Tensor
    ) -> None:
        """Let the UNet see photo and depth latents of a batch of members at step t."""
        depth_latent = latents[batch]  # [B, 4, h, w]
        parts = [condition.image_latent, depth_latent, condition.features]
        seen = torch.cat(
            [part.to(self.dtype).expand(len(depth_latent), -1, -1, -1) for part in parts if part is not None],
            dim=1,
        )  # [B, 8 + K, h, w]
        prompt = self.empty_prompt.to(self.dtype).expand(len(seen), -1, -1)  # [B, L, D]
        (out[batch],) = self.unet(seen, t.to(self.device), encoder_hidden_states=prompt, return_dict=False)

    def _decode(self, latents: Tensor, batch: slice, *, grid: Grid, out: Tensor) -> None:
        """Decode a batch of members to [B, *inner], 0 near .. 1 far."""
        out[batch] = unpad(self.decode_depth(latents[batch]), grid)[:, 0].add_(1).div_(2)
