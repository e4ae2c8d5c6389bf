"""The decoders of MAE, MILAN and iTPN against mmpretrain's own."""

import pytest
import torch

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmpretrain.models.necks import (  # noqa: E402
    MAEPretrainDecoder,
    MILANPretrainDecoder,
    iTPNPretrainDecoder,
)
from mmpretrain.models.utils import PromptMultiheadAttention  # noqa: E402

from ssl_fast.integrations.mmpretrain import decoders  # noqa: E402
from tests.integrations.mmpretrain.agreement import alike, both, same  # noqa: E402

pytestmark = pytest.mark.usefixtures("few_elements_too")
TIGHT = dict(rtol=1e-4, atol=1e-5)


def built(kind, patches=16, **options):
    torch.manual_seed(1)
    neck = kind(num_patches=patches, patch_size=16, embed_dim=32, **options)
    neck.init_weights()
    return neck


def small(kind, patches=16):
    options = dict(decoder_embed_dim=48, decoder_depth=2, decoder_num_heads=4)
    return built(kind, patches, **options)


def step(neck, inputs, *ids, autocast=False):
    """Prediction and gradients of one forward and backward."""
    neck.zero_grad()
    leaves = [x.clone().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        pred = neck(leaves[0] if len(leaves) == 1 else tuple(leaves), *ids)
    (pred * torch.linspace(-1, 1, pred.numel()).view_as(pred)).sum().backward()
    gradients = [p.grad for p in neck.parameters() if p.grad is not None]
    return [pred, *gradients, *(leaf.grad for leaf in leaves)]


def shuffled(batch, length, kept):
    ids = torch.rand(batch, length).argsort(dim=1)
    return ids.argsort(dim=1), ids[:, :kept], ids[:, kept:]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kept", [0, 4, 16])
@pytest.mark.parametrize("patches", [16, 196])
def test_mae_decoder(patches, kept, autocast):
    neck, x = small(MAEPretrainDecoder, patches), torch.randn(2, 1 + kept, 32)
    restore, _, _ = shuffled(2, patches, kept)
    ours, theirs = both(lambda: step(neck, [x], restore, autocast=autocast))
    alike(ours, theirs, 0.05 if autocast else 1e-5)


def test_mae_decoder_with_learnt_positions_and_a_frozen_token(monkeypatch):
    neck, x = small(MAEPretrainDecoder), torch.randn(2, 5, 32)
    neck.decoder_pos_embed.requires_grad_(True)
    neck.mask_token.requires_grad_(False)
    restore, _, _ = shuffled(2, 16, 4)
    same(*both(lambda: step(neck, [x], restore)), **TIGHT)
    monkeypatch.setattr(decoders.ops, "restore_tokens", None)
    with pytest.raises(TypeError, match="not callable"):
        neck(x, restore)
    # Handed on: ids of 32 bits, positions that are repeated.
    same(*both(lambda: step(neck, [x], restore.int())), **TIGHT)
    neck.decoder_pos_embed = torch.nn.Parameter(torch.randn(1, 1, 48))
    same(*both(lambda: step(neck, [x], restore)), **TIGHT)


@pytest.mark.parametrize("autocast", [False, True])
def test_milan_decoder(autocast):
    neck, x = small(MILANPretrainDecoder), torch.randn(2, 5, 32)
    ours, theirs = both(lambda: step(neck, [x], *shuffled(2, 16, 4), autocast=autocast))
    alike(ours, theirs, 0.05 if autocast else 1e-5)


def test_milan_decoder_of_realistic_size():
    neck, x = small(MILANPretrainDecoder, 196), torch.randn(2, 50, 32)
    same(*both(lambda: step(neck, [x], *shuffled(2, 196, 49))), rtol=1e-3, atol=1e-4)


def test_prompt_attention():
    torch.manual_seed(0)
    attention = PromptMultiheadAttention(32, 4, attn_drop=0.5)
    x, visible, ids = torch.randn(2, 12, 32), torch.randn(2, 5, 32), shuffled(2, 16, 4)[0]
    with pytest.raises(AssertionError):
        attention(x[:, 1:], visible, ids)
    for training in (True, False):  # with dropout the same noise would fall on other keys
        attention.train(training)
        same(*both(lambda: [attention(x, visible, ids)]), **TIGHT)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("num_outs", [2, 3])
@pytest.mark.parametrize("fpn_dim", [16, 32])
def test_itpn_decoder(num_outs, fpn_dim, autocast):
    options = dict(decoder_embed_dim=48, decoder_depth=1, decoder_num_heads=4, num_outs=num_outs)
    neck = built(iTPNPretrainDecoder, fpn_dim=fpn_dim, fpn_depth=1, **options)
    levels = [torch.randn(2, 4, 4, 4, 8), torch.randn(2, 4, 2, 2, 16), torch.randn(2, 4, 32)]
    restore, _, _ = shuffled(2, 16, 4)
    used = levels if num_outs == 3 else [levels[0].detach(), *levels[1:]]

    def stepped():
        results = step(neck, used, restore, autocast=autocast)
        return [r for r in results if r is not None]

    alike(*both(stepped), 0.05 if autocast else 1e-5)


def test_itpn_decoder_of_clip_features():
    neck = built(
        iTPNPretrainDecoder,
        fpn_dim=32,
        fpn_depth=1,
        decoder_embed_dim=32,
        reconstruction_type="clip",
    )
    levels = (torch.randn(2, 4, 4, 4, 8), torch.randn(2, 4, 2, 2, 16), torch.randn(2, 4, 32))
    with torch.no_grad():
        same(*both(lambda: [neck(levels)]), rtol=0, atol=0)
