"""A UNet whose matrix products are in bfloat16 and all else in float32. Knows nothing of depth.

On a CPU only the products are faster in bfloat16: attention is not (measured), and the rest takes no time. To
round what lies between them would be an error without a gain. On GPUs, where it would cost, nothing is done.
"""

from typing import Any

from torch import Tensor, nn

PRODUCTS = (nn.Conv2d, nn.Linear)


def fold_precision(network: nn.Module) -> None:
    """Let a network in 16 bits hand on float32 between its products; `unfold_precision` undoes it."""
    for module in network.modules():
        if type(module) in PRODUCTS and "forward" not in vars(module):
            module.forward = FloatResult(module)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            module.float()


def unfold_precision(network: nn.Module) -> None:
    """Let a network round each result to its own format again."""
    dtype = next(network.parameters()).dtype
    for module in network.modules():
        if isinstance(vars(module).get("forward"), FloatResult):
            vars(module).pop("forward")
    nn.Module.to(network, dtype)


class FloatResult:
    """What one layer does: the product in the format of its weights, whatever comes in, and float32 out."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        """Round, multiply, hand on."""
        module = self.module
        result: Tensor = type(module).forward(module, x.to(module.weight.dtype), *rest, **named)
        return result.float()
