"""Bands and Winograd's filtering give what diffusers' residual blocks give."""

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from hypothesis import given, settings
from hypothesis import strategies as st

from marigold_demo.network.cpu import patches
from marigold_demo.network.cpu.patches import FusedResnet, Winograd, fuse_resnets, remove_patches
from marigold_demo.network.memory import in_row_chunks
from tests import toys


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(patches, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(patches, "LEAST_PIXELS", 1)


def make_block(inputs, outputs, **choices):
    torch.manual_seed(0)
    block = ResnetBlock2D(
        in_channels=inputs, out_channels=outputs, groups=4, **{"temb_channels": None, **choices}
    )
    for norm in (block.norm1, block.norm2):
        torch.nn.init.normal_(norm.weight, 1)
        torch.nn.init.normal_(norm.bias)
    return block.eval().requires_grad_(False)


def convolve(conv, image):
    """Convolve an image [C, H, W] band by band, as a caller of Winograd does."""
    x = image.permute(1, 2, 0)  # [H, W, C]
    height, width = x.shape[:2]
    convolution = Winograd(conv.weight, conv.bias, height=height, width=width)
    out = torch.full((height, width, conv.out_channels), torch.nan)
    for top in range(0, height, convolution.rows):
        first, last = max(0, top - 1), min(height, top + convolution.rows + 1)
        convolution.seen[:] = 0
        for left, part in convolution.columns:
            part[first - top + 1 : last - top + 1] = x[first:last, left :: patches.SIDE]
        convolution.convolve(out[top : top + convolution.rows])
    return out.permute(2, 0, 1)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), channels=st.integers(1, 9), tiles=st.integers(1, 30)
)
@torch.no_grad()
def test_a_convolution_of_any_size_in_bands_and_blocks_of_any_size(height, width, channels, tiles):
    torch.manual_seed(height * width)
    conv = torch.nn.Conv2d(channels, 5, 3, padding=1)
    image = torch.randn(channels, height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "TILES", tiles)
        result = convolve(conv, image)
    assert torch.allclose(result, conv(image[None])[0], atol=2e-5)


@torch.no_grad()
def test_the_multiplications_are_a_quarter():
    counted = []
    bmm = torch.bmm

    def counting(a, b, **kwargs):
        counted.append(a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2])
        return bmm(a, b, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "bmm", counting)
        convolve(torch.nn.Conv2d(6, 5, 3, padding=1), draw(6, 32, 48))
    assert sum(counted) * 4 == 32 * 48 * 9 * 6 * 5


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (16, 24), (67, 50)])
@pytest.mark.parametrize("channels", [(8, 8), (8, 12), (12, 8)])
@pytest.mark.parametrize("scale", [1.0, 2.0])
@torch.no_grad()
def test_blocks_in_bands_equal_blocks(size, channels, scale, narrow):
    block = make_block(*channels, output_scale_factor=scale)
    x = draw(2, channels[0], *size) * draw(2, channels[0], 1, 1, seed=1) + 3  # channels unlike each other
    expected, kept = block(x, None), x.clone()
    fuse_resnets(block)
    assert isinstance(block.forward, FusedResnet)
    assert torch.allclose(block(x, None), expected, atol=1e-4)
    assert torch.equal(x, kept)
    remove_patches(block)
    assert torch.equal(block(x, None), expected)


@pytest.mark.parametrize("skip_time_act", [False, True])
@torch.no_grad()
def test_blocks_of_a_unet_see_the_time(skip_time_act, narrow):
    block = make_block(8, 8, temb_channels=6, skip_time_act=skip_time_act)
    x, time = draw(2, 8, 9, 7), 3 * draw(2, 6, seed=1)
    expected = block(x, time)
    fuse_resnets(block)
    assert torch.allclose(block(x, time), expected, atol=1e-4)
    assert not torch.allclose(block(x, -time), expected, atol=1e-2)


@torch.no_grad()
def test_the_map_may_lie_in_memory_in_any_way_and_what_comes_out_is_laid_out_for_convolutions(narrow):
    block, x = make_block(8, 8), draw(2, 8, 10, 12)
    fuse_resnets(block)
    expected = block(x, None)
    for same in (
        x.contiguous(memory_format=torch.channels_last),
        x.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        result = block(same, None)
        assert torch.equal(result, expected)
        assert result.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def test_other_number_formats_work_as_ever(narrow):
    block = make_block(8, 8).double()
    x = draw(1, 8, 9, 7).double()
    expected = block(x, None)
    fuse_resnets(block)
    assert torch.equal(block(x, None), expected)


@torch.no_grad()
def test_small_maps_and_maps_that_are_only_counted_work_as_ever():
    block = make_block(128, 128)
    x = draw(1, 128, 8, 8)
    expected = block(x, None)
    fuse_resnets(block)
    assert torch.equal(block(x, None), expected)
    assert block.to("meta")(torch.empty(1, 128, 64, 64, device="meta"), None).shape == (1, 128, 64, 64)


@pytest.mark.parametrize(
    "block", [make_block(8, 8), make_block(128, 128, up=True), make_block(128, 128, non_linearity="gelu")]
)
def test_narrow_and_unusual_blocks_are_left_alone(block):
    fuse_resnets(block)
    assert "forward" not in vars(block)


@torch.no_grad()
def test_whole_networks_give_the_same_with_stripes_or_without(narrow):
    unet, vae = toys.make_unet(), toys.make_vae()
    for network in (unet, vae):
        network.requires_grad_(False)
    latents, prompt = draw(2, 8, 10, 13), draw(2, 2, toys.PROMPT_WIDTH)

    def run():
        return [
            unet(latents, 500, encoder_hidden_states=prompt).sample,
            vae.encode(draw(1, 3, 96, 64)).latent_dist.mode(),
            vae.decode(draw(1, 4, 19, 9)).sample,
        ]

    expected = run()
    for network in (unet, vae):
        fuse_resnets(network)
    assert sum(isinstance(vars(m).get("forward"), FusedResnet) for m in vae.modules()) > 10
    with_bands = run()
    with in_row_chunks(vae):
        with_stripes = run()
    for plain, bands, stripes in zip(expected, with_bands, with_stripes, strict=True):
        assert torch.allclose(bands, plain, atol=1e-4 * float(plain.abs().max()))
        assert torch.allclose(stripes, plain, atol=1e-4 * float(plain.abs().max()))


@torch.no_grad()
def test_in_sixteen_bits_stripes_still_save_memory(narrow):
    """Bands are for float32; a folded block in another format is one for row chunks again, and comes back."""
    vae = toys.make_vae().requires_grad_(False)
    fuse_resnets(vae)
    vae.bfloat16()
    latent = draw(1, 4, 19, 9).bfloat16()
    plain = vae.decode(latent).sample
    block = vae.decoder.mid_block.resnets[0]
    with in_row_chunks(vae):
        assert not isinstance(block.forward, FusedResnet)
        striped = vae.decode(latent).sample
    assert isinstance(block.forward, FusedResnet)
    assert (striped - plain).abs().max() < 0.05 * plain.abs().max()
    vae.float()
    with in_row_chunks(vae):
        assert isinstance(block.forward, FusedResnet)
