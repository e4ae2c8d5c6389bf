"""The losses as users call them: formulas, special inputs, types, errors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import ssl_fast
from ssl_fast import ops
from ssl_fast.ops.contrastive import small

N, D = 12, 7


@pytest.fixture(params=["ops", "small"], autouse=True)
def way(request, monkeypatch):
    """Batches as small as these go through torch's own steps: here through our ops as well."""
    if request.param == "ops":
        monkeypatch.setattr(small, "PAIRS", dict.fromkeys(small.PAIRS, -1))


def rows(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def cross_entropy_of_views(z0, z1, temperature):
    """NT-Xent by torch's cross entropy, row by row of the definition."""
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    logits = z @ z.T / temperature
    logits = logits - torch.diag(torch.full((len(z),), torch.inf, dtype=z.dtype))
    return F.cross_entropy(logits, torch.arange(len(z)).roll(-len(z0)))


def gradients(loss, *leaves):
    return torch.autograd.grad(loss, leaves)


def assert_same(loss, expected, *leaves, tolerance=1e-9):
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=tolerance)
    for got, right in zip(gradients(loss, *leaves), gradients(expected, *leaves), strict=True):
        torch.testing.assert_close(got, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 2.0])
def test_nt_xent(temperature):
    z0, z1 = rows(N, D).requires_grad_(), rows(N, D, seed=1).requires_grad_()
    t = torch.tensor([temperature], dtype=torch.float64, requires_grad=True)
    assert_same(ops.nt_xent(z0, z1, t), cross_entropy_of_views(z0, z1, t), z0, z1, t)


def test_info_nce():
    query, keys = rows(N, D).requires_grad_(), rows(20, D, seed=1).requires_grad_()
    targets = torch.randint(20, (N,), generator=torch.Generator().manual_seed(0))
    loss = ops.info_nce(query, keys, targets, 0.3)
    assert_same(loss, F.cross_entropy(query @ keys.T / 0.3, targets), query, keys)


def test_info_nce_queue():
    query, positive = rows(N, D).requires_grad_(), rows(N, D, seed=1).requires_grad_()
    queue = rows(D, 30, seed=2)  # as mmpretrain has it
    matched = (query * positive).sum(dim=1, keepdim=True)
    expected = torch.cat([matched, query @ queue], dim=1) / 0.2
    expected = F.cross_entropy(expected, torch.zeros(N, dtype=torch.int64))
    assert_same(ops.info_nce_queue(query, positive, queue.t(), 0.2), expected, query, positive)


def test_queue_may_be_overwritten_before_the_backward():
    query, positive = rows(N, D).requires_grad_(), rows(N, D, seed=1)
    queue = rows(30, D, seed=2)
    (expected,) = gradients(ops.info_nce_queue(query, positive, queue, 0.2), query)
    loss = ops.info_nce_queue(query, positive, queue, 0.2)
    queue.zero_()
    assert torch.equal(gradients(loss, query)[0], expected)


def test_clip_loss():
    image, text = rows(N, D).requires_grad_(), rows(N, D, seed=1).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    logits = scale * image @ text.T
    expected = (
        F.cross_entropy(logits, torch.arange(N)) + F.cross_entropy(logits.T, torch.arange(N))
    ) / 2
    assert_same(ops.clip_loss(image, text, scale), expected, image, text, scale)


def test_clip_loss_does_not_depend_on_the_bias():
    image, text = rows(N, D), rows(N, D, seed=1)
    bias = torch.tensor(-10.0, requires_grad=True)
    loss = ops.clip_loss(image, text, 3.0, logit_bias=bias)
    assert torch.equal(loss, ops.clip_loss(image, text, 3.0))
    assert gradients(loss, bias)[0] == 0


def test_siglip_loss():
    image, text = rows(N, D).requires_grad_(), rows(N, D, seed=1).requires_grad_()
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-4.0, dtype=torch.float64, requires_grad=True)
    signs = 2 * torch.eye(N, dtype=torch.float64) - 1
    expected = -F.logsigmoid(signs * (scale * image @ text.T + bias)).sum() / N
    assert_same(ops.siglip_loss(image, text, scale, bias), expected, image, text, scale, bias)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identical_rows(dtype):
    """All logits are one: the loss is the logarithm of their number, nothing is to be learnt."""
    z = torch.ones(9, 5, dtype=dtype, requires_grad=True)
    loss = ops.nt_xent(z, z, 0.1)
    assert loss.item() == pytest.approx(math.log(17), rel=1e-5)
    assert gradients(loss, z)[0].abs().max() < 2e-2
    assert ops.clip_loss(z / 3, z / 3, 100.0).item() == pytest.approx(math.log(9), rel=1e-5)


def test_zero_rows():
    z0, z1 = torch.zeros(4, 5, requires_grad=True), rows(4, 5).float()
    loss = ops.nt_xent(z0, z1, 0.5)
    expected = cross_entropy_of_views(z0, z1, 0.5)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradients(loss, z0), gradients(expected, z0), rtol=1e-4, atol=0)


def test_one_sample_has_no_loss():
    z0, z1 = rows(1, D).float().requires_grad_(), rows(1, D, seed=1).float()
    losses = (
        ops.nt_xent(z0, z1, 0.1),
        ops.info_nce(z0, z1),
        ops.clip_loss(z0, z1, 10.0),
        ops.info_nce_queue(z0, z1, z1[:0], 0.1),
    )
    for loss in losses:
        assert loss.item() == 0
        assert not gradients(loss, z0)[0].any()


def test_never_negative():
    """The positive's logit is one of those that are summed, from the same product."""
    z = F.normalize(torch.eye(64, 48) + 1e-3 * rows(64, 48).float(), dim=1)
    for dtype in (torch.float32, torch.bfloat16):
        for temperature in (0.01, 0.02, 0.1):
            x = z.to(dtype)
            assert ops.nt_xent(x, x, temperature) >= 0
            assert ops.clip_loss(x, x, 1 / temperature) >= 0
            assert ops.info_nce(x, x, None, temperature) >= 0
            assert ops.info_nce_queue(x, x, x.roll(1, 0), temperature) >= 0


def test_cold_and_far():
    """At temperature 0.01 logits reach from -100 to 100: sums keep what is small in their tile."""
    z = torch.cat([torch.eye(3), -torch.eye(3)])
    z0, z1 = z.clone().requires_grad_(), z.roll(3, 0).clone().requires_grad_()
    loss = ops.nt_xent(z0, z1, 0.01)
    assert_same(loss, cross_entropy_of_views(z0, z1, 0.01), z0, z1, tolerance=1e-5)


def test_views_of_other_types():
    loss = ops.nt_xent(rows(N, D).float(), rows(N, D, seed=1).bfloat16())
    assert loss.dtype == torch.float32
    assert ops.nt_xent(rows(N, D), rows(N, D, seed=1)).dtype == torch.float64


def test_autocast_rounds_for_the_product_alone():
    z0, z1 = rows(N, D).float().requires_grad_(), rows(N, D, seed=1).float()
    z0.retain_grad()
    with torch.autocast("cpu", torch.bfloat16):
        loss = ops.nt_xent(z0, z1)
    normalized = (F.normalize(z, dim=1).bfloat16() for z in (z0, z1))
    assert torch.equal(loss, ops.nt_xent(*normalized, normalize=False))
    (gradient,) = gradients(loss, z0)
    assert gradient.dtype == torch.float32


def test_gradients_of_float16_survive_loss_scaling():
    z0, z1 = (rows(256, D, seed=seed).half().requires_grad_() for seed in (0, 1))
    right = gradients(ops.nt_xent(z0.float(), z1.float()), z0)[0]
    scaled = gradients(4096 * ops.nt_xent(z0, z1), z0)[0].float() / 4096
    assert (scaled - right).abs().max() < 0.01 * right.abs().max()


def test_without_gradient():
    z = rows(N, D).requires_grad_()
    with torch.no_grad():
        assert not ops.nt_xent(z, z).requires_grad
    assert not ops.nt_xent(z.detach(), z.detach()).requires_grad


def test_compat():
    z0, z1 = rows(N, D), rows(N, D, seed=1)
    z0[0] = 1e-8
    loss = ops.nt_xent(z0, z1, compat="mmpretrain")
    z = torch.cat([z0, z1])
    z = z / (z.norm(dim=1, keepdim=True) + 1e-10)
    assert torch.equal(loss, ops.nt_xent(z[:N], z[N:], normalize=False))


def test_a_forced_backend_serves_small_batches_too(way, monkeypatch):
    z = rows(N, D)
    assert small.is_small("nt_xent", z, z) == (small.PAIRS["nt_xent"] > 0)
    with ssl_fast.backend("reference"):
        assert not small.is_small("nt_xent", z, z)


x = torch.zeros(4, 3)
BAD = [
    (lambda: ops.nt_xent(x, [1.0]), TypeError, "z1 is a list; expected a tensor"),
    (lambda: ops.nt_xent(x.long(), x), TypeError, "z0 is torch.int64; accepted are float16"),
    (lambda: ops.nt_xent(x[0], x), ValueError, r"z0 has shape \(3,\); expected \[n, D\]"),
    (lambda: ops.nt_xent(x, x[:3]), ValueError, "z0 has 4 rows and z1 3"),
    (lambda: ops.nt_xent(x[:0], x[:0]), ValueError, "z0 has no rows"),
    (lambda: ops.nt_xent(x, x[:, :2]), ValueError, "expected features of one size D"),
    (lambda: ops.nt_xent(x, x, 0.0), ValueError, "temperature is 0.0; expected a positive"),
    (lambda: ops.nt_xent(x, x, -1), ValueError, "temperature is -1; expected a positive"),
    (lambda: ops.nt_xent(x, x, "1"), TypeError, "temperature is a str; expected a number"),
    (lambda: ops.nt_xent(x, x, torch.ones(2)), ValueError, "expected one element"),
    (lambda: ops.nt_xent(x, x, compat="lightly"), ValueError, "accepted are None and 'mmpretrain'"),
    (lambda: ops.nt_xent(x, x, group=object()), RuntimeError, "not initialised"),
    (lambda: ops.nt_xent(x, x.to("meta")), ValueError, "z1 is on meta, z0 on cpu"),
    (lambda: ops.info_nce(x, x, torch.zeros(4)), TypeError, "targets is torch.float32"),
    (lambda: ops.info_nce(x, x, torch.arange(3)), ValueError, r"shape \(3,\); expected \(4,\)"),
    (lambda: ops.info_nce(x, x, torch.arange(1, 5)), ValueError, r"in 1 .. 4; there are 4 keys"),
    (lambda: ops.info_nce(x, x[:2]), ValueError, "4 queries and 2 keys; give targets"),
    (lambda: ops.info_nce(x, x[:0]), ValueError, "keys has no rows"),
    (lambda: ops.info_nce_queue(x, x, x.t()), ValueError, "features of one size D"),
    (lambda: ops.clip_loss(x, x, torch.tensor(1)), TypeError, "logit_scale is torch.int64"),
    (lambda: ops.clip_loss(x, x, math.inf), ValueError, "logit_scale is inf; expected a finite"),
    (lambda: ops.siglip_loss(x, x, 1.0, None), TypeError, "logit_bias is a NoneType"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()
