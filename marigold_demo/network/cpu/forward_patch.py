"""ForwardPatch: another way of computing what a module computes, installed in its place and removed again."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class ForwardPatch:
    """Replaces a method of one module by another way of computing the same, until it is removed.

    The module's weights stay as they are. What a patch computes from them when it is made is out of date
    after a change of them.

    Attributes:
        method: Name of the method.
        module: Whose method it is.
    """

    method = "forward"

    def __init__(self, module: Any) -> None:
        self.module = module

    def install(self) -> None:
        """Replace the method."""
        setattr(self.module, self.method, self)

    def to(self, target: torch.device | torch.dtype | str) -> None:
        """Move or cast what was computed beforehand, as the module is moved or cast."""

    def original(self, *args: Any, **named: Any) -> Tensor:
        """Call the method that was replaced."""
        result: Tensor = getattr(type(self.module), self.method)(self.module, *args, **named)
        return result


def patches_of(network: nn.Module) -> Iterator[ForwardPatch]:
    """Yield all patches of a network's modules."""
    for module in network.modules():
        yield from [value for value in vars(module).values() if isinstance(value, ForwardPatch)]


def remove_patches(network: nn.Module) -> None:
    """Remove all patches of a network."""
    for patch in list(patches_of(network)):
        vars(patch.module).pop(patch.method, None)
