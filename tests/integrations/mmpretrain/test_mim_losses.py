"""The heads and losses of masked image modelling against mmpretrain's own."""

import pytest
import torch

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmpretrain.models.heads import (  # noqa: E402
    MAEPretrainHead,
    MixMIMPretrainHead,
    SimMIMHead,
    SparKPretrainHead,
)
from mmpretrain.models.losses import PixelReconstructionLoss  # noqa: E402

from ssl_fast.integrations.mmpretrain import reconstruction, serving  # noqa: E402
from tests.integrations.mmpretrain.agreement import both, same  # noqa: E402

pytestmark = pytest.mark.usefixtures("few_elements_too")
TIGHT = dict(rtol=1e-4, atol=1e-6)
L1, L2 = (dict(type="PixelReconstructionLoss", criterion=name) for name in ("L1", "L2"))


def loss_and_gradient(loss, pred, *rest, autocast=False):
    pred = pred.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = loss(pred, *rest)
    value.backward()
    return [value, pred.grad]


@pytest.fixture
def calls(monkeypatch):
    """The number of losses that our op made."""
    made, op = [], reconstruction.ops.masked_patch_loss
    monkeypatch.setattr(
        reconstruction.ops, "masked_patch_loss", lambda *a, **k: made.append(1) or op(*a, **k)
    )
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask_dtype", [torch.float32, torch.bool, torch.int64])
@pytest.mark.parametrize("criterion", [L1, L2])
@pytest.mark.parametrize("norm_pix", [False, True])
def test_mae_loss(norm_pix, criterion, mask_dtype, dtype, calls):
    torch.manual_seed(0)
    head = MAEPretrainHead(criterion | dict(channel=2), norm_pix, patch_size=8)
    images, mask = torch.randn(2, 3, 32, 32), (torch.rand(2, 16) < 0.7).to(mask_dtype)
    pred = torch.randn(2, 16, 192).to(dtype)
    tolerance = TIGHT if dtype == torch.float32 else dict(rtol=1e-2, atol=1e-5)
    same(*both(lambda: loss_and_gradient(head.loss, pred, images, mask)), **tolerance)
    assert calls
    ours, theirs = both(lambda: loss_and_gradient(head.loss, pred, images, mask, autocast=True))
    same(ours, theirs, **tolerance)


def test_mae_loss_of_realistic_size(calls):
    torch.manual_seed(0)
    head = MAEPretrainHead(L2, norm_pix=True, patch_size=16)
    images, mask = torch.randn(4, 3, 224, 224) * 2 + 1, (torch.rand(4, 196) < 0.75).float()
    pred = torch.randn(4, 196, 768)
    same(*both(lambda: loss_and_gradient(head.loss, pred, images, mask)), rtol=1e-4, atol=1e-9)
    assert calls


class HalfTarget(MAEPretrainHead):
    def construct_target(self, target):
        return super().construct_target(target) / 2


def test_mae_loss_hands_on_what_is_not_served(calls):
    torch.manual_seed(0)
    images, pred = torch.randn(2, 3, 32, 32), torch.randn(2, 16, 192)
    mask = (torch.rand(2, 16) < 0.7).float()
    hooked, cosine = (MAEPretrainHead(L2, True, 8) for _ in range(2))
    hooked.loss_module.register_forward_hook(lambda module, args, out: out * 3)
    cosine.loss_module = torch.nn.CosineEmbeddingLoss()
    cosine.loss_module.forward = lambda pred, target, mask: (pred * target).sum() * mask.sum()
    head = MAEPretrainHead(L2, True, 8)
    cases = [
        (HalfTarget(L2, True, 8), images, mask),
        (hooked, images, mask),
        (cosine, images, mask),
        (head, images, None),
        (head, images, mask * 0.5),  # weights
        (head, images, mask[:, :1]),  # broadcast
        (head, images, mask.double()),
        (head, images.double(), mask),
    ]
    for one, target, weights in cases:
        same(*both(lambda a=(one.loss, pred, target, weights): loss_and_gradient(*a)), **TIGHT)
    assert not calls
    leaf = images.clone().requires_grad_()
    head.loss(pred, leaf, mask).backward()
    assert leaf.grad is not None
    with pytest.raises((AssertionError, RuntimeError)):
        head.loss(pred, images[:, :, :16], mask)
    with pytest.raises(RuntimeError):
        MAEPretrainHead(L2, True, 8, in_channels=1).loss(pred, images, mask)


def test_without_masked_patches_the_loss_is_zero():
    head = MAEPretrainHead(L2, True, 8)
    pred, images, mask = torch.randn(2, 16, 192), torch.randn(2, 3, 32, 32), torch.zeros(2, 16)
    (ours, _), (theirs, _) = both(lambda: loss_and_gradient(head.loss, pred, images, mask))
    assert ours == 0
    assert theirs.isnan()


def test_masks_that_weigh_are_known():
    mask = torch.tensor([0.0, 1.0])
    marked = serving.marked_binary(torch.tensor([0.0, 1.0]))
    assert serving.is_binary(mask)
    assert serving.is_binary(marked)
    marked *= 0.5
    mask *= 0.5
    assert not serving.is_binary(marked)
    assert not serving.is_binary(mask)
    assert serving.is_binary(mask.bool())
    with torch.inference_mode():
        assert serving.is_binary(serving.marked_binary(torch.ones(3)))
    # Without a look, as on a GPU: the meta device has nothing to look at.
    meta = torch.zeros(2, device="meta")
    assert not serving.is_binary(meta)
    assert serving.is_binary(serving.marked_binary(meta))
    assert serving.is_binary(torch.zeros(2, device="meta", dtype=torch.int64))


@pytest.mark.parametrize("kind", [MAEPretrainHead, SparKPretrainHead, MixMIMPretrainHead])
@pytest.mark.parametrize("norm_pix", [False, True])
def test_construct_target(norm_pix, kind):
    torch.manual_seed(0)
    head = kind(L2, norm_pix=norm_pix, patch_size=8)
    for shape in ((2, 3, 8, 8), (2, 3, 96, 96)):
        for images in (torch.randn(shape), torch.randn(shape) * 50 + 100, torch.ones(shape)):
            same(*both(lambda i=images: [head.construct_target(i)]), rtol=1e-4, atol=2e-5)
    for dtype in (torch.float64, torch.bfloat16):
        images = torch.randn(2, 3, 32, 32).to(dtype)
        same(*both(lambda i=images: [head.construct_target(i)]), rtol=0, atol=0)
    single = MAEPretrainHead(L2, norm_pix, patch_size=1, in_channels=1)  # a variance of one: NaN
    images = torch.randn(2, 1, 4, 4)
    same(*both(lambda: [single.construct_target(images)]), rtol=0, atol=0, equal_nan=True)


def test_construct_target_keeps_the_gradient_and_the_images():
    head = MAEPretrainHead(L2, True, patch_size=8)
    images = torch.randn(1, 3, 8, 8)
    before = images.clone()

    def step():
        leaf = images.clone().requires_grad_()
        target = head.construct_target(leaf)
        target.square().mul(torch.arange(192)).sum().backward()
        return [target, leaf.grad]

    same(*both(step), rtol=1e-3, atol=1e-2)
    head.construct_target(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize("channel", [3, None])
@pytest.mark.parametrize("criterion", [L1, L2])
@pytest.mark.parametrize("size", [(2, 16), (2, 192)])
def test_simmim_loss(size, criterion, channel, calls):
    torch.manual_seed(0)
    batch, side = size
    head = SimMIMHead(4, criterion | dict(channel=channel))
    images, pred = torch.randn(2, batch, 3, side, side)
    mask = (torch.rand(batch, side // 4, side // 4) < 0.6).long()
    for dtype in (torch.int64, torch.bool, torch.float32):
        step = (head.loss, pred, images, mask.to(dtype))
        same(*both(lambda s=step: loss_and_gradient(*s)), **TIGHT)
        same(*both(lambda s=step: loss_and_gradient(*s, autocast=True)), **TIGHT)
    assert len(calls) == 6
    half = (head.loss, pred.bfloat16(), images, mask)
    same(*both(lambda: loss_and_gradient(*half)), rtol=1e-2, atol=1e-4)


def test_simmim_loss_hands_on_what_is_not_served(calls):
    torch.manual_seed(0)
    head = SimMIMHead(4, L1 | dict(channel=3))
    images, pred = torch.randn(2, 2, 3, 16, 16)
    mask = (torch.rand(2, 4, 4) < 0.6).long()
    for target, chosen in (
        (images[:, :1], mask),
        (images, mask * 2),
        (images, mask[:1]),
        (images.double(), mask),
    ):
        same(*both(lambda a=(head.loss, pred, target, chosen): loss_and_gradient(*a)), **TIGHT)
    assert not calls


@pytest.mark.parametrize("norm_pix", [False, True])
@pytest.mark.parametrize("criterion", [L1, L2])
def test_spark_loss(criterion, norm_pix, calls):
    torch.manual_seed(0)
    head = SparKPretrainHead(criterion, norm_pix=norm_pix, patch_size=16)
    images, pred = torch.randn(2, 2, 3, 32, 64)
    active = torch.rand(2, 1, 2, 4) < 0.4
    for autocast in (False, True):
        step = (head, pred, images, active)
        same(*both(lambda s=step, a=autocast: loss_and_gradient(*s, autocast=a)), **TIGHT)
    assert len(calls) == 2
    head.loss.register_forward_hook(lambda module, args, out: out * 2)
    same(*both(lambda: loss_and_gradient(head, pred, images, active)), **TIGHT)
    assert len(calls) == 2


@pytest.mark.parametrize("criterion", ["L1", "L2"])
@pytest.mark.parametrize("shape", [(2, 9, 12), (2, 3, 8, 8), (5, 4)])
def test_pixel_loss(shape, criterion):
    torch.manual_seed(0)
    loss = PixelReconstructionLoss(criterion, channel=2)
    pred, target = torch.randn(2, *shape)
    for autocast in (False, True):
        step = (loss, pred, target)
        same(*both(lambda s=step, a=autocast: loss_and_gradient(*s, autocast=a)), **TIGHT)
    mask = (torch.rand(shape[:2] if len(shape) == 3 else shape) < 0.5).float()
    same(*both(lambda: loss_and_gradient(loss, pred, target, mask)), rtol=0, atol=0)
    same(*both(lambda: loss_and_gradient(loss, pred.bfloat16(), target)), rtol=1e-2, atol=1e-5)
    same(*both(lambda: loss_and_gradient(loss, pred, target.double())), **TIGHT)


def test_mixmim_loss():
    torch.manual_seed(0)
    head = MixMIMPretrainHead(L2, norm_pix=True, patch_size=8)
    images, pred = torch.randn(2, 3, 32, 32), torch.randn(4, 16, 192)
    mask = (torch.rand(1, 16, 1) < 0.5).float()
    same(*both(lambda: loss_and_gradient(head.loss, pred, images, mask)), **TIGHT)
