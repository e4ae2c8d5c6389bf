"""PatchDropout: timm's rates and shapes, and each token as likely as any other."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ssl_fast.nn import PatchDropout


def tokens(batch: int = 3, length: int = 9, dim: int = 4) -> torch.Tensor:
    """Each token is a number of its own."""
    count = batch * length
    return torch.arange(float(count)).view(batch, length, 1).expand(-1, -1, dim).contiguous()


def test_nothing_happens_in_evaluation_or_without_a_share() -> None:
    x = tokens()
    assert PatchDropout(0.5).eval()(x) is x
    assert PatchDropout(0.0)(x) is x
    assert PatchDropout(0.0, return_indices=True)(x) == (x, None)


@pytest.mark.parametrize(
    ("prob", "prefix", "kept"), [(0.5, 1, 4), (0.75, 0, 2), (0.99, 2, 1), (0.1, 2, 6)]
)
def test_keeps_as_many_as_timm(prob: float, prefix: int, kept: int) -> None:
    x = tokens()
    dropout = PatchDropout(prob, num_prefix_tokens=prefix, return_indices=True)
    result, ids = dropout(x)
    assert result.shape == (3, prefix + kept, 4)
    assert ids.shape == (3, kept)
    assert torch.equal(result[:, :prefix], x[:, :prefix])
    expected = x[:, prefix:].gather(1, ids[..., None].expand(-1, -1, 4))
    assert torch.equal(result[:, prefix:], expected)
    assert all(len(set(row)) == kept for row in ids.tolist())


def test_order() -> None:
    torch.manual_seed(0)
    x = tokens(8, 65)
    shuffled, ordered = PatchDropout(0.5)(x)[..., 0], PatchDropout(0.5, ordered=True)(x)[..., 0]
    assert (ordered.diff(dim=1) > 0).all()
    assert not (shuffled.diff(dim=1) > 0).all()


def test_torchs_seed_rules() -> None:
    x, dropout = tokens(2, 40), PatchDropout(0.5)
    torch.manual_seed(1)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), first)
    assert not torch.equal(first, second)


def test_every_token_is_as_likely() -> None:
    torch.manual_seed(0)
    _, ids = PatchDropout(0.75, num_prefix_tokens=0, return_indices=True)(tokens(4000, 12, 1))
    counts = ids.flatten().bincount(minlength=12).double()
    expected = 4000 * 3 / 12
    # Chi-square of 11 degrees of freedom: beyond 31.3 once in a thousand seeds.
    assert ((counts - expected) ** 2 / expected).sum() < 31.3


def test_gradient_goes_to_what_was_kept() -> None:
    x = tokens().requires_grad_()
    result, ids = PatchDropout(0.5, return_indices=True)(x)
    result.sum().backward()
    kept = torch.zeros(3, 9).scatter(1, ids + 1, 1.0)
    kept[:, 0] = 1
    assert torch.equal(x.grad, kept[..., None].expand(3, 9, 4))


def test_compiles_whole() -> None:
    torch.compiler.reset()
    dropout = torch.compile(PatchDropout(0.5), fullgraph=True, backend="aot_eager")
    assert dropout(tokens()).shape == (3, 5, 4)


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"prob": 1.0}),
        (ValueError, {"prob": -0.1}),
        (TypeError, {"prob": "half"}),
        (ValueError, {"num_prefix_tokens": -1}),
    ],
)
def test_refuses_options(error: type[Exception], options: dict[str, Any]) -> None:
    with pytest.raises(error, match=next(iter(options))):
        PatchDropout(**options)


def test_refuses_inputs() -> None:
    with pytest.raises(TypeError, match=r"torch\.int64"):
        PatchDropout()(tokens().long())
    with pytest.raises(ValueError, match=r"\[N, P \+ L, D\]"):
        PatchDropout()(tokens()[0])
    with pytest.raises(ValueError, match="length is 0"):
        PatchDropout(num_prefix_tokens=9)(tokens())
