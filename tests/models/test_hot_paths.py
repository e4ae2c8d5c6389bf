"""What a model calls in a step: normalised images, masks, targets, similarity."""

import pytest
import torch
from torch import nn

from ssl_fast import ops
from ssl_fast.models import (
    MODELS,
)
from ssl_fast.nn import HOGGenerator

from .toys import images, plain, toy_config


def test_uint8_batches_are_normalised_and_floats_are_not():
    model = plain(data_preprocessor=dict(mean=[1.0], std=[2.0], keep_uint8=True))
    batch = images(1, 16)
    floats = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(model.normalized(batch), (batch.float() - 1) / 2)
    assert model.normalized(floats) is floats
    views = model.normalized([floats, batch])
    assert views[0] is floats
    torch.testing.assert_close(views[1], (batch.float() - 1) / 2)


def test_each_view_has_its_own_statistics():
    config = dict(type="TwoNormDataPreprocessor", second_mean=[1.0], second_std=[2.0])
    model = plain(data_preprocessor=config)
    batch = images(1, 16)
    first, second = model.normalized([batch, batch])
    torch.testing.assert_close(first, batch.float())
    torch.testing.assert_close(second, (batch.float() - 1) / 2)


def test_extract_feat_takes_uint8():
    model = MODELS.build(toy_config())
    batch = images()
    floats = model.data_preprocessor.normalize(batch)
    torch.testing.assert_close(model.extract_feat(batch), model.extract_feat(floats))


def test_uint8_needs_a_preprocessor_that_normalises():
    model = plain(data_preprocessor=nn.Identity())
    with pytest.raises(TypeError, match=r"data_preprocessor \(Identity\) has no normalize"):
        model.normalized(images())


class Sample:
    def __init__(self, mask=None):
        if mask is not None:
            self.mask = mask


def test_masks_of_every_form_of_data_samples():
    model = plain()
    masks = torch.arange(8).reshape(2, 2, 2) % 2 == 0
    assert model.masks_of(None) is None
    assert model.masks_of({"seed": 1}) is None
    assert model.masks_of({"mask": masks}) is masks
    assert model.masks_of([Sample(), Sample()]) is None
    assert torch.equal(model.masks_of([Sample(masks[0]), Sample(masks[1])]), masks)
    assert torch.equal(model.masks_of([Sample(mask.numpy()) for mask in masks]), masks)
    with pytest.raises(ValueError, match="1 of 2 data samples have a mask"):
        model.masks_of([Sample(masks[0]), Sample()])


def test_randomness_of_data_samples():
    model = plain()
    ids = torch.arange(2)
    assert model.randomness_of(None) == {}
    assert model.randomness_of([Sample()]) == {}
    assert model.randomness_of({"seed": 0, "sample_ids": ids, "mask": 1}) == {
        "seed": 0,
        "sample_ids": ids,
    }
    assert model.randomness_of({"seed": None, "sample_ids": ids}) == {"sample_ids": ids}


def test_sample_mask_hands_all_to_the_op(monkeypatch):
    calls = []
    monkeypatch.setattr(ops, "block_mask", lambda *a, **k: calls.append((a, k)))
    plain().sample_mask(3, (2, 4), 5, seed=7, min_block=2)
    options = {"seed": 7, "sample_ids": None, "device": torch.device("cpu"), "min_block": 2}
    assert calls == [((3, (2, 4), 5), options)]
    plain().sample_mask(3, (2, 4), 5, device="meta")
    assert calls[1][1]["device"] == "meta"


def test_sample_mask_draws_blockwise_masks_by_seed_and_sample():
    ids = torch.arange(3)
    both = [plain().sample_mask(3, (8, 8), 20, seed=1, sample_ids=ids) for _ in range(2)]
    assert torch.equal(*both)
    assert both[0].dtype == torch.bool
    assert both[0].flatten(1).sum(1).tolist() == [20] * 3
    shifted = plain().sample_mask(2, (8, 8), 20, seed=1, sample_ids=ids[1:])
    assert torch.equal(shifted, both[0][1:])


def test_sample_mask_needs_a_count():
    with pytest.raises(ValueError, match="num_masked is None"):
        plain().sample_mask(3, (2, 4))


def test_similarity_loss_hands_all_to_the_op(monkeypatch):
    calls = []
    monkeypatch.setattr(ops, "nt_xent", lambda *a, **k: calls.append((a, k)))
    plain().similarity_loss("z0", "z1", 0.2, group="all")
    assert calls == [(("z0", "z1"), {"temperature": 0.2, "group": "all"})]


def test_similarity_loss_takes_what_is_one():
    with pytest.raises(ValueError, match="op is 'hog'; accepted are nt_xent, info_nce, info_"):
        plain().similarity_loss(1, 2, op="hog")


def test_build_target_computes_only_the_tokens_wanted():
    model = plain(target_generator=HOGGenerator())
    batch = images()
    every = model.build_target(batch)
    ids = torch.tensor([[3, 0], [195, 7]])
    chosen = torch.take_along_dim(every, ids[..., None], dim=1)
    assert every.shape == (2, 196, 108)
    torch.testing.assert_close(model.build_target(batch, ids=ids), chosen)
    mask = torch.zeros(2, 196).index_fill(1, torch.tensor([5]), 1)
    masked = model.build_target(batch, mask=mask)
    torch.testing.assert_close(masked[:, 5], every[:, 5])
    assert masked[:, 6].eq(0).all()


def test_build_target_of_a_generator_that_computes_all():
    model = plain(target_generator=nn.Flatten(2))
    batch = torch.arange(12.0).reshape(1, 3, 2, 2)
    ids = torch.tensor([[2, 0]])
    expected = torch.tensor([[[8.0, 9, 10, 11], [0, 1, 2, 3]]])
    torch.testing.assert_close(model.build_target(batch, ids=ids), expected)
    assert model.build_target(batch, mask=torch.ones(1, 3)).shape == (1, 3, 4)


def test_build_target_without_a_generator():
    with pytest.raises(RuntimeError, match="Toy has no target_generator"):
        plain().build_target(images())


def test_build_target_compiles_without_a_break():
    model = plain(target_generator=HOGGenerator())
    batch, ids = images(), torch.tensor([[3, 0], [195, 7]])
    compiled = torch.compile(model.build_target, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(batch, ids=ids), model.build_target(batch, ids=ids))
