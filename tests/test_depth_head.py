import pytest
import torch

from marigold_demo.network.pipeline import depth_decoder
from tests import toys


@pytest.mark.parametrize("make_vae", [toys.make_vae, toys.make_tiny_vae])
def test_folded_decoder_gives_the_mean_of_the_three_channels(make_vae):
    decoder = make_vae().decoder
    latent = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        folded, mean = depth_decoder(decoder)(latent), decoder(latent).mean(dim=1, keepdim=True)
    assert folded.shape == mean.shape
    assert (folded - mean).abs().max() < 1e-5


@pytest.mark.parametrize("make_vae", [toys.make_vae, toys.make_tiny_vae])
def test_folded_decoder_shares_its_weights_and_leaves_the_other_alone(make_vae):
    decoder = make_vae().decoder
    names = list(decoder.state_dict())
    folded = depth_decoder(decoder)
    assert {id(weight) for weight in folded.parameters()} == {id(weight) for weight in decoder.parameters()}
    assert list(decoder.state_dict()) == names


def test_folded_decoder_follows_training():
    decoder = toys.make_vae().decoder
    folded = depth_decoder(decoder)
    latent = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    folded(latent).sum().backward()
    assert decoder.conv_out.weight.grad is not None
    with torch.no_grad():
        decoder.conv_out.weight.mul_(2)
        assert (folded(latent) - decoder(latent).mean(dim=1, keepdim=True)).abs().max() < 1e-5


def test_depth_comes_out_in_float32_from_a_16_bit_decoder():
    decoder = toys.make_vae().to(torch.bfloat16).decoder
    with torch.no_grad():
        assert depth_decoder(decoder)(torch.zeros(1, 4, 4, 4, dtype=torch.bfloat16)).dtype == torch.float32
