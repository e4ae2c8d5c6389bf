"""MaskFeat and its parts: masks, compact targets, and a loss on masked tokens alone."""

import pytest
import torch

from ssl_fast import ops
from ssl_fast.models import MODELS, MaskFeat, MIMHead, PixelReconstructionLoss
from ssl_fast.models.maskfeat import masked_ids, maskfeat_config

TINY = dict(depth=1, embed_dim=24, num_heads=2)


def config(**options):
    return maskfeat_config("vit_tiny_patch16_224", 32, 8, backbone_options=TINY, **options)


def model(**options):
    torch.manual_seed(0)
    built = MODELS.build({**config(), **options})
    # As after some training: with the first weights of the neck nearly everything is near 0.
    torch.nn.init.normal_(built.neck.fc.weight, std=0.5)
    return built


def batch(count=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


def plain_loss(built, images, mask):
    """The loss written out: all tokens, all targets, a weighted mean."""
    target = ops.hog_tokens(images, 8, 9, 4, 8)
    pixels = images.float()
    if built.data_preprocessor.mean is not None:
        pixels = built.data_preprocessor.normalize(images)
    predicted = built.neck(built.backbone(pixels, mask)[:, 1:])
    weights = mask.flatten(1).float()
    return ((predicted - target).square().mean(-1) * weights).sum() / weights.sum()


def test_one_config_dict_builds_a_whole_model():
    built = MODELS.build(
        dict(
            type="MaskFeat",
            backbone=dict(
                type="MaskedViT", name="vit_tiny_patch16_224", image_size=64, patch_size=16, **TINY
            ),
            neck=dict(type="LinearNeck", in_channels=24, out_channels=108),
            head=dict(type="MIMHead", loss=dict(type="PixelReconstructionLoss", criterion="L2")),
            target_generator=dict(
                type="HOGGenerator", nbins=9, pool=8, gaussian_window=16, patch_size=16
            ),
            data_preprocessor=dict(mean=[127.5], std=[50.0], keep_uint8=True),
        )
    )
    assert isinstance(built, MaskFeat)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    data = built.data_preprocessor({"inputs": images}, True)
    losses = built(**data, mode="loss")
    losses["loss"].backward()
    assert losses["loss"].shape == ()
    assert all(p.grad is not None for p in built.parameters() if p.requires_grad)


def test_loss_is_that_over_masked_tokens():
    built, images = model(), batch()
    samples = {"seed": torch.tensor([5]), "sample_ids": torch.tensor([8, 3, 70])}
    mask = built.sample_mask(3, (4, 4), seed=5, sample_ids=samples["sample_ids"])
    assert mask.flatten(1).sum(1).tolist() == [6, 6, 6]  # int(0.4 * 16)
    result = built(images, samples, mode="loss")["loss"]
    torch.testing.assert_close(result, plain_loss(built, images, mask))


def test_masks_that_come_with_the_batch():
    built, images = model(), batch()
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[0, 0], mask[1, 2, 1:3] = True, True  # 4, 2 and 0 masked
    result = built.loss(images, {"mask": mask})["loss"]
    torch.testing.assert_close(result, plain_loss(built, images, mask))
    nothing = built.loss(images, {"mask": torch.zeros(3, 4, 4)})["loss"]
    assert nothing.item() == 0
    nothing.backward()


def test_same_seed_same_loss_whatever_the_order():
    built, images = model(), batch()
    samples = {"seed": torch.tensor([5]), "sample_ids": torch.tensor([8, 3, 70])}
    turned = {"seed": torch.tensor([5]), "sample_ids": torch.tensor([70, 8, 3])}
    first = built.loss(images, samples)["loss"]
    second = built.loss(images[[2, 0, 1]], turned)["loss"]
    torch.testing.assert_close(first, second)
    other = built.loss(images, {**samples, "seed": torch.tensor([6])})["loss"]
    assert not torch.equal(first, other)


def test_uint8_and_normalised_floats_give_the_same():
    built = model(data_preprocessor=dict(mean=[127.5], std=[50.0], keep_uint8=True))
    images, samples = batch(), {"seed": 5}
    floats = built.data_preprocessor.normalize(images)
    # HOG of uint8 is exact; that of the floats is off where a rounding turns a bin.
    first, second = built.loss(images, samples)["loss"], built.loss(floats, samples)["loss"]
    torch.testing.assert_close(first, second, rtol=1e-3, atol=0)


def test_masked_images_do_not_leak_into_features():
    built, images = model(), batch(1)
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 1, 1] = True
    other = images.clone()
    other[..., 8:16, 8:16] = 255 - other[..., 8:16, 8:16]
    assert torch.equal(
        built.extract_feat(images.float(), mask), built.extract_feat(other.float(), mask)
    )


def test_mask_false_masks_nothing():
    built = model()
    assert torch.equal(built.extract_feat(batch(), False), built.extract_feat(batch()))


def test_the_papers_masks():
    built = model()
    mask = built.sample_mask(2, (14, 14), seed=0)
    assert mask.flatten(1).sum(1).tolist() == [78, 78]
    assert torch.equal(mask, ops.block_mask(2, (14, 14), 78, min_block=15, seed=0))
    assert torch.equal(
        model(min_block=4).sample_mask(2, (14, 14), seed=0),
        ops.block_mask(2, (14, 14), 78, min_block=4, seed=0),
    )


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_extreme_ratios(ratio):
    built = model(mask_ratio=ratio)
    loss = built.loss(batch(), {"seed": 1})["loss"]
    assert loss.isfinite()
    assert (loss == 0) == (ratio == 0)


def test_wrong_ratio():
    with pytest.raises(ValueError, match=r"mask_ratio is 1\.5; accepted are 0 to 1"):
        model(mask_ratio=1.5)


def test_masked_ids():
    mask = torch.tensor([[0, 1, 0, 1], [1, 1, 1, 0]])
    assert masked_ids(mask, 2).tolist() == [[1, 3], [0, 1]]
    assert masked_ids(mask, 3)[1].tolist() == [0, 1, 2]
    assert masked_ids(mask, 0).shape == (2, 0)


def test_visualize():
    built, images = model(), batch()
    mask, target, predicted = built.visualize(images, {"seed": 3})
    hidden = mask.flatten(1)
    assert torch.equal(target, ops.hog_tokens(images, 8, 9, 4, 8))
    assert torch.equal(predicted[~hidden], target[~hidden])
    assert not torch.isclose(predicted[hidden], target[hidden]).all(dim=-1).any()


@pytest.mark.parametrize(("patch", "pool"), [(16, 8), (8, 4), (2, 1)])
def test_cells_are_half_a_patch(patch, pool):
    built = maskfeat_config("vit_tiny_patch16_224", 32, patch, backbone_options=TINY)
    assert built["target_generator"]["pool"] == pool
    assert built["neck"]["out_channels"] == 108


def test_head_and_criterion():
    head = MIMHead(dict(type="PixelReconstructionLoss", criterion="L1"))
    pred, target = torch.tensor([[[1.0, 3.0], [0.0, 0.0]]]), torch.zeros(1, 2, 2)
    assert head.loss(pred, target).item() == 1.0
    assert head.loss(pred, target, torch.tensor([[1, 0]])).item() == 2.0
    assert PixelReconstructionLoss("L2")(pred, target).item() == 2.5
    with pytest.raises(ValueError, match="criterion is 'L3'; accepted are 'L1' and 'L2'"):
        PixelReconstructionLoss("L3")


def test_compiles_in_one_graph():
    built = model()
    images, samples = batch(), {"seed": torch.tensor([5]), "sample_ids": torch.arange(3)}
    compiled = torch.compile(built, backend="aot_eager", fullgraph=True)
    expected = built(images, samples, mode="loss")["loss"]
    torch.testing.assert_close(compiled(images, samples, mode="loss")["loss"], expected)
