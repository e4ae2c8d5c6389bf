"""Projectors: layers, names, what they take; pooled and dense features of backbones."""

import pytest
import torch
from torch import nn

from ssl_fast._compat import import_timm
from ssl_fast.models import MODELS, TimmBackbone
from ssl_fast.models.backbones import backbone_for

RESNET = dict(layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), stem_width=8)
SWIN = dict(depths=(1, 1), num_heads=(1, 2), embed_dim=12, window_size=4)
VIT = dict(depth=1, embed_dim=24, num_heads=2)


def build(kind, **options):
    return MODELS.build(dict(type=kind, in_channels=6, hid_channels=8, out_channels=4, **options))


def test_layers_of_a_neck():
    neck = build("NonLinearNeck", num_layers=3, with_bias=True, with_last_bn_affine=False)
    assert [name for name, _ in neck.named_children()] == ["fc0", "bn0", "fc1", "bn1", "fc2", "bn2"]
    assert neck.fc0.bias is not None
    assert neck.fc2.bias is None
    assert not neck.bn2.affine
    x = torch.randn(5, 6)
    hidden = neck.bn1(neck.fc1(neck.bn0(neck.fc0(x)).relu())).relu()
    torch.testing.assert_close(neck(x), neck.bn2(neck.fc2(hidden)))
    plain = build("NonLinearNeck", with_last_bn=False, with_last_bias=True)
    assert [name for name, _ in plain.named_children()] == ["fc0", "bn0", "fc1"]
    assert plain.fc1.bias is not None


@pytest.mark.parametrize("kind", ["NonLinearNeck", "MoCoV2Neck", "SwAVNeck"])
def test_maps_are_averaged(kind):
    neck = build(kind).eval()
    features = torch.randn(2, 6, 3, 3)
    torch.testing.assert_close(neck(features), neck(features.mean(dim=(2, 3))))
    with pytest.raises(ValueError, match=r"shape \(2, 9, 6\); expected \[N, C\] or .*out_type"):
        neck(features.flatten(2).transpose(1, 2))


def test_dense_neck():
    neck = build("DenseCLNeck")
    features = torch.randn(2, 6, 3, 5)
    single, dense, mean = neck(features)
    torch.testing.assert_close(single, neck.mlp(features.mean(dim=(2, 3))))
    torch.testing.assert_close(dense, neck.mlp2(features).flatten(2))
    torch.testing.assert_close(mean, dense.mean(dim=2))
    with pytest.raises(ValueError, match=r"shape \(2, 6\); expected a map .* to 'featmap'"):
        neck(torch.randn(2, 6))


def test_embeddings_of_swav_have_length_1():
    assert build("SwAVNeck")(torch.randn(3, 6)).norm(dim=1).tolist() == pytest.approx([1] * 3)


def test_one_layer_is_too_few():
    with pytest.raises(ValueError, match="num_layers is 1; expected 2 or more"):
        build("NonLinearNeck", num_layers=1)


@pytest.mark.parametrize(
    ("name", "patch_size", "options", "shape"),
    [
        ("resnet18", None, RESNET, (2, 16, 1, 1)),
        ("vit_tiny_patch16_224", 8, VIT, (2, 24, 4, 4)),
        ("swin_tiny_patch4_window7_224", 4, SWIN, (2, 24, 4, 4)),
    ],
)
def test_types_of_features(name, patch_size, options, shape):
    images = torch.randn(2, 3, 32, 32)
    outputs = {}
    for out_type in ("raw", "pooled", "featmap"):
        torch.manual_seed(0)
        backbone = backbone_for(name, 32, patch_size, out_type, **options).eval()
        outputs[out_type] = backbone(images)
    assert outputs["featmap"].shape == shape
    assert backbone.patch_size == (patch_size or 1)
    # What timm's own model makes without a classifier.
    torch.testing.assert_close(outputs["pooled"], backbone.model(images))
    torch.testing.assert_close(outputs["pooled"], backbone.pooled(images))
    if name.startswith("vit"):
        torch.testing.assert_close(
            outputs["featmap"].flatten(2).transpose(1, 2), outputs["raw"][:, 1:]
        )
    else:
        torch.testing.assert_close(outputs["featmap"].mean(dim=(2, 3)), outputs["pooled"])


def test_backbones_that_do_not_fit():
    with pytest.raises(ValueError, match="out_type is 'map'; accepted are 'raw', 'pooled', 'fea"):
        TimmBackbone("resnet18", out_type="map")
    with pytest.raises(ValueError, match="no plain vision transformer with a class token"):
        MODELS.build(dict(type="MoCoV3ViT", name="swin_tiny_patch4_window7_224", **SWIN))


def test_mocov3s_vit():
    torch.manual_seed(0)
    vit = MODELS.build(
        dict(type="MoCoV3ViT", name="vit_tiny_patch16_224", image_size=32, patch_size=8, **VIT)
    )
    frozen = {name for name, p in vit.named_parameters() if not p.requires_grad}
    embed = "model.patch_embed.proj"
    assert frozen == {"model.pos_embed", f"{embed}.weight", f"{embed}.bias"}
    bound = (6 / (3 * 8 * 8 + 24)) ** 0.5
    weight = vit.model.patch_embed.proj.weight
    assert 0.9 * bound < weight.abs().max() <= bound
    assert isinstance(vit.model, import_timm().models.VisionTransformer)
    images = torch.randn(2, 3, 32, 32)
    vit.eval()
    torch.testing.assert_close(vit(images), vit.model.forward_features(images)[:, 0])
    trained = MODELS.build(
        dict(
            type="MoCoV3ViT",
            name="vit_tiny_patch16_224",
            image_size=32,
            patch_size=8,
            stop_grad_conv1=False,
            **VIT,
        )
    )
    assert trained.model.patch_embed.proj.weight.requires_grad
    assert isinstance(trained.model.pos_embed, nn.Parameter)


def test_of_a_tuple_of_features_the_last_is_taken():
    config = {"in_channels": 4, "hid_channels": 4, "out_channels": 2}
    neck = MODELS.build({"type": "NonLinearNeck", **config}).eval()
    maps = (torch.rand(3, 8, 5, 5), torch.rand(3, 4, 2, 2))
    assert torch.equal(neck(maps), neck(maps[1]))
