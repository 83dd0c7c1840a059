"""Chunks of rows give what the whole map gives, in less memory."""

import pytest
import torch

from marigold_demo.network import memory
from marigold_demo.network.cpu.patches import fold_upsampling
from marigold_demo.network.memory import in_row_chunks
from marigold_demo.network.pipeline import depth_decoder
from tests import toys

VAES = {"usual": toys.make_vae, "tiny": toys.make_tiny_vae}


@pytest.fixture(autouse=True)
def thin_chunks(monkeypatch):
    monkeypatch.setattr(memory, "ROWS", 8)


@pytest.mark.parametrize("kind", VAES)
@pytest.mark.parametrize("size", [(8, 72), (72, 40), (200, 64)])
@torch.no_grad()
def test_chunks_do_not_change_what_a_vae_encodes_and_decodes(kind, size):
    vae = VAES[kind]()
    rgb = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoded = vae.encoder(rgb)
    latent = torch.randn(2, 4, *encoded.shape[2:], generator=torch.Generator().manual_seed(1))
    head = depth_decoder(vae.decoder)
    decoded, depth = vae.decoder(latent), head(latent)
    with in_row_chunks(vae), in_row_chunks(head):
        assert (vae.encoder(rgb) - encoded).abs().max() < 1e-5 * encoded.abs().max()
        assert (vae.decoder(latent) - decoded).abs().max() < 1e-5 * decoded.abs().max()
        assert (head(latent) - depth).abs().max() < 1e-5 * depth.abs().max()
    assert torch.equal(vae.decoder(latent), decoded)


@torch.no_grad()
def test_statistics_are_those_of_the_whole_picture_and_no_seam_is_left():
    """A picture whose halves differ in brightness and contrast, which tiles of their own would level out."""
    vae = toys.make_vae()
    latent = torch.randn(1, 4, 32, 8, generator=torch.Generator().manual_seed(0))
    latent[:, :, 16:] = 4 * latent[:, :, 16:] + 3
    whole = vae.decoder(latent)
    with in_row_chunks(vae.decoder):
        chunked = vae.decoder(latent)
    halves = torch.cat([vae.decoder(half) for half in latent.split(16, dim=2)], dim=2)
    assert (chunked - whole).abs().max() < 1e-4 * whole.abs().max()
    assert (halves - whole).abs().max() > 1e-2 * whole.abs().max()


@torch.no_grad()
def test_folded_upsamplers_stay_folded(monkeypatch):
    monkeypatch.setattr("marigold_demo.network.cpu.patches.LEAST_CHANNELS", 1)
    vae = toys.make_vae()
    latent = torch.randn(1, 4, 9, 5, generator=torch.Generator().manual_seed(0))
    plain = vae.decoder(latent)
    fold_upsampling(vae)
    folded = [vars(module).get("forward") for module in vae.modules()]
    with in_row_chunks(vae):
        assert (vae.decoder(latent) - plain).abs().max() < 1e-5 * plain.abs().max()
    assert [vars(module).get("forward") for module in vae.modules()] == folded


@torch.no_grad()
def test_layers_see_chunks_only():
    vae, heights = toys.make_vae(), []
    for block in vae.decoder.up_blocks:
        for resnet in block.resnets:
            resnet.conv1.register_forward_pre_hook(lambda _, inputs: heights.append(inputs[0].shape[2]))
    with in_row_chunks(vae.decoder, keep=torch.device("cpu")):
        vae.decoder(torch.zeros(1, 4, 32, 8))
    assert max(heights) == memory.ROWS + 2


@torch.no_grad()
def test_half_precision_is_normalised_in_float32():
    vae = toys.make_vae()
    latent = torch.randn(1, 4, 16, 8, generator=torch.Generator().manual_seed(0))
    exact = vae.decoder(latent)
    rough = vae.to(torch.bfloat16).decoder(latent.bfloat16())
    with in_row_chunks(vae.decoder):
        chunked = vae.decoder(latent.bfloat16())
    assert (chunked - exact).abs().mean() < 1.5 * (rough - exact).abs().mean()
