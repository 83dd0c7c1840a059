"""A UNet in bfloat16 that hands on float32 is nearer to the one in float32."""

import pytest
import torch

from marigold_demo.network.precision import FloatNorm, FloatResult, fold_precision
from marigold_demo.network.settling import unsettle
from marigold_demo.network.stand_in import stand_ins, take_off
from tests import toys


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_rounding_less_is_nearer_to_float32():
    latents, prompt = draw(2, 8, 16, 24), draw(2, 2, toys.PROMPT_WIDTH)
    exact = toys.make_unet()(latents, 500, encoder_hidden_states=prompt).sample
    unet = toys.make_unet().bfloat16()
    rounded = unet(latents.bfloat16(), 500, encoder_hidden_states=prompt.bfloat16()).sample
    fold_precision(unet)
    folded = unet(latents.bfloat16(), 500, encoder_hidden_states=prompt.bfloat16()).sample
    assert folded.dtype == torch.float32
    assert (folded - exact).norm() < 0.9 * (rounded - exact).norm()
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.bfloat16}
    take_off(unet)
    assert torch.equal(unet(latents.bfloat16(), 500, encoder_hidden_states=prompt.bfloat16()).sample, rounded)


@torch.no_grad()
def test_settling_for_a_cpu_rounds_less_and_is_undone():
    pipeline = toys.make_pipeline().to(torch.bfloat16)
    latents, prompt = draw(1, 8, 8, 8).bfloat16(), pipeline.empty_prompt
    before = pipeline.unet(latents, 1, encoder_hidden_states=prompt).sample
    pipeline.settle("cpu")
    assert pipeline.dtype == torch.bfloat16
    after = pipeline.unet(latents, 1, encoder_hidden_states=prompt).sample
    assert after.dtype == torch.float32
    assert torch.allclose(after, before.float(), atol=0.05 * float(before.abs().max()))
    unsettle(pipeline.networks)
    assert not list(stand_ins(pipeline.unet))
    assert torch.equal(pipeline.unet(latents, 1, encoder_hidden_states=prompt).sample, before)


@pytest.mark.parametrize(("dtype", "device"), [(torch.float16, "cuda"), (torch.float32, "cpu")])
def test_on_a_gpu_and_in_float32_nothing_is_widened(dtype, device):
    unet = toys.make_pipeline().to(dtype).settle(device).unet
    assert not any(isinstance(stand_in, (FloatResult, FloatNorm)) for stand_in in stand_ins(unet))
    assert {parameter.dtype for parameter in unet.parameters()} == {dtype}
