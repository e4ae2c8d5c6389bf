"""What `ops.barlow_twins_loss` says of its arguments, and that it is what others compute."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ssl_fast import ops
from ssl_fast._testing.samples.cross_correlation import views


def upstream(z0, z1, lambda_=0.0051, eps=1e-5):
    """The paper's algorithm, step by step, as mmpretrain's head has it."""
    h0, h1 = (F.batch_norm(z, None, None, training=True, eps=eps) for z in (z0, z1))
    c = h0.T @ h1 / len(z0)
    on = (c.diagonal() - 1).square().sum()
    off = c.flatten()[:-1].view(c.shape[0] - 1, c.shape[0] + 1)[:, 1:]
    return on + lambda_ * off.square().sum()


def both(loss, z0, z1, *args, **options):
    leaves = [z.detach().clone().requires_grad_() for z in (z0, z1)]
    value = loss(*leaves, *args, **options)
    (3 * value).backward()
    return (value.detach(), *(leaf.grad for leaf in leaves))


@pytest.mark.parametrize("shape", [(4, 30), (16, 32), (15, 29), (30, 30), (200, 70), (33, 200)])
def test_equal_to_upstream(shape):
    z0, z1 = views(torch.float64, *shape)
    for options in ({}, {"lambda_": 0.5}, {"lambda_": 0.0}, {"eps": 0.1}):
        for result, expected in zip(
            both(ops.barlow_twins_loss, z0, z1, **options),
            both(upstream, z0, z1, **options),
            strict=True,
        ):
            torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shape", [(40, 500), (500, 40), (300, 300)])
def test_float32_and_the_same_twice(shape):
    z0, z1 = views(torch.float32, *shape)
    expected = both(upstream, z0.double(), z1.double())
    found, again = (both(ops.barlow_twins_loss, z0, z1) for _ in range(2))
    for result, repeated, truth in zip(found, again, expected, strict=True):
        assert torch.equal(result, repeated)
        scale = truth.abs().max().item()
        torch.testing.assert_close(result, truth.float(), rtol=1e-5, atol=2e-6 * scale)


def test_panels(monkeypatch):
    """Rows and columns that fill more than one panel."""
    pytest.importorskip("triton")
    import ssl_fast
    from ssl_fast.ops.cross_correlation import triton_kernels

    if torch.cuda.is_available():
        pytest.skip("Triton's interpreter is for machines without a GPU")
    for shape in ((20, 70), (50, 30)):
        z0, z1 = views(torch.float32, *shape)
        monkeypatch.setattr(triton_kernels, "PANEL_BYTES", 1000)
        with ssl_fast.backend("triton"):
            found = both(ops.barlow_twins_loss, z0, z1)
            alone = ops.barlow_twins_loss(z0, z1)
        expected = both(upstream, z0.double(), z1.double())
        torch.testing.assert_close(alone, found[0], rtol=1e-5, atol=0)
        for result, truth in zip(found, expected, strict=True):
            torch.testing.assert_close(result, truth.float(), rtol=1e-4, atol=1e-5)


def test_without_gradient():
    for shape in ((4, 30), (40, 30)):
        z0, z1 = views(torch.float32, *shape)
        with torch.no_grad():
            alone = ops.barlow_twins_loss(z0.requires_grad_(), z1)
        assert not alone.requires_grad
        torch.testing.assert_close(alone, ops.barlow_twins_loss(z0, z1).detach())


def test_a_gradient_to_one_view():
    z0, z1 = views(torch.float32, 6, 20)
    ops.barlow_twins_loss(z0.requires_grad_(), z1).backward()
    assert z0.grad is not None
    assert z1.grad is None


def test_identical_views_of_few_rows():
    """Two rows decide every column: what is left of the gradient is what eps leaves."""
    z0, _ = views(torch.float64, 2, 8)
    for result, expected in zip(
        both(ops.barlow_twins_loss, z0, z0), both(upstream, z0, z0), strict=True
    ):
        torch.testing.assert_close(result, expected, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("shape", [(5, 40), (40, 5)])
def test_columns_far_off_centre(shape):
    """Their mean is more than a float of the batch's spread can hold."""
    z0, z1 = views(torch.float32, *shape)
    z0 = z0 + 1000
    expected = both(upstream, z0.double(), z1.double())
    for result, truth in zip(both(ops.barlow_twins_loss, z0, z1), expected, strict=True):
        scale = truth.abs().max().item()
        torch.testing.assert_close(result, truth.float(), rtol=1e-5, atol=2e-6 * scale)


def test_autocast():
    z0, z1 = views(torch.float32, 8, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ops.barlow_twins_loss(z0.requires_grad_(), z1)
    loss.backward()
    assert loss.dtype == z0.grad.dtype == torch.float32
    torch.testing.assert_close(loss, ops.barlow_twins_loss(z0.bfloat16(), z1.bfloat16()))


@pytest.mark.parametrize(
    ("z0", "z1", "options", "error", "message"),
    [
        ([1.0], torch.ones(2, 3), {}, TypeError, "z0 is a list"),
        (torch.ones(2, 3), torch.ones(2, 3, dtype=torch.int32), {}, TypeError, "int32"),
        (torch.ones(2, 3), torch.ones(3, 3), {}, ValueError, "2 rows"),
        (torch.ones(2, 3), torch.ones(2, 4), {}, ValueError, r"\(2, 4\)"),
        (torch.ones(0, 3), torch.ones(0, 3), {}, ValueError, "no rows"),
        (torch.ones(2, 3), torch.ones(2, 3), {"eps": -1.0}, ValueError, "eps is -1"),
        (torch.ones(2, 3), torch.ones(2, 3), {"eps": "no"}, TypeError, "eps is a str"),
        (torch.ones(2, 3), torch.ones(2, 3), {"lambda_": "no"}, TypeError, "lambda_ is a str"),
        (torch.ones(2, 3), torch.ones(2, 3), {"compat": "lightly"}, ValueError, "'mmpretrain'"),
    ],
)
def test_bad_arguments(z0, z1, options, error, message):
    with pytest.raises(error, match=message):
        ops.barlow_twins_loss(z0, z1, **options)
