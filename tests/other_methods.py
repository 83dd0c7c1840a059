"""Depth networks beside Marigold at toy width, of transformers' classes with seeded random weights."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers as tf

SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
NECK = {"neck_hidden_sizes": [16, 16, 16, 16], "fusion_hidden_size": 16}


def _dpt() -> Any:
    return tf.DPTForDepthEstimation(
        tf.DPTConfig(**SMALL, **NECK, image_size=64, backbone_out_indices=[0, 1, 2, 3])
    )


def _dinov2(**others: Any) -> dict[str, Any]:
    small = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "mlp_ratio": 2}
    return {"model_type": "dinov2", **small, "patch_size": 14, "image_size": 56, **others}


def _depth_anything(**others: Any) -> Any:
    backbone = _dinov2(out_indices=[1, 2, 3, 4], reshape_hidden_states=False)
    config = tf.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=32, head_hidden_size=8, **NECK, **others
    )
    return tf.DepthAnythingForDepthEstimation(config)


def _zoedepth() -> Any:
    backbone = {
        "model_type": "beit",
        **SMALL,
        "image_size": 64,
        "use_relative_position_bias": True,
        "reshape_hidden_states": False,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    config = tf.ZoeDepthConfig(
        backbone_config=backbone,
        bottleneck_features=16,
        num_relative_features=8,
        bin_embedding_dim=8,
        num_attractors=[4, 2, 1, 1],
        bin_configurations=[{"n_bins": 8, "min_depth": 0.001, "max_depth": 10.0}],
        **NECK,
    )
    return tf.ZoeDepthForDepthEstimation(config)


def _glpn() -> Any:
    config = tf.GLPNConfig(
        hidden_sizes=[16] * 4, depths=[1] * 4, num_attention_heads=[1, 2, 4, 4], decoder_hidden_size=16
    )
    return tf.GLPNForDepthEstimation(config)


def _depth_pro() -> Any:
    part = _dinov2(patch_size=4, image_size=16)
    config = tf.DepthProConfig(
        patch_size=16,
        fusion_hidden_size=16,
        intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[10, 8],
        scaled_images_ratios=[0.5, 1.0],
        scaled_images_overlap_ratios=[0.0, 0.2],
        scaled_images_feature_dims=[12, 12],
        use_fov_model=True,
        image_model_config=part,
        patch_model_config=part,
        fov_model_config=part,
    )
    return tf.DepthProForDepthEstimation(config)


IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_DA = {"size": {"height": 56, "width": 56}, "keep_aspect_ratio": True, "ensure_multiple_of": 14, **IMAGENET}
# Network, and what its preprocessor_config.json holds.
TOYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpt": (_dpt, {"size": {"height": 64, "width": 64}, "resample": 3, **HALF}),
    "depth_anything": (_depth_anything, {**_DA, "resample": 3}),
    "metric": (lambda: _depth_anything(depth_estimation_type="metric", max_depth=20), {**_DA, "resample": 3}),
    "zoedepth": (
        _zoedepth,
        {
            "size": {"height": 64, "width": 96},
            "keep_aspect_ratio": True,
            "ensure_multiple_of": 32,
            "resample": 2,
            **HALF,
        },
    ),
    "glpn": (_glpn, {"size_divisor": 32, "resample": 2, "do_normalize": False}),
    "depth_pro": (_depth_pro, {"size": {"height": 64, "width": 64}, "resample": 2, **HALF}),
}


def make(kind: str) -> Any:
    """Return a network whose output varies, whatever its last activation."""
    torch.manual_seed(4)
    network = TOYS[kind][0]().eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 1 / max(weight[0].numel(), 1) ** 0.5)
            elif name.endswith("bias"):
                weight.normal_(0.2, 0.1)
        for name, layer in network.named_modules():
            if isinstance(layer, torch.nn.Conv2d) and layer.out_channels == 1 and layer.bias is not None:
                layer.bias.fill_(45.0 if name.startswith("fov_model") else 1.0)  # above the last ReLU
    return network


def save(kind: str, folder: Path) -> Path:
    """Save a toy as the hub has them."""
    make(kind).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(TOYS[kind][1]))
    return folder
