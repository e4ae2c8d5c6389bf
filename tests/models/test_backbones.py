"""timm's models as backbones: depths of parameters, masked input."""

import copy

import pytest
import torch

from ssl_fast._compat import import_timm
from ssl_fast.models import MODELS, MaskedSwin, MaskedViT, TimmBackbone
from ssl_fast.models.backbones import layer_depth

timm = import_timm()
TINY = dict(depth=2, embed_dim=24, num_heads=2)


def vit(**options):
    torch.manual_seed(0)
    return MaskedViT("vit_tiny_patch16_224", image_size=32, patch_size=8, **{**TINY, **options})


def images(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("cls_token", 0),
        ("pos_embed", 0),
        ("patch_embed.proj.weight", 0),
        ("blocks.0.norm1.weight", 1),
        ("blocks.11.mlp.fc2.bias", 12),
        ("norm.weight", 13),
        ("mask_token", 13),
        ("pos_embed_of_another", 13),
        ("blocks_of_another.0.weight", 13),
    ],
)
def test_depth_in_a_vit(name, depth):
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=12, num_heads=1, num_classes=0)
    assert layer_depth(model, name) == (depth, 14)


@pytest.mark.parametrize(
    ("architecture", "options", "depths"),
    [
        (
            "swin_tiny_patch4_window7_224",
            dict(embed_dim=12, num_heads=(1, 1, 1, 1)),
            {
                "patch_embed.proj.weight": 0,
                "layers.0.blocks.1.norm1.weight": 2,
                "layers.1.downsample.reduction.weight": 2,
                "layers.1.blocks.0.norm1.weight": 3,
                "layers.2.blocks.5.norm1.weight": 10,
                "layers.3.blocks.1.norm1.weight": 12,
                "norm.weight": 13,
            },
        ),
        (
            "convnext_atto",
            dict(dims=(4, 8, 8, 8)),
            {
                "stem.0.weight": 0,
                "stages.0.blocks.0.conv_dw.weight": 1,
                "stages.1.downsample.1.weight": 2,
                "stages.2.blocks.5.conv_dw.weight": 10,
                "stages.3.blocks.1.conv_dw.weight": 12,
                "head.norm.weight": 13,
            },
        ),
        (
            "resnet18",
            {},
            {
                "conv1.weight": 0,
                "bn1.weight": 0,
                "layer1.0.conv1.weight": 1,
                "layer2.0.downsample.0.weight": 3,
                "layer4.1.bn2.bias": 8,
                "fc.weight": 9,
            },
        ),
    ],
)
def test_depth_in_models_of_stages(architecture, options, depths):
    model = timm.create_model(architecture, num_classes=0, **options)
    last = max(depths.values())
    assert {name: layer_depth(model, name) for name in depths} == {
        name: (depth, last + 1) for name, depth in depths.items()
    }
    for name, _ in model.named_parameters():
        assert 0 <= layer_depth(model, name)[0] <= last


def test_depth_of_an_unknown_model():
    with pytest.raises(NotImplementedError, match="VGG; known are timm's ViT, Swin"):
        layer_depth(timm.create_model("vgg11", num_classes=0), "features.0.weight")


def test_depth_with_the_prefix_of_a_supervisor():
    assert vit().get_layer_depth("backbone.model.blocks.1.norm1.weight", "backbone.") == (2, 4)
    assert vit().get_layer_depth("backbone.mask_token", "backbone.") == (3, 4)


def test_without_a_mask_it_is_the_model():
    backbone = vit()
    expected = backbone.model.forward_features(images())
    for nothing in (None, False):
        assert torch.equal(backbone(images(), nothing), expected)


def test_masked_patches_are_not_seen():
    backbone, mask = vit(), torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, 1:3, 2] = mask[1, 0, 0] = True
    other = images().clone()
    pixels = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand_as(other)
    other[pixels] = torch.randn(int(pixels.sum()))
    result = backbone(images(), mask)
    assert result.shape == (2, 1 + 16, 24)
    assert torch.equal(backbone(other, mask), result)
    assert torch.equal(backbone(images(), mask.flatten(1).float()), result)
    assert not torch.equal(backbone(images()), result)


def test_the_mask_token_takes_the_place_of_the_embedding():
    backbone, seen = vit(depth=0), {}
    backbone.model.patch_embed.register_forward_hook(
        lambda module, args, embedded: seen.update(embedded=embedded)
    )
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 2, 3] = True
    backbone(images(1), mask)
    plain = backbone.model.patch_embed.proj(images(1)).flatten(2).transpose(1, 2)
    expected = torch.where(mask.flatten(1)[..., None], backbone.mask_token, plain)
    torch.testing.assert_close(seen["embedded"], expected)


def test_gradient_reaches_the_mask_token():
    backbone = vit()
    backbone(images(), torch.ones(2, 16)).square().sum().backward()
    assert backbone.mask_token.grad.abs().sum() > 0
    # What is masked everywhere is not embedded.
    assert backbone.model.patch_embed.proj.weight.grad.abs().sum() == 0


def test_a_copy_masks_itself():
    backbone = vit()
    twin = copy.deepcopy(backbone)
    with torch.no_grad():
        twin.mask_token.add_(1)
    mask = torch.ones(1, 16)
    assert not torch.equal(backbone(images(1), mask), twin(images(1), mask))


def test_registers_and_other_families():
    backbone = MaskedViT("vit_small_patch14_reg4_dinov2", 28, 14, **TINY)
    assert backbone.num_prefix_tokens == 5
    assert backbone(images(1)[..., :28, :28], torch.ones(1, 2, 2)).shape == (1, 9, 24)
    assert backbone.pooled(images(1)[..., :28, :28]).shape == (1, 24)


def test_pooled_is_the_mean_of_the_patches():
    backbone = vit()
    expected = backbone(images())[:, 1:].mean(dim=1)
    torch.testing.assert_close(backbone.pooled(images()), expected)


def test_rotary_positions():
    backbone = MaskedViT("eva02_tiny_patch14_224", 28, 14, depth=1, embed_dim=24, num_heads=2)
    assert backbone(images(1)[..., :28, :28], torch.ones(1, 4)).shape == (1, 5, 24)


def test_wrong_masks():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\); expected \(N, 4, 4\) or \(N, 16\)"):
        vit()(images(), torch.zeros(2, 3, 4))


def test_what_cannot_be_masked():
    with pytest.raises(ValueError, match="'resnet18' is no vision transformer"):
        MaskedViT("resnet18")
    with pytest.raises(ValueError, match=r"image_size is 30.*multiple of patch_size \(8\)"):
        MaskedViT("vit_tiny_patch16_224", 30, 8, **TINY)


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match="no model 'vit_tinny_patch16_224'; nearest are vit_tiny"):
        TimmBackbone("vit_tinny_patch16_224")
    with pytest.raises(ValueError, match="timm cannot build 'vit_tiny_patch16_224'"):
        TimmBackbone("vit_tiny_patch16_224", nonsense=1)


def test_any_model_gives_features_by_config():
    backbone = MODELS.build({"type": "TimmBackbone", "name": "resnet10t"})
    assert backbone(torch.randn(1, 3, 64, 64)).shape == (1, backbone.num_features, 2, 2)


def test_swin_with_masked_input():
    options = dict(depths=(1, 1), num_heads=(1, 2), embed_dim=12, window_size=4, drop_path_rate=0.0)
    backbone = MaskedSwin("swin_tiny_patch4_window7_224", 32, **options)
    assert (backbone.grid, backbone.patch_size, backbone.stride) == ((8, 8), 4, 8)
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[:, 2:4] = True
    other = images().clone()
    other[..., 8:16, :] = 0
    assert torch.equal(backbone(images(), mask), backbone(other, mask))
    assert not torch.equal(backbone(images()), backbone(images(), mask))
    assert backbone.patches(backbone(images(), mask)).shape == (2, 16, 24)
    assert backbone.pooled(images()).shape == (2, 24)
    with pytest.raises(ValueError, match="'resnet18' is no Swin transformer; take one of timm's"):
        MaskedSwin("resnet18")
