"""What the case files declare: who stands in the summary, what grows, what must be multiplied."""

from __future__ import annotations

import sys
from collections import defaultdict

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ssl_fast.bench import gradients
from ssl_fast.bench.case import Case, Provider, Skipped, tensors_of
from ssl_fast.bench.cases import contrastive, families, load
from ssl_fast.bench.providers import EAGER, SERVED, peer

FAMILIES_AND_DEVICES = [(family, device) for family in families() for device in ("cpu", "cuda")]


def provider(case: Case, name: str) -> Provider:
    return next(provider for provider in case.providers if provider.name == name)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize(("family", "device"), FAMILIES_AND_DEVICES)
def test_short_runs_have_ours_and_theirs(family: str, device: str, small: bool) -> None:
    headline = load(family, device, small, "headline")
    assert headline
    for case in headline:
        assert {SERVED, case.theirs} <= {provider.name for provider in case.providers}
    named = [case for case in load(family, device, small) if case.theirs]
    assert all(provider(case, case.theirs) for case in named)


@pytest.mark.parametrize(("family", "device"), FAMILIES_AND_DEVICES)
def test_growth_is_along_one_axis(family: str, device: str) -> None:
    curves = defaultdict(list)
    for case in load(family, device, selection="growth"):
        curves[case.op, case.axis].append(case)
    assert curves
    for (_, axis), cases in curves.items():
        sizes = [case.size for case in cases]
        assert axis
        assert sizes == sorted(set(sizes))
        assert 4 <= len(sizes) <= 5
        assert len({case.name for case in cases}) == len(sizes)
        for case in cases:
            names = {provider.name for provider in case.providers}
            assert SERVED in names <= {SERVED, EAGER, case.theirs}
            assert not case.headline


# How much more plain torch multiplies than it must.
EXTRA = {
    "nt_xent": 2,  # both halves of a symmetric matrix
    "barlow_twins_loss": 96 // 16,  # C of 96 x 96 in place of two Gram matrices of 16 x 16
}


def _multiplying() -> list[Case]:
    return [case for family in families() for case in load(family, "cpu", True) if case.flops]


@pytest.mark.parametrize("case", _multiplying(), ids=lambda case: f"{case.op}-{case.name}")
def test_flops_are_those_of_plain_torch(case: Case) -> None:
    plain = provider(case, EAGER).prepare("cpu")
    inputs = case.checks[0].make_inputs("cpu", 0)
    if isinstance(plain, gradients.Staged):
        plain, inputs = plain.stage(*inputs), ()
    with FlopCounterMode(display=False) as counter:
        plain(*inputs)
    assert counter.get_total_flops() == case.flops * EXTRA.get(case.op, 1)


def test_every_family_that_multiplies_says_so() -> None:
    found = {case.op for case in _multiplying()}
    assert found == {*contrastive.METHODS, "barlow_twins_loss", "embed_visible_patches"}


@pytest.mark.parametrize("op", contrastive.METHODS)
def test_truth_in_blocks(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "BLOCK", 5)
    task = contrastive.Task(op, 13, 13, 16)
    complete = gradients.with_gradients(task.leaves, 13.0)
    inputs = [part.double() for part in task.inputs("cpu", 0)]
    got = complete(contrastive.TRUTHS[op])(*inputs)
    expected = complete(contrastive.REFERENCES[op])(*inputs)
    for one, other in zip(tensors_of(got), tensors_of(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("op", ["random_masking", "restore_tokens", "masked_patch_loss"])
def test_backward_alone_is_the_backward_of_both(op: str) -> None:
    family = "reconstruction" if op == "masked_patch_loss" else "tokens"
    cases = {case.name: case for case in load(family, "cpu", True) if case.op == op}
    alone = next(name for name in cases if name.endswith("alone"))
    both = next(name for name in cases if ", with " in name and name.split(", with ")[0] in alone)
    inputs = cases[alone].checks[-1].make_inputs("cpu", 0)
    gradients_alone = provider(cases[alone], SERVED).prepare("cpu")(*inputs)
    outputs = provider(cases[both], SERVED).prepare("cpu")(*inputs)
    expected = outputs[-len(gradients_alone) :]
    assert all(map(torch.equal, gradients_alone, expected))
    assert len(gradients_alone) < len(outputs)


def test_gradients_of_scalars_stay_as_they_are() -> None:
    x, scale = torch.tensor([1.0, 2.0]), torch.tensor(3.0)
    run = gradients.with_gradients((0, 1), scale=10.0)(lambda x, scale: scale * x.sum())
    value, grad_x, grad_scale = run(x, scale)
    assert value == 9
    assert grad_x.tolist() == [30.0, 30.0]
    assert grad_scale == 3


def test_absent_peer_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inf_cl", None)
    with pytest.raises(Skipped, match=r"pip install -r bench/peers/requirements\.txt"):
        peer("inf_cl_peer")
