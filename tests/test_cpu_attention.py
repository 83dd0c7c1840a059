import pytest
import torch
from diffusers.models.attention_processor import Attention

from marigold_demo.network.cpu.patches import ConstantPrompt, fold_constant_prompt, patches_of, remove_patches
from tests import toys


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tokens", [1, 2, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_folded_attention_equals_attention(tokens, bias):
    torch.manual_seed(0)
    attention = Attention(query_dim=48, cross_attention_dim=20, heads=3, dim_head=8, bias=bias).eval()
    prompt, positions = draw(1, tokens, 20), draw(2, 7, 48, seed=1)
    with torch.no_grad():
        expected = attention(positions, encoder_hidden_states=prompt.expand(2, -1, -1))
        ConstantPrompt(attention, prompt).install()
        assert torch.allclose(attention(positions, encoder_hidden_states=prompt), expected, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 2])
def test_folded_unet_equals_the_unet_and_unfolds_again(tokens):
    unet, prompt, latents = toys.make_unet(), draw(1, tokens, toys.PROMPT_WIDTH), draw(2, 8, 8, 6)
    prompts = prompt.expand(2, -1, -1)
    with torch.no_grad():
        expected = unet(latents, 500, encoder_hidden_states=prompts).sample
        fold_constant_prompt(unet, prompt)
        assert (
            len(list(patches_of(unet))) == len(unet.attn_processors) // 2
        )  # self-attention stays what it was
        assert torch.allclose(unet(latents, 500, encoder_hidden_states=prompts).sample, expected, atol=1e-5)
        remove_patches(unet)
        assert torch.equal(unet(latents, 500, encoder_hidden_states=prompts).sample, expected)


def test_folding_saves_work_where_there_are_two_tokens():
    unet, latents = toys.make_unet(), draw(1, 8, 8, 6)
    prompt = draw(1, 2, toys.PROMPT_WIDTH)
    attention = next(m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention)
    fold_constant_prompt(unet, prompt)
    calls = []
    attention.to_q.register_forward_hook(lambda *_: calls.append("to_q"))
    with torch.no_grad():
        unet(latents, 500, encoder_hidden_states=prompt)
    assert not calls
    assert attention.forward.keys.numel() < attention.to_q.weight.numel()


def test_attention_of_another_kind_is_left_alone():
    unet = toys.make_unet()
    attention = next(m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention)
    attention.residual_connection = True
    fold_constant_prompt(unet, draw(1, 2, toys.PROMPT_WIDTH))
    assert "forward" not in vars(attention)


def test_folding_adds_nothing_to_the_weights():
    unet = toys.make_unet()
    names = list(unet.state_dict())
    fold_constant_prompt(unet, draw(1, 2, toys.PROMPT_WIDTH))
    assert list(unet.state_dict()) == names
