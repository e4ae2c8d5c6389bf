"""The contrastive modules against the formulas of the libraries whose signatures they have."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F

from ssl_fast import nn, ops


def rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_nt_xent_loss():
    z0, z1 = rows(6, 4), rows(6, 4, seed=1)
    assert torch.equal(nn.NTXentLoss()(z0, z1), ops.nt_xent(z0, z1, 0.5))
    assert torch.equal(nn.NTXentLoss(temperature=0.1)(z0, z1), ops.nt_xent(z0, z1, 0.1))


def test_nt_xent_loss_with_a_bank():
    loss = nn.NTXentLoss(0.2, memory_bank_size=(10, 4))
    z0, z1 = rows(6, 4).requires_grad_(), rows(6, 4, seed=1)
    bank = loss.memory_bank.bank.clone()
    query, keys = F.normalize(z0, dim=1), F.normalize(z1, dim=1)
    logits = torch.cat([(query * keys).sum(dim=1, keepdim=True), query @ bank.T], dim=1) / 0.2
    expected = F.cross_entropy(logits, torch.zeros(6, dtype=torch.int64))
    torch.testing.assert_close(loss(z0, z1), expected)
    torch.testing.assert_close(loss.memory_bank.bank[:6], keys)
    assert torch.equal(loss.memory_bank.bank[6:], bank[6:])


def test_bank_stays_without_gradient():
    loss = nn.NTXentLoss(0.2, memory_bank_size=(10, 4))
    bank = loss.memory_bank.bank.clone()
    loss(rows(6, 4), rows(6, 4, seed=1))
    assert torch.equal(loss.memory_bank.bank, bank)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 1e-9}, "expected 1e-8 or more"),
        ({"temperature": 0.0}, "expected a positive"),
        ({"memory_bank_size": 64}, r"memory_bank_size is 64; expected 0 or \(size, dim\)"),
        ({"memory_bank_size": (1, 2, 3)}, "expected 0 or"),
        ({"memory_bank_size": (0, 2)}, "size is 0"),
    ],
)
def test_bad_nt_xent_loss(arguments, message):
    with pytest.raises(ValueError, match=message):
        nn.NTXentLoss(**arguments)


def test_memory_bank_wraps():
    bank = nn.MemoryBank(5, 2)
    first = bank.bank.clone()
    keys = rows(8, 2, seed=3)
    bank.enqueue(keys[:3])
    assert torch.equal(bank.bank, torch.cat([keys[:3], first[3:]]))
    bank.enqueue(keys[3:7].bfloat16())
    assert torch.equal(
        bank.bank, torch.cat([keys[5:7].bfloat16(), keys[2:3], keys[3:5].bfloat16()])
    )
    assert bank.pointer == 2


def test_memory_bank_keeps_the_last_of_too_many():
    bank, keys = nn.MemoryBank(5, 2), rows(13, 2)
    bank.enqueue(keys[:2])
    bank.enqueue(keys[2:])
    assert {tuple(row) for row in bank.bank.tolist()} == {tuple(row) for row in keys[-5:].tolist()}
    bank.enqueue(torch.full((1, 2), 7.0))  # over the oldest
    assert tuple(keys[-5].tolist()) not in {tuple(row) for row in bank.bank.tolist()}


def test_memory_bank_in_a_checkpoint():
    bank, other, file = nn.MemoryBank(5, 2), nn.MemoryBank(5, 2), io.BytesIO()
    bank.enqueue(rows(3, 2))
    torch.save(bank.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for memory in (bank, other):
        memory.enqueue(rows(4, 2, seed=1))
    assert torch.equal(bank.bank, other.bank)


def test_bad_keys():
    bank = nn.MemoryBank(5, 2)
    with pytest.raises(ValueError, match=r"keys has shape \(4, 3\); expected \[N, 2\]"):
        bank.enqueue(rows(4, 3))
    with pytest.raises(TypeError, match=r"keys is torch.int64"):
        bank.enqueue(torch.zeros(4, 2, dtype=torch.int64))


def test_info_nce_loss():
    query, keys, queue = rows(6, 4), rows(6, 4, seed=1), rows(9, 4, seed=2)
    loss = nn.InfoNCELoss(0.3)
    assert torch.equal(loss(query, keys), ops.info_nce(query, keys, None, 0.3))
    assert torch.equal(loss(query, keys, queue=queue), ops.info_nce_queue(query, keys, queue, 0.3))
    with pytest.raises(ValueError, match="with a queue leave them out"):
        loss(query, keys, torch.arange(6), queue)


def test_clip_losses():
    image, text = F.normalize(rows(6, 4), dim=1), F.normalize(rows(6, 4, seed=1), dim=1)
    loss = nn.ClipLoss(local_loss=True, gather_with_grad=True, cache_labels=True)
    assert torch.equal(loss(image, text, 10.0), ops.clip_loss(image, text, 10.0))
    found = loss(image, text, torch.tensor(10.0), logit_bias=torch.tensor(1.0), output_dict=True)
    assert list(found) == ["contrastive_loss"]
    loss = nn.SigLipLoss(dist_impl="gather", chunk_size=4)
    assert torch.equal(loss(image, text, 10.0, -10.0), ops.siglip_loss(image, text, 10.0, -10.0))
    assert list(loss(image, text, 10.0, -10.0, output_dict=True)) == ["contrastive_loss"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.ClipLoss(use_horovod=True), "use_horovod is True"),
        (lambda: nn.ClipLoss(rank=2, world_size=2), "rank is 2 of world_size 2"),
        (lambda: nn.SigLipLoss(dist_impl="ring"), "dist_impl is 'ring'; accepted are"),
        (lambda: nn.ClipLoss(world_size=2)(rows(2, 2), rows(2, 2), 1.0), "has 1 processes"),
    ],
)
def test_bad_clip_losses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
