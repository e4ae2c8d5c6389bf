"""SimMIM: masked squares, one linear layer, absolute differences."""

import pytest
import torch

from ssl_fast import ops
from ssl_fast.models import MODELS
from ssl_fast.models.simmim import simmim_config

VIT = ("vit_tiny_patch16_224", 8, dict(depth=1, embed_dim=24, num_heads=2))
SWIN = (
    "swin_tiny_patch4_window7_224",
    None,
    dict(depths=(1, 1), num_heads=(1, 2), embed_dim=12, window_size=4, drop_path_rate=0.0),
)


def model(kind=VIT, **options):
    torch.manual_seed(0)
    name, patch_size, backbone_options = kind
    config = simmim_config(
        name,
        32,
        patch_size,
        **{"mask_patch_size": 8, **options},
        backbone_options=backbone_options,
    )
    preprocessor = dict(mean=[120.0], std=[60.0], keep_uint8=True)
    return MODELS.build({**config, "data_preprocessor": preprocessor})


def batch(count=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("kind", [VIT, SWIN])
def test_loss_is_the_papers(kind):
    built, images = model(kind), batch()
    patch = built.backbone.patch_size
    samples = {"seed": torch.tensor([5]), "sample_ids": torch.tensor([8, 3])}
    mask = ops.simmim_mask(2, 32, 8, patch, 0.6, seed=5, sample_ids=samples["sample_ids"])
    assert mask.sum() == 2 * 10 * (8 // patch) ** 2  # ceil(0.6 * 16) squares
    pixels = built.normalized(images)
    tokens = built.backbone.patches(built.backbone(pixels, mask))
    stride = built.backbone.stride
    pred = built.neck(tokens.transpose(1, 2).reshape(2, -1, 32 // stride, 32 // stride))
    hidden = mask.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
    expected = ((pred - pixels).abs() * hidden).sum() / hidden.sum() / 3
    loss = built(images, samples, mode="loss")["loss"]
    torch.testing.assert_close(loss, expected)
    parameters = [p for p in built.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_masks_that_come_with_the_batch():
    built, images = model(), batch()
    mask = torch.zeros(2, 4, 4)
    assert built.loss(images, {"mask": mask})["loss"] == 0
    mask[0, 1, 2] = 1
    assert built.loss(images, {"mask": mask})["loss"] > 0


def test_a_number_of_masked_squares():
    built = model()
    for number in range(17):
        assert built.sample_mask(1, (4, 4), number, seed=1).sum() == number


def test_visualize():
    built, images = model(SWIN), batch()
    mask, shown = built.visualize(images, {"seed": 3})
    pixels = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand_as(images)
    assert torch.equal(shown[~pixels], images[~pixels])
    assert not torch.equal(shown[pixels], images[pixels])


@pytest.mark.parametrize("size", [5, 12, 24])
def test_squares_that_do_not_fit(size):
    with pytest.raises(ValueError, match=f"mask_patch_size is {size}; expected a multiple of the"):
        model(mask_patch_size=size)


def test_wrong_ratio():
    with pytest.raises(ValueError, match=r"mask_ratio is 2; accepted are 0 to 1"):
        model(mask_ratio=2)
