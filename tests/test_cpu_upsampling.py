import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.upsampling import Upsample2D

from marigold_demo.network.cpu import move, patches
from marigold_demo.network.cpu.patches import FoldedUpsampling, fold_upsampling, remove_patches


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def make_upsampler(channels=64, **choices):
    torch.manual_seed(0)
    return Upsample2D(channels, use_conv=True, **choices).eval()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 3), (8, 8)])
@pytest.mark.parametrize("out_channels", [None, 7])
def test_folded_upsampling_equals_enlarging_and_convolving(size, out_channels):
    module, small = make_upsampler(out_channels=out_channels), draw(2, 64, *size)
    with torch.no_grad():
        expected = module(small)
        fold_upsampling(module)
        assert isinstance(module.forward, FoldedUpsampling)
        assert torch.allclose(module(small), expected, atol=1e-5)
        assert torch.allclose(module(small, tuple(2 * side for side in size)), expected, atol=1e-5)


def test_other_sizes_than_the_double_are_enlarged_as_before():
    module, small = make_upsampler(), draw(1, 64, 4, 4)
    with torch.no_grad():
        expected = module(small, (7, 8))
        fold_upsampling(module)
        assert torch.equal(module(small, (7, 8)), expected)


def test_unfolding_brings_the_upsampler_back():
    module, small = make_upsampler(), draw(1, 64, 4, 4)
    with torch.no_grad():
        expected = module(small)
        fold_upsampling(module)
        remove_patches(module)
        assert torch.equal(module(small), expected)


def test_folded_upsampling_follows_a_cast():
    module, small = make_upsampler(), draw(1, 64, 4, 4)
    with torch.no_grad():
        expected = module(small)
        fold_upsampling(module)
        move([module], torch.float64)
        assert torch.allclose(module(small.double()).float(), expected, atol=1e-5)


@pytest.mark.parametrize("module", [make_upsampler(8), make_upsampler(norm_type="ln_norm")])
def test_narrow_and_unusual_upsamplers_are_left_alone(module):
    fold_upsampling(module)
    assert "forward" not in vars(module)


def test_networks_of_diffusers_give_the_same_when_folded(monkeypatch):
    """Odd sizes too, where the UNet asks its upsamplers for other sizes than the double."""
    monkeypatch.setattr(patches, "LEAST_UPSAMPLED", 1)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8, 8, 8), norm_num_groups=4, cross_attention_dim=4, attention_head_dim=2,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
    ).eval()  # fmt: skip
    prompt = draw(1, 2, 4)
    with torch.no_grad():
        for latent in (draw(1, 4, 8, 12), draw(1, 4, 7, 9)):
            expected = unet(latent, 10, encoder_hidden_states=prompt).sample, vae.decode(latent).sample
            for network in (unet, vae):
                fold_upsampling(network)
            assert torch.allclose(
                unet(latent, 10, encoder_hidden_states=prompt).sample, expected[0], atol=1e-5
            )
            assert torch.allclose(vae.decode(latent).sample, expected[1], atol=1e-5)
            for network in (unet, vae):
                remove_patches(network)
