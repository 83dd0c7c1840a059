"""Convolutions on packed weights give what torch's own give."""

import pytest
import torch
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from marigold_demo.network.cpu import patches, restore
from marigold_demo.network.cpu.patches import FusedTinyBlock, PackedConv, pack_convolutions, patches_of
from marigold_demo.network.image_encoder import SameConv
from tests import toys

pytestmark = pytest.mark.skipif(not patches.can_pack(), reason="torch has no oneDNN for x86 here")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_conv(*channels, **choices):
    torch.manual_seed(0)
    return nn.Conv2d(*channels, **choices).eval().requires_grad_(False)


@settings(max_examples=80, deadline=None)
@given(
    inputs=st.integers(1, 24),
    outputs=st.integers(1, 24),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    batch=st.integers(1, 3),
    groups=st.sampled_from(["one", "each"]),
    bias=st.booleans(),
    padded=st.booleans(),
    last=st.booleans(),
)
@torch.no_grad()
def test_packed_convolutions_equal_convolutions(
    inputs, outputs, kernel, stride, dilation, height, width, batch, groups, bias, padded, last
):
    reach = dilation * (kernel - 1)
    padding = reach // 2 if padded else 0
    assume(min(height, width) + 2 * padding > reach)
    conv = make_conv(
        inputs,
        inputs if groups == "each" else outputs,
        kernel_size=kernel,
        stride=stride,
        dilation=dilation,
        padding=padding,
        bias=bias,
        groups=inputs if groups == "each" else 1,
    )
    x = draw(batch, inputs, height, width)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    expected = conv(x)
    PackedConv(conv).install()
    result = conv(x)
    assert result.shape == expected.shape
    assert torch.allclose(result, expected, atol=2e-5)
    assert torch.allclose(conv(torch.cat([x, -x], dim=3)), nn.Conv2d.forward(conv, torch.cat([x, -x], dim=3)))


@torch.no_grad()
def test_a_convolution_that_pads_by_itself_still_does():
    torch.manual_seed(0)
    conv = SameConv(6, 8, kernel=3, stride=2)
    x = draw(1, 6, 9, 12)
    expected = conv(x)
    pack_convolutions(conv.requires_grad_(False))
    assert isinstance(conv._conv_forward, PackedConv)
    assert torch.allclose(conv(x), expected, atol=1e-5)
    assert conv(x).shape == (1, 8, 5, 6)


@torch.no_grad()
def test_relu6_is_part_of_a_convolution_that_asks_for_it():
    torch.manual_seed(0)
    conv = SameConv(6, 8, kernel=3, relu6=True).requires_grad_(False)
    x = 9 * draw(1, 6, 9, 12)
    expected = conv(x)
    assert expected.min() == 0
    assert expected.max() == 6
    pack_convolutions(conv)
    assert torch.allclose(conv(x), expected, atol=1e-5)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 5), (5, 7)])
@torch.no_grad()
def test_blocks_of_a_tiny_vae(inputs, outputs):
    torch.manual_seed(0)
    block = AutoencoderTinyBlock(inputs, outputs, "relu").requires_grad_(False)
    x = draw(2, inputs, 11, 13)
    expected, kept = block(x), x.clone()
    pack_convolutions(block)
    assert isinstance(block.forward, FusedTinyBlock)
    assert torch.allclose(block(x), expected, atol=1e-5)
    assert torch.equal(x, kept)  # the sum is another map
    block.double()
    assert torch.allclose(block(x.double()).float(), expected, atol=1e-5)


def test_a_tiny_vae_with_another_activation_is_left_as_it_is():
    block = AutoencoderTinyBlock(4, 4, "gelu").requires_grad_(False)
    x = draw(1, 4, 6, 5)
    expected = block(x)
    pack_convolutions(block)
    assert "forward" not in vars(block)
    assert torch.allclose(block(x), expected, atol=1e-5)


@torch.no_grad()
def test_what_comes_out_is_laid_out_for_the_next_convolution():
    conv = make_conv(16, 16, kernel_size=3, padding=1)
    pack_convolutions(conv)
    for size in [(6, 8), (40, 30)]:
        x = draw(1, 16, *size).contiguous(memory_format=torch.channels_last)
        assert conv(x).is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_after_a_cast_the_weights_are_the_modules_own():
    conv = make_conv(4, 4, kernel_size=3, padding=1)
    x = draw(1, 4, 5, 5).double()
    pack_convolutions(conv)
    assert torch.equal(conv.double()(x), nn.Conv2d.forward(conv, x))
    assert conv.to("meta").float()(torch.empty(1, 4, 7, 5, device="meta")).shape == (1, 4, 7, 5)


@pytest.mark.parametrize("change", ["large", "bfloat16", "no oneDNN", "reflecting", "same", "valid"])
def test_other_convolutions_are_left_alone(change, monkeypatch):
    padding = change if change in ("same", "valid") else 1
    padding_mode = "reflect" if change == "reflecting" else "zeros"
    conv = make_conv(4, 4, kernel_size=3, padding=padding, padding_mode=padding_mode)
    if change == "large":
        monkeypatch.setattr(patches, "MOST_BYTES", 4 * (4 * 4 * 9 + 4) - 1)
    if change == "bfloat16":
        conv.bfloat16()
    if change == "no oneDNN":
        monkeypatch.setattr(patches, "can_pack", lambda: False)
    pack_convolutions(conv)
    assert not list(patches_of(conv))


def test_an_optimized_pipeline_packs_all_its_networks_and_is_restored(monkeypatch):
    pipeline = toys.make_pipeline()
    before = {name: weight.clone() for name, weight in pipeline.unet.state_dict().items()}
    pipeline.optimize("cpu")
    for network in pipeline.networks:
        convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        assert convolutions
        assert all(isinstance(module._conv_forward, PackedConv) for module in convolutions)
    after = pipeline.unet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    restore(pipeline.networks)
    assert not any(list(patches_of(network)) for network in pipeline.networks)
