"""Block masks beyond the generic tests: sizes, independence of the batch, the law, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ssl_fast import host, ops
from ssl_fast._dispatch import OPS, backends
from ssl_fast.ops.masks import arguments, reference
from ssl_fast.random import Stream
from tests.ops.masks.upstream import (
    difference_of_counts,
    difference_of_frequencies,
    edges,
    propose,
    sample_blocks,
    too_far,
)
from tests.ops.test_every_op import CPU_BACKENDS, serving

BEIT = ((14, 14), 75)


def law_of(grid: tuple[int, int], num_masked: int, **options: Any) -> arguments.BlockLaw:
    named = {"min_block": 4, "max_block": None, "min_aspect": 0.3, "max_aspect": None}
    return arguments.block_law(grid, num_masked, **{**named, "compat": None, **options})


# ---- Always ends, with the number asked for -----------------------------------------------------


@pytest.mark.parametrize("name", CPU_BACKENDS)
@pytest.mark.parametrize("compat", [None, "mmpretrain"])
@pytest.mark.parametrize(
    ("grid", "num_masked", "min_block"),
    [
        (*BEIT, 4),
        ((14, 14), 195, 16),
        ((1, 9), 9, 1),
        ((9, 1), 5, 2),
        ((2, 2), 4, 4),  # no block of 4 is smaller than the grid
        ((3, 3), 1, 9),
        ((3, 70), 69, 1),
        ((1, 1), 0, 1),
    ],
)
def test_exactly_num_masked(
    name: str, compat: str | None, grid: tuple[int, int], num_masked: int, min_block: int
) -> None:
    with serving(name, "block_mask"):
        mask = ops.block_mask(5, grid, num_masked, min_block, seed=1, compat=compat)
    assert mask.shape == (5, *grid)
    assert mask.dtype == torch.bool
    assert mask.sum(dim=(1, 2)).tolist() == [num_masked] * 5


def test_largest_grid() -> None:
    mask = ops.block_mask(1, (256, 256), 20000, seed=1)
    assert int(mask.sum()) == 20000
    assert int(ops.block_mask(1, (1, 65536), 300, seed=1).sum()) == 300


def test_no_samples() -> None:
    assert ops.block_mask(0, *BEIT).shape == (0, 14, 14)


# ---- The same bits everywhere: a mask depends on seed and sample id alone ---------------------


@pytest.mark.parametrize("name", CPU_BACKENDS[1:])
@pytest.mark.parametrize("compat", [None, "mmpretrain"])
def test_all_backends_agree(name: str, compat: str | None) -> None:
    with serving("reference", "block_mask"):
        expected = ops.block_mask(100, *BEIT, seed=8, compat=compat)
    with serving(name, "block_mask"):
        assert torch.equal(ops.block_mask(100, *BEIT, seed=8, compat=compat), expected)


@pytest.mark.parametrize("name", CPU_BACKENDS)
def test_any_split_of_the_batch(name: str) -> None:
    ids = torch.randperm(40, generator=torch.Generator().manual_seed(0)) - 20
    with serving(name, "block_mask"):
        whole = ops.block_mask(40, *BEIT, seed=3, sample_ids=ids)
        order = ids.argsort()
        sorted_ids = ops.block_mask(40, *BEIT, seed=3, sample_ids=ids[order])
        parts = [
            ops.block_mask(len(part), *BEIT, seed=3, sample_ids=part)
            for part in ids.split([1, 8, 0, 31])
        ]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(sorted_ids, whole[order])


def test_seeds_and_ids_matter() -> None:
    first = ops.block_mask(64, *BEIT, seed=3).flatten(1)
    assert len(first.unique(dim=0)) == 64
    assert (ops.block_mask(64, *BEIT, seed=3 + 2**32).flatten(1) != first).any(dim=1).all()
    high_ids = torch.arange(64) + (1 << 32)
    other = ops.block_mask(64, *BEIT, seed=3, sample_ids=high_ids).flatten(1)
    assert (other != first).any(dim=1).all()


def test_all_forms_of_a_seed_agree() -> None:
    mask = ops.block_mask(2, *BEIT, seed=2**64 - 1)
    assert torch.equal(ops.block_mask(2, *BEIT, seed=-1), mask)
    assert torch.equal(ops.block_mask(2, *BEIT, seed=torch.tensor([-1])), mask)


def test_without_a_seed_torch_rules() -> None:
    torch.manual_seed(0)
    first, second = (ops.block_mask(2, *BEIT) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(ops.block_mask(2, *BEIT), first)


def test_the_public_function_compiles_once_for_all_seeds() -> None:
    compiled = torch.compile(
        lambda seed, ids: ops.block_mask(ids.shape[0], *BEIT, seed=seed, sample_ids=ids),
        fullgraph=True,
        backend="aot_eager",
    )
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in (1, 2):
            ids = torch.arange(4) + seed
            mask = compiled(torch.tensor([seed]), ids)
            assert torch.equal(mask, ops.block_mask(4, *BEIT, seed=seed, sample_ids=ids))


def test_exports_for_any_number_of_samples() -> None:
    class Masks(torch.nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return ops.block_mask(ids.shape[0], *BEIT, seed=1, sample_ids=ids)

    dynamic = ({0: torch.export.Dim("samples")},)
    exported = torch.export.export(Masks(), (torch.arange(4),), dynamic_shapes=dynamic)
    expected = ops.block_mask(7, *BEIT, seed=1)
    assert torch.equal(exported.module()(torch.arange(7)), expected)


# ---- The law ------------------------------------------------------------------------------------

LAWS = {
    "beit": law_of(*BEIT),
    "mmpretrain": law_of(*BEIT, compat="mmpretrain"),
    "maskfeat": law_of((14, 14), 78, min_block=16, max_block=60),
}


@pytest.mark.parametrize("kind", LAWS)
def test_law_of_masks(kind: str) -> None:
    law = LAWS[kind]
    ids, seed = torch.arange(40_000), torch.tensor([11])
    ours = OPS["block_mask"].overload(seed, ids, *law).numpy()
    theirs = sample_blocks(law, np.full(20_000, law.num_masked), seed=5)
    assert not too_far(*difference_of_frequencies(ours, theirs))
    assert not too_far(*difference_of_counts(edges(ours), edges(theirs)))
    other = OPS["block_mask"].overload(seed, ids, *law._replace(exclusive=not law.exclusive))
    assert too_far(*difference_of_frequencies(other.numpy(), theirs))


@pytest.mark.parametrize("kind", LAWS)
def test_law_of_blocks(kind: str) -> None:
    """Height, width and place of proposed blocks, under caps above and below min_block."""
    law, count = LAWS[kind], 100_000
    for cap in (2, 30, law.max_block):
        random = reference.draw_words(
            torch.tensor([2]), torch.arange(count), torch.tensor(cap), Stream.BLOCK_MASK
        )
        ours = reference.propose(law, random, torch.full((count,), cap))
        top, left, height, width = (part.numpy() for part in ours)
        ours = height, width, top, left
        theirs = propose(law, np.full(count, cap), np.random.default_rng(cap))
        for first, second in [(0, 1), (0, 2), (1, 3), (2, 3)]:
            joint = [part[first] * 14 + part[second] for part in (ours, theirs)]
            assert not too_far(*difference_of_counts(*joint)), (cap, first, second)


def test_sides_are_rounded_right() -> None:
    """round(sqrt(area * aspect)) of the float law, but where it is a tie to 1e-5."""
    generator = torch.Generator().manual_seed(0)
    area = torch.randint(1 << 16, 65536 << 16, (200_000,), generator=generator) >> torch.randint(
        0, 15, (200_000,), generator=generator
    )
    aspect = torch.randint(-(20 << 24), (20 << 24) + 1, (200_000,), generator=generator)
    exact = torch.sqrt(area.double() / 2**16 * torch.exp2(aspect.double() / 2**24))
    settled = (exact % 1 - 0.5).abs() > 1e-5 * exact
    settled &= exact < 32767  # more fits no grid
    sides = reference.side_of(area, aspect)
    assert settled.double().mean() > 0.5
    assert torch.equal(sides[settled], exact[settled].round().long())


# ---- Errors, the same in ops and host -----------------------------------------------------------

ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_samples": -1}, ValueError, "num_samples is -1; expected 0 or more"),
    ({"num_samples": 2.0}, TypeError, "num_samples is 2.0"),
    ({"grid": 14}, TypeError, r"grid is 14; expected \(height, width\)"),
    ({"grid": (0, 14)}, ValueError, "height is 0"),
    ({"grid": (14, 14.0)}, TypeError, "width is 14.0"),
    ({"grid": (300, 300)}, ValueError, "grid is 300 x 300; accepted are at most 65536 cells"),
    ({"num_masked": -1}, ValueError, "num_masked is -1; expected 0 or more"),
    ({"num_masked": 197}, ValueError, "num_masked is 197; the grid has 196 cells"),
    ({"num_masked": True}, TypeError, "num_masked is True"),
    ({"min_block": 0}, ValueError, "min_block is 0; expected 1 or more"),
    ({"min_block": 197}, ValueError, "min_block is 197; larger than the grid, 196 cells"),
    ({"min_block": 9, "max_block": 8}, ValueError, r"max_block is 8; expected min_block \(9\)"),
    ({"min_aspect": 0.0}, ValueError, "min_aspect is 0.0; accepted are 1e-06 to"),
    ({"min_aspect": -0.3}, ValueError, "min_aspect is -0.3"),
    ({"min_aspect": float("nan")}, ValueError, "min_aspect is nan"),
    ({"min_aspect": "0.3"}, TypeError, "min_aspect is '0.3'"),
    ({"max_aspect": float("inf")}, ValueError, "max_aspect is inf"),
    ({"max_aspect": 0.2}, ValueError, "aspects are 0.3 to 0.2; expected min_aspect first"),
    ({"min_aspect": 2.0}, ValueError, "aspects are 2.0 to 0.5"),
    ({"compat": "beit"}, ValueError, "compat is 'beit'; accepted are None and 'mmpretrain'"),
    ({"seed": 2**64}, ValueError, "expected an integer of 64 bits"),
    ({"seed": 0.5}, TypeError, "seed is 0.5"),
]


@pytest.mark.parametrize("function", [ops.block_mask, host.block_mask], ids=["ops", "host"])
@pytest.mark.parametrize(("wrong", "error", "message"), ERRORS)
def test_errors(function: Any, wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    right = {"num_samples": 2, "grid": (14, 14), "num_masked": 75, "seed": 0}
    with pytest.raises(error, match=message):
        function(**{**right, **wrong})


def test_device() -> None:
    assert ops.block_mask(2, *BEIT, seed=1, device="meta").device.type == "meta"
    assert ops.block_mask(2, *BEIT, seed=torch.tensor([1], device="meta")).device.type == "meta"
    with pytest.raises(ValueError, match="sample_ids is on cpu; expected meta"):
        ops.block_mask(2, *BEIT, seed=1, sample_ids=torch.arange(2), device="meta")


def test_kernels_refuse_what_would_leave_their_memory() -> None:
    """The second fence: calls past the public function."""
    if reason := backends.reason(OPS["block_mask"], "compiled", "cpu"):
        pytest.skip(reason)
    seed, ids, law = torch.tensor([1]), torch.arange(2), law_of(*BEIT)
    wrong = [
        {"height": 0},
        {"height": 70000},
        {"num_masked": 197},
        {"min_block": 0},
        {"max_block": 1},
        {"max_block": 197},
        {"log2_max_aspect": 21 << 24},
        {"log2_min_aspect": 20 << 24},
    ]
    with serving("compiled", "block_mask"):
        for fields in wrong:
            with pytest.raises(RuntimeError, match="out of range"):
                OPS["block_mask"].overload(seed, ids, *law._replace(**fields))
        with pytest.raises(RuntimeError, match="sample_ids must be int64"):
            OPS["block_mask"].overload(seed, ids.int(), *law)
        with pytest.raises(RuntimeError, match="seed must be one int64"):
            OPS["block_mask"].overload(ids, ids, *law)
