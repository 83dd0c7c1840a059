"""The exponential moving average of weights. Knows nothing of what the weights are for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Averaged copies of weights; young averages forget faster, so that the start does not linger."""

    def __init__(self, parameters: Sequence[nn.Parameter], *, decay: float) -> None:
        self.decay = decay
        self.parameters = list(parameters)
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the weights after step 1, 2, ..."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Put the average in the place of the weights for a while."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
        self._write(self.values)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def write_back(self) -> None:
        """Leave the average in the place of the weights."""
        self._write(self.values)
