"""Masks and visible patches of the MAE family against mmpretrain's own, from the same seed."""

import pytest
import torch

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmpretrain.models.selfsup import MAEViT, MFFViT, MILANViT  # noqa: E402
from mmpretrain.models.selfsup.itpn import iTPNHiViT  # noqa: E402
from mmpretrain.models.selfsup.mae import MAEHiViT  # noqa: E402

from ssl_fast.integrations import mmpretrain as integration  # noqa: E402
from ssl_fast.integrations.mmpretrain import masking, serving  # noqa: E402
from tests.integrations.mmpretrain.agreement import both, same  # noqa: E402

pytestmark = pytest.mark.usefixtures("few_elements_too")

TINY = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


def encoder(kind=MAEViT, size=64, patch=16, **options):
    torch.manual_seed(1)
    vit = kind(arch=TINY, img_size=size, patch_size=patch, **options)
    vit.init_weights()
    return vit


def step(vit, x, *args, autocast=False):
    """Results and gradients of one forward and backward."""
    vit.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        results = vit(x, *args)
    features = results[0]
    (features * torch.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
    return [*results, *(p.grad for p in vit.parameters() if p.grad is not None), x.grad]


@pytest.mark.parametrize("ratio", [0.75, 0.0, 0.6, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(2, 16, 8), (3, 7, 5), (1, 1, 1), (8, 196, 96)])
def test_random_masking(shape, dtype, ratio):
    vit, x = encoder(), torch.randn(shape).to(dtype)

    def masked():
        leaf = x.clone().requires_grad_()
        kept, mask, ids = vit.random_masking(leaf, ratio)
        kept.sum().backward()
        return kept, mask, ids, leaf.grad

    same(*both(masked), rtol=0, atol=0)


def test_random_masking_hands_on_what_is_not_served(monkeypatch):
    vit = encoder()
    monkeypatch.setattr(masking.ops, "random_masking", None)
    same(*both(lambda: vit.random_masking(torch.ones(2, 16, 3, dtype=torch.int64), 0.5)))
    same(*both(lambda: vit.random_masking(torch.ones(2, 16, 3), -0.5)))
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    same(*both(lambda: vit.random_masking(torch.ones(2, 16, 3), 0.5)))


def test_few_tokens_are_handed_on(monkeypatch):
    vit, few, many = encoder(), torch.randn(2, 16, 8), torch.randn(2, 16, 8).repeat(64, 4, 2)
    monkeypatch.setattr(serving, "FEW", 2**16)
    assert vit.random_masking(many, 0.75)[0].shape == (128, 16, 16)
    monkeypatch.setattr(masking.ops, "random_masking", None)
    assert vit.random_masking(few, 0.75)[0].shape == (2, 4, 8)
    with pytest.raises(TypeError, match="not callable"):
        vit.random_masking(many, 0.75)


def test_masks_are_uniform():
    torch.manual_seed(2)
    mask = encoder().random_masking(torch.zeros(6000, 16, 1), 0.75)[1]
    assert (mask.sum(dim=1) == 12).all()
    # 3.3 standard deviations of a mean of 6000
    assert (mask.mean(dim=0) - 0.75).abs().max() < 3.3 * (0.75 * 0.25 / 6000) ** 0.5


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("mask", [True, False])
def test_forward(mask, autocast):
    vit, x = encoder(), torch.randn(3, 3, 64, 64)
    tolerance = dict(rtol=2e-2, atol=6e-2) if autocast else dict(rtol=1e-4, atol=1e-5)
    same(*both(lambda: step(vit, x, mask, autocast=autocast)), **tolerance)


def test_forward_embeds_only_what_is_visible(monkeypatch):
    calls = []
    visible = masking.ops.embed_visible_patches
    monkeypatch.setattr(
        masking.ops, "embed_visible_patches", lambda *a: calls.append(a[3].shape) or visible(*a)
    )
    vit, x = encoder(), torch.randn(2, 3, 64, 64)
    vit(x)
    assert calls == [(2, 4)]
    with integration.disable():
        vit(x)
    assert len(calls) == 1
    vit(x, mask=None)
    vit.patch_embed.projection.register_forward_hook(lambda *_: None)
    vit(x)
    assert len(calls) == 1


class OtherMasks(MAEViT):
    def random_masking(self, x, mask_ratio=0.75):
        return x[:, :2], torch.zeros(x.shape[:2]), torch.arange(x.shape[1]).expand(len(x), -1)


def unusual():
    frozen = encoder()
    frozen.patch_embed.requires_grad_(False)
    learnt = encoder()
    learnt.pos_embed.requires_grad_(True)
    hooked = encoder()
    hooked.patch_embed.register_forward_hook(lambda module, args, out: (out[0] * 2, out[1]))
    patched = encoder()
    patched.random_masking = OtherMasks.random_masking.__get__(patched)
    norm = dict(patch_cfg=dict(norm_cfg=dict(type="LN")))
    overlap = dict(patch_cfg=dict(kernel_size=16, stride=16, padding=0, dilation=1, bias=False))
    return [
        ("frozen patch embedding", frozen, 64),
        ("learnt positions", learnt, 64),
        ("hook", hooked, 64),
        ("masks on the instance", patched, 64),
        ("masks of a subclass", encoder(OtherMasks), 64),
        ("norm", encoder(**norm), 64),
        ("no bias", encoder(**overlap), 64),
        ("padded input", encoder(), 60),
        ("all kept", encoder(mask_ratio=0.0), 64),
        ("MFF", encoder(MFFViT, out_indices=[0, 1]), 64),
        ("patches of 8", encoder(size=32, patch=8), 32),
    ]


@pytest.mark.parametrize("case", unusual(), ids=lambda case: case[0])
def test_forward_of_unusual_encoders(case):
    _, vit, size = case
    x = torch.randn(2, 3, size, size)
    same(*both(lambda: step(vit, x)), rtol=1e-4, atol=1e-5)


def test_forward_in_half_precision_and_with_other_inputs_fails_as_without():
    vit, x = encoder(), torch.randn(2, 3, 64, 64)
    for wrong in (x.half(), x[:, :1], x[:, :, :, :32], x.byte()):
        with pytest.raises((RuntimeError, AssertionError)) as ours:
            vit(wrong)
        with integration.disable(), pytest.raises(ours.type):
            vit(wrong)
    vit = vit.bfloat16()
    same(*both(lambda: step(vit, x.bfloat16())), rtol=2e-2, atol=2e-1)


def test_realistic_size():
    vit = encoder(size=224, patch=16)
    x = torch.randn(4, 3, 224, 224)
    same(*both(lambda: step(vit, x)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", [MAEHiViT, iTPNHiViT])
def test_masking_id(kind):
    arch = dict(embed_dims=64, depths=[1, 1, 1], num_heads=2)
    vit = kind(arch=arch, img_size=64, patch_size=16, inner_patches=4, **OUT.get(kind, {}))
    vit.init_weights()
    for ratio in (0.75, 0.5, 0.0):
        same(*both(lambda r=ratio: vit.masking_id(3, r)), rtol=0, atol=0)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = both(lambda: vit(x))
    ours, theirs = (r[0] if isinstance(r[0], tuple) else r[:1] for r in (ours, theirs))
    same(ours, theirs, rtol=1e-4, atol=1e-5)


OUT = {MAEHiViT: dict(out_indices=[2])}


@pytest.mark.parametrize("shape", [(2, 16, 8), (3, 7, 5), (1, 1, 1), (8, 196, 96)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_attention_masking(shape, dtype):
    vit, x = encoder(MILANViT), torch.randn(shape)
    importance = torch.rand(shape[:2]).add(0.01).to(dtype)

    def masked():
        leaf = x.clone().requires_grad_()
        kept, *ids = vit.attention_masking(leaf, 0.75, importance)
        kept.sum().backward()
        return kept, *ids, leaf.grad

    if dtype != torch.bfloat16:  # equal quotients there, of which torch leaves the order open
        same(*both(masked), rtol=0, atol=0)
    else:
        ours, theirs = both(masked)
        assert [(t.shape, t.dtype) for t in ours] == [(t.shape, t.dtype) for t in theirs]


def test_attention_masking_draws_by_importance():
    torch.manual_seed(3)
    importance = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0])
    vit, x = encoder(MILANViT), torch.zeros(20000, 5, 1)
    _, ids_restore, keep, dump = vit.attention_masking(x, 0.6, importance.expand(20000, -1))
    assert keep.shape == (20000, 2)
    assert dump.shape == (20000, 3)
    order = torch.cat([keep, dump], dim=1)
    assert torch.equal(order.gather(1, ids_restore), torch.arange(5).expand(20000, -1))
    share = importance / importance.sum()
    first = torch.bincount(keep[:, 0], minlength=5) / 20000
    assert (first - share).abs().max() < 0.015
    # The second, given the first: the rest in proportion.
    pairs = torch.bincount(keep[:, 0] * 5 + keep[:, 1], minlength=25).view(5, 5) / 20000
    expected = share[:, None] * share / (1 - share[:, None])
    assert (pairs - expected.fill_diagonal_(0)).abs().max() < 0.015


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_attention_masking_refuses_what_is_no_probability(value):
    vit, importance = encoder(MILANViT), torch.ones(2, 4)
    importance[1, 2] = value
    with pytest.raises(RuntimeError, match="probability"):
        vit.attention_masking(torch.zeros(2, 4, 1), 0.5, importance)
    with pytest.raises(RuntimeError, match="multinomial"):
        vit.attention_masking(torch.zeros(2, 4, 1), 0.5, torch.zeros(2, 4))


@pytest.mark.parametrize("autocast", [False, True])
def test_milan_forward(autocast):
    vit, x, importance = encoder(MILANViT), torch.randn(3, 3, 64, 64), torch.rand(3, 16)
    tolerance = dict(rtol=2e-2, atol=6e-2) if autocast else dict(rtol=1e-4, atol=1e-5)
    same(*both(lambda: step(vit, x, importance, autocast=autocast)), **tolerance)
    with torch.no_grad():
        same(*both(lambda: vit(x, None)))
