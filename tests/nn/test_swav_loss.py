from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ssl_fast import nn, ops
from ssl_fast._testing.samples.sinkhorn import cosines


def crops(number, samples=6, dtype=torch.float32):
    return [crop.clone() for crop in cosines(dtype, number * samples, 9).split(samples)]


def expected(high, low, queues=None, temperature=0.1):
    """Pair by pair."""
    terms = []
    for i, scores in enumerate(high):
        assigned = scores if queues is None else torch.cat([scores, queues[i]])
        assigned = ops.sinkhorn(assigned, 0.05)[: len(scores)]
        for j, other in enumerate([*high, *low]):
            if j != i:
                terms.append(F.cross_entropy(other / temperature, assigned))
    return sum(terms) / len(terms)


def test_pairs():
    high, low = crops(2), crops(4)
    torch.testing.assert_close(nn.SwAVLoss()(high, low), expected(high, low))
    torch.testing.assert_close(nn.SwAVLoss()(high, []), expected(high, []))
    torch.testing.assert_close(nn.SwAVLoss(0.3)(high[:1], low), expected(high[:1], low, None, 0.3))
    assert nn.SwaVLoss is nn.SwAVLoss
    assert "sinkhorn_epsilon=0.05" in str(nn.SwAVLoss())


def test_queues():
    high, low, queues = crops(2), crops(3), crops(2, samples=20)
    with_queues = nn.SwAVLoss()(high, low, queues)
    torch.testing.assert_close(with_queues, expected(high, low, queues))
    assert not torch.allclose(with_queues, nn.SwAVLoss()(high, low))


def test_gradients_through_predictions_alone():
    leaves = [crop.double().requires_grad_() for crop in crops(3)]
    nn.SwAVLoss()(leaves[:2], leaves[2:]).backward()
    own = [leaf.detach().requires_grad_() for leaf in leaves]
    expected(own[:2], own[2:]).backward()
    for leaf, other in zip(leaves, own, strict=True):
        torch.testing.assert_close(leaf.grad, other.grad)


def test_autocast_and_narrow_types():
    high = crops(2, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.SwAVLoss()(high, [])
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected([x.float() for x in high], []))


def test_bad_arguments():
    high = crops(2)
    for name in ("temperature", "sinkhorn_epsilon", "sinkhorn_iterations"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            nn.SwAVLoss(**{name: 0})
    with pytest.raises(ValueError, match="0 high- and 2 low"):
        nn.SwAVLoss()([], high)
    with pytest.raises(ValueError, match="1 high- and 0 low"):
        nn.SwAVLoss()(high[:1], [])
    with pytest.raises(ValueError, match=r"\(5, 9\)"):
        nn.SwAVLoss()(high, [high[0][:5]])
    with pytest.raises(ValueError, match="1 queue_outputs"):
        nn.SwAVLoss()(high, [], high[:1])
