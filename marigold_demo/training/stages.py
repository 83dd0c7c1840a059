"""Stages of training with their losses and noise: what is trained, on which batch, against which loss."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from marigold_demo.network.pipeline import DepthPipeline
from marigold_demo.network.plan import make_scheduler
from marigold_demo.training import Loss, Noise
from marigold_demo.training.batches import QUANTILES, Batch

GRADIENT_SCALES = 4
NEAREST = 0.05  # depth below this share of its median counts as this much, so that 1/depth stays bounded


def masked_latent_loss(prediction: Tensor, target: Tensor, *, valid: Tensor) -> Tensor:
    """Mean square error of latents [B, 4, h, w] where all 8x8 pixels of valid [B, 1, PH, PW] are known."""
    factor = valid.shape[-1] // prediction.shape[-1]
    known = 1 - functional.max_pool2d(1 - valid.float(), factor)  # [B, 1, h, w]
    weight = known.expand_as(prediction)
    error = (prediction.float() - target.float()).square() * weight
    return error.sum() / weight.sum().clamp(min=1)


def align(prediction: Tensor, target: Tensor, *, valid: Tensor) -> Tensor:
    """Fit each prediction [B, 1, H, W] to its target by least squares over valid pixels; return it fitted.

    Garcia et al. 2024, eq. (5). Scale and shift are differentiated through.
    """
    weight = valid.float()
    count = weight.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)  # [B, 1, 1, 1]
    mean_x = (prediction * weight).sum(dim=(1, 2, 3), keepdim=True) / count
    mean_y = (target * weight).sum(dim=(1, 2, 3), keepdim=True) / count
    x = (prediction - mean_x) * weight
    y = (target - mean_y) * weight
    scale = (x * y).sum(dim=(1, 2, 3), keepdim=True) / (
        x.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-6 * count
    )
    return (prediction - mean_x) * scale + mean_y  # [B, 1, H, W]


def affine_invariant_loss(prediction: Tensor, depth: Tensor, *, valid: Tensor) -> Tensor:
    """Mean absolute error relative to depth after the best scale and shift: AbsRel as a loss.

    Args:
        prediction: [B, 1, H, W], any affine copy of depth is perfect.
        depth: [B, 1, H, W] > 0 in any unit.
        valid: [B, 1, H, W], what counts.

    Returns:
        One number; pictures without a valid pixel count nothing.
    """
    fitted = align(prediction, depth, valid=valid)
    floor = NEAREST * _masked_median(depth, valid)
    error = (fitted - depth).abs() / torch.maximum(depth, floor)
    return _mean_of_pictures(error, valid)


def affine_l1_loss(prediction: Tensor, depth: Tensor, *, valid: Tensor) -> Tensor:
    """Mean absolute error of all valid pixels after the best scale and shift (Garcia et al. 2024, eq. (4)).

    Args:
        prediction: [B, 1, H, W]; cut to [-1, 1].
        depth: [B, 1, H, W] in any unit; cut to its 2 % and 98 % quantiles in each picture.
        valid: [B, 1, H, W], what counts.
    """
    hidden = depth.masked_fill(~valid, torch.nan).flatten(1)  # [B, H * W]
    near, far = torch.nanquantile(hidden, depth.new_tensor(QUANTILES), dim=1).nan_to_num(1.0)  # each [B]
    target = depth.clamp(near[:, None, None, None], far[:, None, None, None])
    fitted = align(prediction.clamp(-1, 1), target, valid=valid)
    weight = valid.float()
    return ((fitted - target).abs() * weight).sum() / weight.sum().clamp(min=1)


def gradient_loss(prediction: Tensor, target: Tensor, *, valid: Tensor) -> Tensor:
    """Mean absolute difference of gradients at several scales (Ranftl et al. 2022, eq. 11): sharp edges."""
    total = prediction.new_zeros(())
    for level in range(GRADIENT_SCALES):
        step = 2**level
        error = (prediction - target)[..., ::step, ::step]
        known = valid[..., ::step, ::step]
        for axis in (-1, -2):
            if error.shape[axis] < 2:
                continue
            both = known.narrow(axis, 1, known.shape[axis] - 1) & known.narrow(axis, 0, known.shape[axis] - 1)
            total = total + _mean_of_pictures(error.diff(dim=axis).abs(), both)
    return total / GRADIENT_SCALES


def sky_loss(prediction: Tensor, *, sky: Tensor, far: float = 1.0) -> Tensor:
    """Hinge: how much nearer than the far end the sky [B, 1, H, W] is predicted; farther costs nothing."""
    return _mean_of_pictures((far - prediction).clamp(min=0), sky)


def _masked_median(depth: Tensor, valid: Tensor) -> Tensor:
    hidden = depth.masked_fill(~valid, torch.nan).flatten(1)
    return hidden.nanmedian(dim=1).values.nan_to_num(1.0)[:, None, None, None]  # [B, 1, 1, 1]


def _mean_of_pictures(error: Tensor, valid: Tensor) -> Tensor:
    """Average over valid pixels of each picture, then over the pictures that have any."""
    weight = valid.float()
    count = weight.sum(dim=(1, 2, 3))  # [B]
    means = (error * weight).sum(dim=(1, 2, 3)) / count.clamp(min=1)
    some = (count > 0).float()
    return (means * some).sum() / some.sum().clamp(min=1)


STRENGTH = 0.9
MOST_LEVELS = 10


def multi_resolution_noise(
    like: Tensor, *, strength: Tensor | float = STRENGTH, generator: torch.Generator | None = None
) -> Tensor:
    """Draw noise [B, C, h, w] of unit variance with more low frequencies than white noise has.

    Args:
        like: A tensor of the shape wanted.
        strength: Weight of each coarser level relative to the one before, 0 (white) to 1; one number or [B].
        generator: Random generator.
    """
    batch, channels, height, width = like.shape
    power = torch.as_tensor(strength, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(batch, 1, 1, 1)
    noise = torch.zeros(batch, channels, height, width)
    variance = torch.zeros(batch, 1, 1, 1)
    for level in range(MOST_LEVELS):
        size = (max(1, height // 2**level), max(1, width // 2**level))
        coarse = torch.randn(batch, channels, *size, generator=generator)
        enlarged = functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
        weight = power**level
        noise += weight * enlarged
        variance += weight**2 * _variance_of_enlarged(size, (height, width))
        if min(size) == 1:
            break
    return (noise / variance.sqrt()).to(like.device)  # [B, C, h, w]


def _variance_of_enlarged(size: tuple[int, int], target: tuple[int, int]) -> float:
    """Return the mean variance of white noise of one size after bilinear enlargement to another."""
    return _line_variance(size[0], target[0]) * _line_variance(size[1], target[1])


def _line_variance(length: int, target: int) -> float:
    lines = torch.eye(length).unsqueeze(1)  # [length, 1, length], one unit impulse a row
    weights = functional.interpolate(
        lines, size=target, mode="linear", align_corners=False
    )  # [length, 1, target]
    return float(weights.square().sum(dim=0).mean())


def original_noise(
    like: Tensor, *, strength: Tensor | float = STRENGTH, generator: torch.Generator | None = None
) -> Tensor:
    """Draw noise as the released trainer of Marigold does ("original" strategy, Ke et al. 2024, section 3.3).

    Onto white noise comes one more level of full size, then levels that shrink by 2 to 4 (drawn anew) to the
    power of the level; the sum is divided by its standard deviation over the whole batch.

    Args:
        like: A tensor of the shape wanted [B, C, h, w].
        strength: Weight of each level relative to the one before; one number or [B].
        generator: Random generator.
    """
    batch, channels, height, width = like.shape
    power = torch.as_tensor(strength, dtype=torch.float32).reshape(-1, 1, 1, 1)
    noise = torch.randn(batch, channels, height, width, generator=generator)
    size = (height, width)
    for level in range(MOST_LEVELS):
        shrink = (2 + 2 * float(torch.rand(1, generator=generator))) ** level
        size = (max(1, int(size[0] / shrink)), max(1, int(size[1] / shrink)))
        coarse = torch.randn(batch, channels, *size, generator=generator)
        noise += power**level * functional.interpolate(coarse, size=(height, width), mode="bilinear")
        if min(size) == 1:
            break
    return (noise / noise.std()).to(like.device)  # [B, C, h, w]


NOISES: Mapping[str, Callable[..., Tensor]] = {"doubling": multi_resolution_noise, "original": original_noise}


def annealed_noise(
    like: Tensor,
    t: Tensor,
    *,
    train_steps: int,
    kind: str = "doubling",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw noise [B, C, h, w] for timesteps t [B]: multi-resolution at t = T, nearly white at t = 0."""
    return NOISES[kind](like, strength=STRENGTH * t.float().cpu() / train_steps, generator=generator)


LATENT_NOISE = 0.05  # the decoder learns to forgive the UNet this much
LATENT_WEIGHT = 1e-3  # pull of the latents towards zero, in place of a KL divergence
GRADIENT_WEIGHT = 0.5
ANCHOR_WEIGHT = 0.3  # keeps the prediction in the range that the decoder can show
SKY_WEIGHT = 0.3


class Stage(nn.Module):
    """A loss over some networks of a pipeline.

    Attributes:
        name: What the log calls it.
        trained: The networks whose weights move.
    """

    name: str

    def __init__(self, pipeline: DepthPipeline, *, trained: list[nn.Module]) -> None:
        super().__init__()
        self.trained = nn.ModuleList(trained)
        self.pipeline = pipeline  # not a module: its networks are registered through `trained` and `frozen`
        networks = [pipeline.unet, pipeline.vae, pipeline.image_encoder]
        self.frozen = nn.ModuleList(n for n in networks if n is not None and n not in trained)
        self.frozen.requires_grad_(False).eval()
        self.trained.requires_grad_(True).train()

    def checkpoint_gradients(self) -> None:
        """Keep the inputs of blocks for the backward pass, and work out what is inside them once more there.

        The UNet and, where gradients go through it, the VAE's decoder. Takes about a third more time.
        """
        self.pipeline.unet.enable_gradient_checkpointing()
        for block in self.pipeline.vae.decoder.modules():
            if isinstance(block, ResnetBlock2D | AutoencoderTinyBlock):
                _work_out_twice(block)

    def networks_state(self) -> dict[str, Any]:
        """Return the weights of all networks of the pipeline, and the scale of the latents."""
        pipeline = self.pipeline
        state = {"unet": pipeline.unet.state_dict(), "vae": pipeline.vae.state_dict()}
        if pipeline.image_encoder is not None:
            state["image_encoder"] = pipeline.image_encoder.state_dict()
        return {**state, "scaling_factor": float(pipeline.vae.config.scaling_factor)}

    def train(self, mode: bool = True) -> "Stage":
        """Set the mode of what is trained; what is frozen stays in evaluation mode."""
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, batch: Batch, seed: int) -> Tensor:
        """Return the loss of a batch; the seed starts the noise."""
        raise NotImplementedError


def _work_out_twice(block: Any) -> None:
    """Keep only the input of one block; diffusers' own granularity, several blocks, takes 3 GiB more."""
    forward = block.forward

    def again(*inputs: Any, **others: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **others)
        return checkpoint(forward, *inputs, use_reentrant=False, **others)

    block.forward = again


def load_networks(pipeline: DepthPipeline, state: dict[str, Any]) -> None:
    """Put the weights that `networks_state` gave back into a pipeline."""
    pipeline.unet.load_state_dict(state["unet"])
    pipeline.vae.load_state_dict(state["vae"])
    if pipeline.image_encoder is not None:
        pipeline.image_encoder.load_state_dict(state["image_encoder"])
    pipeline.vae.register_to_config(scaling_factor=state["scaling_factor"])


class VaeStage(Stage):
    """The VAE shows photos and depth again."""

    name = "vae"

    def __init__(self, pipeline: DepthPipeline) -> None:
        super().__init__(pipeline, trained=[pipeline.vae])

    def forward(self, batch: Batch, seed: int) -> Tensor:
        """Return L1 of pictures and of their gradients, plus a small pull of the latents to zero."""
        pictures = torch.cat([batch.photo, batch.normal_depth.expand(-1, 3, -1, -1)])  # [2B, 3, PH, PW]
        vae = self.pipeline.vae
        latents = _encode(vae, pictures)  # [2B, 4, h, w]
        noise = torch.randn(latents.shape, generator=_generator(seed)).to(latents.device)
        shown = vae.decode(latents + LATENT_NOISE * noise).sample.float()  # [2B, 3, PH, PW]
        everywhere = torch.ones_like(pictures, dtype=torch.bool)
        error = (shown - pictures).abs().mean()
        edges = gradient_loss(shown, pictures, valid=everywhere)
        loss: Tensor = error + GRADIENT_WEIGHT * edges + LATENT_WEIGHT * latents.float().square().mean()
        return loss

    @torch.no_grad()
    def set_scale(self, batch: Batch) -> None:
        """Set the VAE's scaling factor so that the depth latents have unit variance."""
        latents = _encode(self.pipeline.vae, batch.normal_depth.expand(-1, 3, -1, -1))
        self.pipeline.vae.register_to_config(scaling_factor=1 / max(float(latents.std()), 1e-6))


class DiffusionStage(Stage):
    """The UNet learns to denoise depth latents (Ke et al. 2024, section 3.3)."""

    name = "diffusion"

    def __init__(
        self, pipeline: DepthPipeline, *, noise: Noise = "doubling", masks_sky: bool = False
    ) -> None:
        super().__init__(pipeline, trained=[pipeline.unet])
        self.noise: Noise = noise
        self.masks_sky = masks_sky

    def forward(self, batch: Batch, seed: int) -> Tensor:
        """Return the masked latent loss at random timesteps under annealed multi-resolution noise."""
        pipeline, scheduler = self.pipeline, self.pipeline.scheduler
        generator = _generator(seed)
        with torch.no_grad():
            image_latent = pipeline.encode_image(batch.photo)  # [B, 4, h, w]
            depth_latent = pipeline.encode_depth(batch.normal_depth)  # [B, 4, h, w]
            features = _features(pipeline, batch.photo)
        train_steps = int(scheduler.config.num_train_timesteps)
        t = torch.randint(0, train_steps, (len(depth_latent),), generator=generator)  # [B]
        noise = annealed_noise(depth_latent, t, train_steps=train_steps, kind=self.noise, generator=generator)
        t = t.to(depth_latent.device)
        noisy = scheduler.add_noise(depth_latent, noise, t)  # [B, 4, h, w]
        is_velocity = scheduler.config.prediction_type == "v_prediction"
        target = scheduler.get_velocity(depth_latent, noise, t) if is_velocity else noise
        prediction = predict(pipeline, image_latent, noisy, t=t, features=features)
        valid = batch.valid if self.masks_sky else batch.valid | batch.sky
        return masked_latent_loss(prediction, target, valid=valid)


class EndToEndStage(Stage):
    """One step from zeros, decoded, compared with depth up to scale and shift (Garcia et al. 2024)."""

    name = "end_to_end"

    def __init__(
        self,
        pipeline: DepthPipeline,
        *,
        train_encoder: bool = False,
        train_decoder: bool = False,
        loss: Loss = "full",
    ) -> None:
        trained: list[nn.Module] = [pipeline.unet]
        if train_encoder and pipeline.image_encoder is not None:
            trained.append(pipeline.image_encoder)
        if train_decoder:
            trained.append(pipeline.vae.decoder)
        super().__init__(pipeline, trained=trained)
        self.train_encoder = train_encoder
        self.loss: Loss = loss
        take_one_step_from_zeros(pipeline)

    def forward(self, batch: Batch, seed: int) -> Tensor:
        """Return the affine-invariant loss; full: with edges, sky and the anchor to the decoder's range."""
        depth = self.predict(batch.photo)  # [B, 1, PH, PW]
        if self.loss == "affine":
            return affine_l1_loss(depth, batch.depth, valid=batch.valid)
        fitted = align(depth, batch.normal_depth, valid=batch.valid)
        anchor = (depth - batch.normal_depth).abs().masked_fill(~batch.valid, 0).mean()
        return (
            affine_invariant_loss(depth, batch.depth, valid=batch.valid)
            + GRADIENT_WEIGHT * gradient_loss(fitted, batch.normal_depth, valid=batch.valid)
            + ANCHOR_WEIGHT * anchor
            + SKY_WEIGHT * sky_loss(depth, sky=batch.sky)
        )

    def predict(self, photo: Tensor) -> Tensor:
        """Predict depth [B, 1, PH, PW], not clipped, of photos [B, 3, PH, PW] in one step from zeros."""
        pipeline = self.pipeline
        with torch.no_grad():
            image_latent = pipeline.encode_image(photo)
        with torch.set_grad_enabled(self.train_encoder and torch.is_grad_enabled()):
            features = _features(pipeline, photo)
        zeros = torch.zeros_like(image_latent)
        scheduler = make_scheduler(pipeline.scheduler, steps=1)
        (step,) = scheduler.timesteps
        t = step.to(photo.device).expand(len(photo))  # [B]
        prediction = predict(pipeline, image_latent, zeros, t=t, features=features)
        latent = scheduler.step(prediction, step, zeros).prev_sample  # [B, 4, h, w]
        shown = pipeline.vae.decode(
            latent / float(pipeline.vae.config.scaling_factor)
        ).sample  # [B, 3, PH, PW]
        depth: Tensor = shown.float().mean(dim=1, keepdim=True)
        return depth


def predict(
    pipeline: DepthPipeline, image_latent: Tensor, depth_latent: Tensor, *, t: Tensor, features: Tensor | None
) -> Tensor:
    """Let the UNet see image and depth latents [B, 4, h, w] at timesteps t [B]: [B, 4, h, w]."""
    parts = [image_latent, depth_latent] + ([features] if features is not None else [])
    prompt = pipeline.empty_prompt.to(image_latent.device).expand(len(image_latent), -1, -1)
    seen = torch.cat([part.float() for part in parts], dim=1).contiguous(memory_format=torch.channels_last)
    return pipeline.unet(seen, t, encoder_hidden_states=prompt).sample.float()  # type: ignore[no-any-return]


def take_one_step_from_zeros(pipeline: DepthPipeline) -> None:
    """Let a pipeline start from zeros in one step at the last timestep, in training and wherever it is saved.

    Leading spacing, which Marigold v1-0 has, would begin a single step at t = 1.
    """
    scheduler = pipeline.scheduler
    if isinstance(scheduler, DDIMScheduler):
        pipeline.scheduler = DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing")
    pipeline.defaults = replace(pipeline.defaults, steps=1, start="zeros")


def _features(pipeline: DepthPipeline, photo: Tensor) -> Tensor | None:
    if pipeline.image_encoder is None:
        return None
    features: Tensor = pipeline.image_encoder(photo.contiguous(memory_format=torch.channels_last))
    return features  # [B, K, h, w]


def _encode(vae: Any, pictures: Tensor) -> Tensor:
    encoded = vae.encode(pictures.contiguous(memory_format=torch.channels_last))
    latents: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    return latents  # [B, 4, h, w]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
