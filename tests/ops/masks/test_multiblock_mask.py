"""I-JEPA's blocks: sizes, places, contexts without targets, the cut, the laws, errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ssl_fast import host, ops
from ssl_fast._dispatch import OPS, backends
from ssl_fast.ops.masks import arguments
from ssl_fast.random import multiblock_words
from tests.ops.masks.upstream import (
    difference_of_counts,
    difference_of_frequencies,
    sample_multiblock,
    too_far,
)

GRID = (14, 14)
PAPER = {
    "num_targets": 4,
    "num_contexts": 1,
    "target_scale": (0.15, 0.2),
    "context_scale": (0.85, 1.0),
    "target_aspect": (0.75, 1.5),
    "min_keep": 10,
    "allow_overlap": False,
    "compat": None,
}


def law_of(grid: tuple[int, int], words: tuple[int, ...], **options: Any) -> Any:
    return arguments.multiblock_law(grid, **{**PAPER, **options}, random=words)


def cells(lists: list[torch.Tensor], size: int = 196) -> torch.Tensor:
    """bool [N, lists, cells]."""
    stacked = torch.stack(lists, dim=1)
    mask = torch.zeros(*stacked.shape[:2], size, dtype=torch.bool)
    return mask.scatter_(2, stacked, True)


@pytest.mark.parametrize("compat", [None, "ijepa"])
@pytest.mark.parametrize(("contexts", "targets"), [(1, 4), (2, 1)])
def test_contexts_and_targets(compat: str | None, contexts: int, targets: int) -> None:
    kept, wanted = ops.multiblock_mask(16, GRID, targets, contexts, seed=1, compat=compat)
    assert (len(kept), len(wanted)) == (contexts, targets)
    for part in (*kept, *wanted):
        assert part.dtype == torch.int64
        assert part.is_contiguous()
        assert (part[:, 1:] > part[:, :-1]).all()  # ascending, none twice
    assert {part.shape for part in wanted} == {wanted[0].shape}
    assert {part.shape for part in kept} == {kept[0].shape}
    assert kept[0].shape[1] > 10
    assert not (cells(kept).any(dim=1) & cells(wanted).any(dim=1)).any()
    rows, columns = wanted[0] // 14, wanted[0] % 14
    spans = [part.amax(dim=1) - part.amin(dim=1) + 1 for part in (rows, columns)]
    assert (spans[0] * spans[1] == wanted[0].shape[1]).all()  # whole rectangles
    if compat:
        assert max(int(part.max()) for part in (*kept, *wanted)) < 13 * 14


def test_overlap() -> None:
    kept, wanted = ops.multiblock_mask(8, GRID, allow_overlap=True, seed=1)
    assert (cells(kept)[:, 0] & cells(wanted).any(dim=1)).any(dim=1).all()
    _, _, _, _, _, _, height, width, *_ = law_of(GRID, multiblock_words(1))
    assert kept[0].shape[1] == height * width


def test_sizes_are_of_the_batch_and_the_seed() -> None:
    first, second = (ops.multiblock_mask(n, GRID, seed=4)[1] for n in (3, 9))
    assert all(torch.equal(a, b[:3]) for a, b in zip(first, second, strict=True))
    sizes = {ops.multiblock_mask(2, GRID, seed=seed)[1][0].shape[1] for seed in range(40)}
    assert len(sizes) > 3


@pytest.mark.parametrize("compat", [None, "ijepa"])
def test_any_split_of_the_batch(compat: str | None) -> None:
    """Places do not depend on the batch; the cut does, to a subset of the same cells."""
    ids = torch.tensor([5, -3, 2**40, 0, 7, 8])
    kept, wanted = ops.multiblock_mask(6, GRID, seed=4, sample_ids=ids, compat=compat)
    for first, last in [(0, 1), (1, 4), (4, 6)]:
        part = ops.multiblock_mask(
            last - first, GRID, seed=4, sample_ids=ids[first:last], compat=compat
        )
        for ours, whole in zip(part[1], wanted, strict=True):
            assert torch.equal(ours, whole[first:last])
        assert (cells(part[0]) | ~cells(kept)[first:last]).all()


def test_cut_is_random_or_in_raster_order() -> None:
    law = law_of(GRID, multiblock_words(4))
    op = OPS["multiblock_mask"].overload
    _, contexts = op(torch.tensor([4]), torch.arange(64), *law)
    whole = contexts[:, 0].flatten(1)
    cut = cells(ops.multiblock_mask(64, GRID, seed=4)[0])[:, 0]
    assert (whole | ~cut).all()
    dropped = whole & ~cut
    place = (whole.cumsum(dim=1) / whole.sum(dim=1, keepdim=True))[dropped]
    assert 0.4 < float(place.mean()) < 0.6
    law = law_of(GRID, multiblock_words(4), compat="ijepa")
    _, contexts = op(torch.tensor([4]), torch.arange(64), *law)
    whole = contexts[:, 0].flatten(1)
    kept = ops.multiblock_mask(64, GRID, seed=4, compat="ijepa")[0][0]
    for row, mask in zip(kept, whole, strict=True):
        assert torch.equal(row, mask.nonzero()[: len(row), 0])


# ---- Always ends --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "options"),
    [
        ((1, 1), {"min_keep": 0}),
        ((1, 30), {}),
        ((14, 14), {"target_scale": (1, 1), "target_aspect": (1, 1)}),  # targets are everything
        ((14, 14), {"context_scale": (0, 0)}),
        ((14, 14), {"target_scale": (0, 0)}),
        ((14, 14), {"min_keep": 195}),
        ((3, 3), {"min_keep": 8, "num_targets": 20}),
        ((2, 2), {"min_keep": 3, "compat": "ijepa"}),
        ((14, 14), {"target_aspect": (1000, 1000)}),
        ((256, 256), {"num_targets": 1}),
    ],
)
def test_always_ends(grid: tuple[int, int], options: dict[str, Any]) -> None:
    kept, wanted = ops.multiblock_mask(3, grid, seed=2, **options)
    assert all(part.shape[1] >= 1 for part in (*kept, *wanted))
    on_host = host.multiblock_mask(3, grid, seed=2, **options)
    for ours, theirs in zip((kept, wanted), on_host, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_no_samples() -> None:
    for kept, wanted in (
        ops.multiblock_mask(0, GRID, seed=1),
        host.multiblock_mask(0, GRID, seed=1),
    ):
        assert [len(part) for part in (*kept, *wanted)] == [0] * 5


# ---- The law ------------------------------------------------------------------------------------


def sides(rng: np.random.Generator, scale: Any, aspect: Any, both: bool) -> tuple[int, int]:
    """A block's sides as I-JEPA's code draws them, not yet capped."""
    first = rng.random()
    second = first if both else rng.random()
    area = int(196 * (scale[0] + first * (scale[1] - scale[0])))
    ratio = aspect[0] + second * (aspect[1] - aspect[0])
    return round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))


@pytest.mark.parametrize("compat", [None, "ijepa"])
def test_law_of_sizes(compat: str | None) -> None:
    rng, count = np.random.default_rng(1), 20_000
    options = {"target_scale": (0.1, 0.5), "context_scale": (0.6, 1), "target_aspect": (0.5, 2)}
    words = rng.integers(0, 2**32, (2 * count, 3))
    laws = [law_of(GRID, tuple(map(int, row)), compat=compat, **options) for row in words]
    largest = 13 if compat else 14
    both = compat is not None
    theirs = np.array([sides(rng, (0.1, 0.5), (0.5, 2), both) for _ in range(count)])
    theirs = np.minimum(theirs, largest)
    ours = np.array([(law.target_height, law.target_width) for law in laws])
    assert not too_far(*difference_of_counts(ours @ [20, 1], theirs @ [20, 1]))
    theirs = np.array([sides(rng, (0.6, 1), (1, 1), both) for _ in range(count)])
    theirs = np.minimum(theirs, largest)
    ours = np.array([(law.context_height, law.context_width) for law in laws])
    assert not too_far(*difference_of_counts(ours @ [20, 1], theirs @ [20, 1]))


@pytest.mark.parametrize("exclusive", [False, True])
def test_law_of_places(exclusive: bool) -> None:
    law = arguments.MultiblockLaw(8, 7, 3, 3, 4, 1, 6, 5, 14, False, exclusive)
    op = OPS["multiblock_mask"].overload
    targets, contexts = op(torch.tensor([5]), torch.arange(40_000), *law)
    ours = cells(list(targets.unbind(1)), 56).view(-1, 3, 8, 7).numpy(), contexts.numpy()
    theirs = sample_multiblock(law, 20_000, seed=7)
    for first, second in zip(ours, theirs, strict=True):
        assert not too_far(*difference_of_frequencies(first, second))
        assert not too_far(*difference_of_counts(first.sum((1, 2, 3)), second.sum((1, 2, 3))))
    together = [both(*masks) for masks in (ours, theirs)]
    assert not too_far(*difference_of_counts(*together))
    other = sample_multiblock(law._replace(exclusive=not exclusive), 20_000, seed=7)
    assert too_far(*difference_of_frequencies(ours[1], other[1]))


def both(targets: NDArray[np.bool_], contexts: NDArray[np.bool_]) -> NDArray[Any]:
    """How many cells are in a target or in the context."""
    return (targets.any(axis=1) | contexts.any(axis=1)).sum(axis=(1, 2))


# ---- Errors, the same in ops and host -----------------------------------------------------------

ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_samples": -1}, ValueError, "num_samples is -1"),
    ({"grid": (300, 300)}, ValueError, "accepted are at most 65536 cells"),
    ({"num_targets": 0}, ValueError, "num_targets is 0; expected 1 or more"),
    ({"num_contexts": 1.0}, TypeError, "num_contexts is 1.0"),
    ({"target_scale": (0.2, 0.1)}, ValueError, "target_scale is .* accepted are 0 to 1, the least"),
    ({"context_scale": (0.5, 1.5)}, ValueError, "context_scale is"),
    ({"context_scale": 1.0}, TypeError, r"context_scale is 1.0; expected \(least, greatest\)"),
    ({"target_aspect": (0, 1)}, ValueError, "target_aspect is"),
    ({"min_keep": -1}, ValueError, "min_keep is -1; expected 0 or more"),
    ({"min_keep": 196}, ValueError, "min_keep is 196; the grid has 196 cells"),
    ({"compat": "mmpretrain"}, ValueError, "accepted are None and 'ijepa'"),
    ({"grid": (1, 9), "compat": "ijepa", "min_keep": 0}, ValueError, "takes 2 x 2 or more"),
]


@pytest.mark.parametrize("module", [ops, host], ids=["ops", "host"])
@pytest.mark.parametrize(("wrong", "error", "message"), ERRORS)
def test_errors(module: Any, wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        module.multiblock_mask(**{"num_samples": 2, "grid": GRID, "seed": 0, **wrong})


def test_kernels_refuse_what_would_leave_their_memory() -> None:
    """The second fence: calls past the public function."""
    if reason := backends.reason(OPS["multiblock_mask"], "compiled", "cpu"):
        pytest.skip(reason)
    law = law_of(GRID, (0, 0, 0))
    wrong: list[dict[str, int]] = [
        {"height": 0},
        {"width": 70000},
        {"target_height": 15},
        {"context_width": 0},
        {"min_keep": law.context_height * law.context_width},
        {"num_targets": -1},
    ]
    for fields in wrong:
        with pytest.raises(RuntimeError, match="out of range"):
            OPS["multiblock_mask"].overload(
                torch.tensor([1]), torch.arange(2), *law._replace(**fields)
            )
