"""Another way of doing what a module does, put in its place and taken off again. Knows no networks."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class StandIn:
    """Does what a method of one module does, in another way, until it is taken off.

    The module's weights stay what they are. What is made of them beforehand has to be made anew after a
    change of them.

    Attributes:
        place: Name of the method.
        module: The one it works for.
    """

    place = "forward"

    def __init__(self, module: Any) -> None:
        self.module = module

    def put(self) -> None:
        """Take the place."""
        setattr(self.module, self.place, self)

    def to(self, target: torch.device | torch.dtype | str) -> None:
        """Bring what was made beforehand to the device or number format that the module went to."""

    def as_ever(self, *args: Any, **named: Any) -> Tensor:
        """Do it the way the module does it by itself."""
        result: Tensor = getattr(type(self.module), self.place)(self.module, *args, **named)
        return result


def stand_ins(network: nn.Module) -> Iterator[StandIn]:
    """Yield all that stand in for modules of a network."""
    for module in network.modules():
        yield from [value for value in vars(module).values() if isinstance(value, StandIn)]


def take_off(network: nn.Module) -> None:
    """Let all modules of a network work as they were made."""
    for stand_in in list(stand_ins(network)):
        vars(stand_in.module).pop(stand_in.place, None)
