"""HiViT and iTPN with visible patches alone, from the same seed as mmpretrain's own."""

import pytest
import torch

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmpretrain.models import HiViT  # noqa: E402
from mmpretrain.models.selfsup.itpn import iTPNHiViT  # noqa: E402
from mmpretrain.models.selfsup.mae import MAEHiViT  # noqa: E402

from ssl_fast.integrations.mmpretrain import hivit  # noqa: E402
from tests.integrations.mmpretrain.agreement import alike, both, no_worse, same  # noqa: E402


def encoder(kind, size=64, **options):
    torch.manual_seed(1)
    arch = dict(embed_dims=64, depths=[1, 1, 2], num_heads=2)
    if kind is MAEHiViT:
        options = dict(out_indices=[5], **options)
    vit = kind(arch=arch, img_size=size, patch_size=16, inner_patches=4, **options)
    vit.init_weights()
    return vit


def step(vit, x, autocast=False):
    vit.zero_grad()
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        features, mask, ids = vit(x)
    features = features if isinstance(features, tuple) else (features,)
    for level in features:
        (level * torch.linspace(-1, 1, level.numel()).view_as(level)).sum().backward(
            retain_graph=True
        )
    return [*features, mask, ids, *(p.grad for p in vit.parameters() if p.grad is not None), x.grad]


@pytest.mark.parametrize("kind", [MAEHiViT, iTPNHiViT])
def test_forward(kind, monkeypatch):
    vit, x = encoder(kind), torch.randn(3, 3, 64, 64)
    visible, calls = hivit.visible_patches, []
    monkeypatch.setattr(
        hivit, "visible_patches", lambda *a: calls.append(a[1].shape) or visible(*a)
    )
    ours, theirs = both(lambda: step(vit, x))
    alike(ours, theirs, 1e-4)
    assert calls == [(3, 4)]
    no_worse(*both(lambda: step(vit, x, autocast=True)), theirs)


@pytest.mark.parametrize("kind", [MAEHiViT, iTPNHiViT])
def test_realistic_size(kind):
    vit, x = encoder(kind, size=224, mask_ratio=0.6), torch.randn(2, 3, 224, 224)
    same(*both(lambda: step(vit, x)), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [MAEHiViT, iTPNHiViT])
def test_unusual_encoders(kind, monkeypatch):
    x = torch.randn(2, 3, 64, 64)
    bare = encoder(kind)
    bare.ape = False
    frozen = encoder(kind)
    frozen.patch_embed.requires_grad_(False)
    learnt = encoder(kind)
    learnt.pos_embed.requires_grad_(True)
    for vit in (bare, frozen, learnt, encoder(kind, mask_ratio=0.0)):
        same(*both(lambda v=vit: step(v, x)), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(hivit, "visible_patches", None)
    hooked = encoder(kind)
    hooked.patch_embed.register_forward_hook(lambda module, args, out: out * 2)
    padded = encoder(kind)
    padded.patch_embed.proj = torch.nn.Conv2d(3, 16, 6, 4, 1)
    for vit in (hooked, padded):
        same(*both(lambda v=vit: step(v, x)), rtol=1e-4, atol=1e-4)


class OtherMasks(iTPNHiViT):
    def masking_id(self, batch_size, mask_ratio):
        ids = torch.arange(16).expand(batch_size, -1)
        return ids[:, :4], ids, torch.ones(batch_size, 16)


def test_masks_of_a_subclass():
    vit = encoder(OtherMasks)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(vit(x)[2], torch.arange(16).expand(2, -1))
    same(*both(lambda: step(vit, x)), rtol=1e-4, atol=1e-4)


def test_features_without_masks_stay(monkeypatch):
    monkeypatch.setattr(hivit, "visible_patches", None)
    monkeypatch.setattr(HiViT, "forward", lambda self, x: x)
    x = torch.randn(2, 3, 64, 64)
    for kind in (MAEHiViT, iTPNHiViT):
        assert encoder(kind)(x, mask=None) is x
