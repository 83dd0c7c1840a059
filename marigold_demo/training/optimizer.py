"""What moves the weights: Adam in its kinds, the learning rate over time, and the average of the weights."""

import importlib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from marigold_demo.errors import SettingsError
from marigold_demo.training import TrainSettings

BETA1 = 0.9


def make_optimizer(
    groups: list[dict[str, Any]], settings: TrainSettings, *, device: torch.device
) -> torch.optim.Optimizer:
    """Return the optimizer of the settings over groups of weights, fused where the device has that.

    Raises:
        SettingsError: It has 8 bits, and bitsandbytes is not installed or there is no CUDA.
    """
    betas, decay = (BETA1, settings.beta2), settings.weight_decay
    if settings.optimizer.endswith("8bit"):
        try:
            library = importlib.import_module("bitsandbytes")
        except ImportError as error:
            raise SettingsError(
                f"optimizer {settings.optimizer} needs bitsandbytes; pip install bitsandbytes, or take adam."
            ) from error
        if device.type != "cuda":
            raise SettingsError(f"optimizer {settings.optimizer} runs on CUDA only; take adam.")
        kind = library.optim.Adam8bit if settings.optimizer == "adam8bit" else library.optim.AdamW8bit
        optimizer: torch.optim.Optimizer = kind(groups, betas=betas, weight_decay=decay)
        return optimizer
    how = {"fused": True} if device.type == "cuda" else {"foreach": True}  # foreach copies all gradients
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=betas, weight_decay=decay, **how)
    return torch.optim.Adam(groups, betas=betas, weight_decay=decay, **how)


def learning_rate_share(step: int, *, steps: int, warmup: int, final: float) -> float:
    """Return the share of the largest learning rate: a linear rise, exponential decay, then constant.

    Args:
        step: Steps done before.
        steps: After so many the share is `final`.
        warmup: Steps of the rise.
        final: The share at the end.
    """
    warmup = min(warmup, steps)
    if step < warmup:
        return (step + 1) / warmup
    return math.exp(math.log(final) * min(1.0, (step - warmup) / max(1, steps - warmup)))


class Average:
    """Averaged copies of weights; young averages forget faster, so that the start does not linger.

    With a decay of 0 there is no average: nothing is copied, and the weights themselves are shown.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, decay: float) -> None:
        self.decay = decay
        self.parameters = list(parameters) if decay else []
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after step 1, 2, ..."""
        if not self.values:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Put the average in the place of the weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for parameter, value in zip(self.parameters, self.values, strict=True):
            weight = parameter.clone()  # one at a time, for the memory
            parameter.copy_(value)
            value.copy_(weight)

    @torch.no_grad()
    def write_back(self) -> None:
        """Leave the average in the place of the weights."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.copy_(value)
