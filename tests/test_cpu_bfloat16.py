"""A UNet in bfloat16 that hands on float32 is nearer to the one in float32."""

import pytest
import torch

from marigold_demo.network.cpu import FloatNorm, FloatResult, keep_float32_between_products, restore
from marigold_demo.network.cpu.patches import patches_of, remove_patches
from tests import toys


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_rounding_less_is_nearer_to_float32():
    latents, prompt = draw(2, 8, 16, 24), draw(2, 2, toys.PROMPT_WIDTH)
    exact = toys.make_unet()(latents, 500, encoder_hidden_states=prompt).sample
    unet = toys.make_unet().bfloat16()
    rounded = unet(latents.bfloat16(), 500, encoder_hidden_states=prompt.bfloat16()).sample
    keep_float32_between_products(unet)
    folded = unet(latents.bfloat16(), 500, encoder_hidden_states=prompt.bfloat16()).sample
    assert folded.dtype == torch.float32
    assert (folded - exact).norm() < 0.9 * (rounded - exact).norm()
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.bfloat16}
    remove_patches(unet)
    assert torch.equal(unet(latents.bfloat16(), 500, encoder_hidden_states=prompt.bfloat16()).sample, rounded)


@torch.no_grad()
def test_settling_for_a_cpu_rounds_less_and_is_undone():
    pipeline = toys.make_pipeline().to(torch.bfloat16)
    latents, prompt = draw(1, 8, 8, 8).bfloat16(), pipeline.empty_prompt
    before = pipeline.unet(latents, 1, encoder_hidden_states=prompt).sample
    pipeline.optimize("cpu")
    assert pipeline.dtype == torch.bfloat16
    after = pipeline.unet(latents, 1, encoder_hidden_states=prompt).sample
    assert after.dtype == torch.float32
    assert torch.allclose(after, before.float(), atol=0.05 * float(before.abs().max()))
    restore(pipeline.networks)
    assert not list(patches_of(pipeline.unet))
    assert torch.equal(pipeline.unet(latents, 1, encoder_hidden_states=prompt).sample, before)


@pytest.mark.parametrize(("dtype", "device"), [(torch.float16, "cuda"), (torch.float32, "cpu")])
def test_on_a_gpu_and_in_float32_nothing_is_widened(dtype, device):
    unet = toys.make_pipeline().to(dtype).optimize(device).unet
    assert not any(isinstance(patch, (FloatResult, FloatNorm)) for patch in patches_of(unet))
    assert {parameter.dtype for parameter in unet.parameters()} == {dtype}
