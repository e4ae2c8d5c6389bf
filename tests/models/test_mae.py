"""MAE: visible patches in, pixels of masked patches out."""

import pytest
import torch

from ssl_fast import ops
from ssl_fast.models import MAE, MODELS, VisibleViT
from ssl_fast.models.mae import mae_config, patchify, unpatchify
from ssl_fast.models.positions import sincos_positions

TINY = dict(depth=1, embed_dim=24, num_heads=2)
MEAN, STD = [120.0, 110.0, 100.0], [60.0, 55.0, 50.0]


def model(norm_pix=True, mask_ratio=0.75, **options):
    torch.manual_seed(0)
    config = mae_config(
        "vit_tiny_patch16_224",
        32,
        8,
        mask_ratio=mask_ratio,
        norm_pix=norm_pix,
        decoder_dim=16,
        decoder_depth=1,
        decoder_heads=2,
        backbone_options=TINY,
    )
    preprocessor = dict(mean=MEAN, std=STD, keep_uint8=True)
    return MODELS.build({**config, "data_preprocessor": preprocessor, **options})


def batch(count=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def plain_loss(built, images, ids_keep, ids_restore, mask):
    """The loss as the paper's code has it: embed all, gather, cat, gather, patchify."""
    vit, neck = built.backbone.model, built.neck
    pixels = built.normalized(images)
    tokens = vit.patch_embed(pixels) + vit.pos_embed[:, 1:]
    tokens = torch.take_along_dim(tokens, ids_keep[..., None], dim=1)
    cls_token = (vit.cls_token + vit.pos_embed[:, :1]).expand(len(images), -1, -1)
    tokens = vit.norm(vit.blocks(torch.cat([cls_token, tokens], dim=1)))
    x = neck.decoder_embed(tokens)
    hidden = neck.mask_token.expand(len(x), ids_restore.shape[1] + 1 - x.shape[1], -1)
    full = torch.cat([x[:, 1:], hidden], dim=1)
    full = torch.take_along_dim(full, ids_restore[..., None], dim=1)
    full = torch.cat([x[:, :1], full], dim=1) + neck.pos_embed
    pred = neck.decoder_pred(neck.decoder_norm(neck.decoder_blocks(full)))[:, 1:]
    target = patchify(pixels, 8)
    if built.head.norm_pix:
        variance = target.var(dim=-1, keepdim=True)
        target = (target - target.mean(dim=-1, keepdim=True)) / (variance + 1e-6).sqrt()
    return ((pred - target).square().mean(-1) * mask).sum() / mask.sum()


@pytest.mark.parametrize("norm_pix", [True, False])
def test_loss_and_gradients_are_the_papers(norm_pix):
    built, images = model(norm_pix), batch()
    samples = {"seed": torch.tensor([5]), "sample_ids": torch.tensor([8, 3, 70])}
    masks = ops.random_mask(3, 16, 0.75, seed=5, sample_ids=samples["sample_ids"])
    assert masks[0].shape == (3, 4)
    loss = built(images, samples, mode="loss")["loss"]
    expected = plain_loss(built, images, *masks)
    torch.testing.assert_close(loss, expected)
    parameters = [p for p in built.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_floats_that_are_normalised_already():
    built, images, samples = model(), batch(), {"seed": 5}
    floats = built.normalized(images)
    first, second = built.loss(images, samples)["loss"], built.loss(floats, samples)["loss"]
    torch.testing.assert_close(first, second)


def test_all_patches_visible_is_the_plain_model():
    backbone = model().backbone.eval()
    pixels = torch.randn(2, 3, 32, 32)
    ids = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(backbone(pixels, ids), backbone(pixels))
    registers = VisibleViT("vit_small_patch14_reg4_dinov2", 28, 14, **TINY).eval()
    pixels, ids = torch.randn(2, 3, 28, 28), torch.arange(4).expand(2, -1)
    torch.testing.assert_close(registers(pixels, ids), registers(pixels))


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_extreme_ratios(ratio):
    loss = model(mask_ratio=ratio).loss(batch(), {"seed": 1})["loss"]
    loss.backward()
    assert loss.isfinite()
    assert (loss == 0) == (ratio == 0)


def test_a_number_of_masked_patches():
    built = model()
    for number in range(197):
        assert built.sample_mask(1, (14, 14), number, seed=1)[2].sum() == number


def test_visualize():
    built, images = model(), batch()
    mask, shown = built.visualize(images, {"seed": 3})
    pixels = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand_as(images)
    assert mask.sum() == 3 * 12
    assert shown.dtype == torch.uint8
    assert torch.equal(shown[~pixels], images[~pixels])
    assert not torch.equal(shown[pixels], images[pixels])


def test_a_perfect_prediction_is_shown_as_the_image():
    built, images = model(), batch()
    target = patchify(built.normalized(images), 8)
    normalised = (target - target.mean(-1, True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    built.neck.forward = lambda tokens, ids_restore: normalised
    _, shown = built.visualize(images, {"seed": 3})
    assert torch.equal(shown, images)


def test_patchify_and_back():
    images = torch.randn(2, 3, 8, 12)
    tokens = patchify(images, 4)
    assert torch.equal(tokens[1, 4].view(4, 4, 3), images[1, :, 4:8, 4:8].permute(1, 2, 0))
    assert torch.equal(unpatchify(tokens, 4, (2, 3)), images)


def test_positions():
    positions = sincos_positions((3, 5), 16, 1)
    assert positions.shape == (16, 16)
    assert (positions[0] == 0).all()
    assert len(positions[1:].unique(dim=0)) == 15
    vit = model().backbone.model
    assert not vit.pos_embed.requires_grad
    torch.testing.assert_close(vit.pos_embed[0], sincos_positions((4, 4), 24, 1))
    with pytest.raises(ValueError, match="dim is 6; expected a multiple of 4"):
        sincos_positions((2, 2), 6)


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"mask_ratio is -0\.1; accepted are 0 to 1"):
        model(mask_ratio=-0.1)
    with pytest.raises(ValueError, match="'swin_tiny_patch4_window7_224' is no plain vision"):
        VisibleViT("swin_tiny_patch4_window7_224")


def test_compiles_in_one_graph():
    built, images = model(), batch()
    samples = {"seed": torch.tensor([5]), "sample_ids": torch.arange(3)}
    compiled = torch.compile(built, backend="aot_eager", fullgraph=True)
    expected = built(images, samples, mode="loss")["loss"]
    torch.testing.assert_close(compiled(images, samples, mode="loss")["loss"], expected)
    assert isinstance(built, MAE)
