"""The losses of training: over latents, and over depth up to scale and shift."""

import torch
from torch import Tensor
from torch.nn import functional

from marigold_demo.training.batches import QUANTILES

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
