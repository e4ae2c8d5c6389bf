"""The harness itself: no number for who is wrong, a CSV that is kept, quantiles, both regimes."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssl_fast.bench import ceilings, command, harness, machine, report, runner, timers, worker
from ssl_fast.bench.case import Case, Check, Mismatch, Provider, Skipped, compare
from ssl_fast.bench.cases import families, load
from ssl_fast.bench.providers import growing
from ssl_fast.bench.truths import Truths


def doubled(x: Tensor) -> Tensor:
    return 2 * x


def wrong(x: Tensor) -> Tensor:
    result = 2 * x
    result[0] += 1e-3
    return result


def raises(x: Tensor) -> Tensor:
    raise RuntimeError("on every call")


def absent(device: str) -> Callable[..., Any]:
    raise Skipped("not installed; to install: `pip install it`")


def toy_case(*providers: Provider) -> Case:
    check = Check("normal", lambda device, seed: (torch.randn(64) + seed,), atol=1e-5)
    return Case("toy", "64", "float32", doubled, (check,), 512, providers)


def provider(name: str, function: Callable[..., Any]) -> Provider:
    return Provider(name, lambda device: function)


RIGHT = provider("right", doubled)


@pytest.fixture
def toy_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Runs the command on a toy case: in this process, with tests that pass."""

    def run(case: Case, *arguments: str) -> int:
        monkeypatch.setattr(command, "load", lambda *_: [case])
        monkeypatch.setattr(worker, "load", lambda *_: [case])
        monkeypatch.setattr(runner, "run_tests", lambda *_: None)
        monkeypatch.setattr(runner, "run_job", worker.run)
        common = ("--op", "toy", "--cases", "all", "--seconds", "0.01", "--allocator", "default")
        return command.main([*common, "--out", str(tmp_path / "out"), *arguments])

    return run


# ---- What is not done twice


def test_truths_are_formed_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(x: Tensor) -> Tensor:
        calls.append(1)
        return doubled(x)

    case = replace(toy_case(RIGHT), reference=counted)
    inputs = case.checks[0].make_inputs("cpu", 0)
    for folder, expected in ((tmp_path, 1), (None, 3)):  # a new object is a new process
        truths = [Truths(folder).of(case, 0, inputs) for _ in range(2)]
        assert len(calls) == expected
        for truth in truths:
            assert truth[0].dtype == torch.float64
            assert torch.equal(truth[0], inputs[0].double() * 2)
    Truths(tmp_path).of(replace(case, dtype="float16"), 0, inputs)
    Truths(tmp_path).of(case, 0, (inputs[0] + 1,))
    assert len(calls) == 5


def test_a_point_of_growth_that_the_summary_has_is_not_measured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = toy_case(RIGHT, provider("third", doubled))
    point = replace(growing(replace(case, theirs="right"), "N", 64), theirs="right")
    larger = replace(growing(replace(case, name="128"), "N", 128), providers=case.providers)
    cases = {"headline": [case], "growth": [point, larger]}
    monkeypatch.setattr(worker, "load", lambda *words: cases[words[-1]])
    job = worker.Job(("toy",), "cpu", "default", 0.01, selections=("headline", "growth"))
    first, second, third = worker.run(job)
    assert [row.case for row in second] == ["over N: 64"] * len(second)
    names = [row.provider for row in second]
    assert names == ["right", "copy of the same bytes"]
    by_name = {row.provider: row for row in first}
    assert all(row.median_ms == by_name[row.provider].median_ms for row in second)
    assert {(row.axis, row.size) for row in second} == {("N", 64)}
    assert len(third) == len(first)


# ---- Comparison before timing


def test_wrong_provider_gets_no_number(
    toy_run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = toy_case(RIGHT, provider("wrong", wrong), provider("raises", raises))
    assert toy_run(case, "--csv", str(tmp_path / "toy.csv")) == 1
    with (tmp_path / "toy.csv").open() as file:
        rows = {row["provider"]: row for row in csv.DictReader(file)}
    assert rows["right"]["status"] == "ok"
    assert float(rows["right"]["median_ms"]) > 0
    for name, message in (("wrong", "1.5625% of the values"), ("raises", "on every call")):
        assert rows[name]["status"].startswith("failed: ")
        assert message in rows[name]["status"]
        assert not rows[name]["median_ms"]
        assert not rows[name]["gb_per_s"]
    output = capsys.readouterr()
    assert "| wrong " in output.out
    assert "toy, 64, float32, wrong: failed: Mismatch" in output.err


def test_nobody_right(toy_run: Callable[..., int]) -> None:
    assert toy_run(toy_case(provider("wrong", wrong))) == 1


def test_skipped_provider_says_why(
    toy_run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "toy.csv"
    assert toy_run(toy_case(RIGHT, Provider("absent", absent)), "--csv", str(file)) == 0
    assert "absent skipped: not installed; to install: `pip install it`" in capsys.readouterr().out
    assert "absent" not in file.read_text()
    page = (tmp_path / "out" / "page.html").read_text()
    assert "not installed; to install: `pip install it`" in page
    assert [svg.name for svg in (tmp_path / "out" / "plots").iterdir()] == [
        "toy-64-float32-cpu.svg"
    ]


@pytest.mark.parametrize(
    ("got", "message"),
    [
        (torch.zeros(3), "shape"),
        (torch.tensor([0.0, 1.0, torch.nan, 3.0]), "in 1 values"),
        (torch.tensor([0.0, 1.0, 2.0, torch.nan]), "in 2 values"),
        (torch.tensor([0.1, 1.1, torch.nan, torch.inf]), "50.0000%"),
    ],
)
def test_mismatches(got: Tensor, message: str) -> None:
    truth = torch.tensor([0.0, 1.0, torch.nan, torch.inf], dtype=torch.float64)
    check = Check("check", lambda device, seed: (), atol=1e-6, share=0.7)
    assert compare(truth.float(), (truth,), check).turned == 0
    with pytest.raises(Mismatch, match=message):
        compare(got, (truth,), check)


def test_turned_decisions_are_counted_apart() -> None:
    truth = torch.zeros(1000, dtype=torch.float64)
    got = torch.full((1000,), 1e-7)
    got[5] = 0.5
    agreement = compare(got, (truth,), Check("check", lambda *_: (), atol=1e-6, share=0.99))
    assert agreement.turned == pytest.approx(1e-3)
    assert agreement.max_error == pytest.approx(1e-7)


def test_red_tests_forbid_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    isa = runner.native.instruction_set() or "none"
    planted = f"""
import pytest

@pytest.mark.parametrize("name", ["hog-float32-compiled-{isa}", "nt_xent-float32-compiled-{isa}"])
def test_truth(name):
    assert name.startswith("nt_xent"), "planted"
"""
    file = tmp_path / "test_every_op.py"
    file.write_text(planted)
    monkeypatch.setattr(runner, "TESTS", tmp_path)
    monkeypatch.setattr(runner, "run_job", lambda job: [])
    assert command.main(["--op", "hog", "--cases", "all", "--small"]) == 1
    output = capsys.readouterr()
    assert "no numbers: the tests do not pass" in output.err
    assert "hog-float32" in output.err
    assert not output.out
    runner.run_tests(["contrastive"], "cpu")  # whose tests are green


def test_families_are_folders_of_ops() -> None:
    assert {runner.family_of(op) for op in runner.OPS} == set(families())


# ---- CSV


def row(name: str, median: float | None = None, status: str = report.OK) -> report.Row:
    return report.Row("op", "case", "float32", name, "default", "cpu", status, median)


def medians(path: Path) -> dict[str, str]:
    return {key[3]: cells["median_ms"] for key, cells in report.read_csv(path).items()}


def test_csv_replaces_the_same_key_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.csv"
    report.write_csv(path, [row("a", 1.0), row("b", 2.0)])
    report.write_csv(path, [row("a", 3.0)])
    assert medians(path) == {"a": "3", "b": "2"}
    report.write_csv(path, [row("a", status="skipped: no compiler")])
    assert medians(path) == {"a": "3", "b": "2"}
    report.write_csv(path, [row("b", status="failed: off")])
    assert medians(path) == {"a": "3", "b": ""}


def test_csv_of_other_columns_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("op,time\nhog,1\n")
    with pytest.raises(ValueError, match="has the columns op, time; expected op, case"):
        report.write_csv(path, [row("a", 1.0)])
    assert path.read_text() == "op,time\nhog,1\n"


# ---- Times


class FakeClock:
    """Says the durations that it was given, one after the other."""

    name = "fake"

    def __init__(self, *durations: float) -> None:
        self.durations: Iterator[float] = itertools.cycle(durations)

    def elapsed_ms(self, function: Callable[[], Any]) -> float:
        function()
        return next(self.durations)


def test_quantiles_on_a_fake_clock() -> None:
    calls: list[str] = []

    def lane(name: str) -> harness.Lane:
        call = lambda: calls.append(name)  # noqa: E731
        return harness.Lane(row(name), RIGHT, doubled, call=call, repeats=2, per_turn=2)

    lanes = [lane("a"), lane("b")]
    # Turns of two samples: a gets 2 and 4, b gets 20 and 60, of two calls each, in every round.
    harness.interleave(lanes, FakeClock(2.0, 4.0, 20.0, 60.0), seconds=0.0)
    assert calls == [*"aaaabbbb"] * harness.MIN_ROUNDS
    assert lanes[0].samples == [1.0, 2.0] * harness.MIN_ROUNDS
    assert timers.quantiles(lanes[1].samples) == (20.0, 10.0, 30.0)
    assert timers.quantiles([5.0, 1.0, 3.0, 2.0, 4.0]) == pytest.approx((3.0, 1.8, 4.2))


def test_inputs_differ_and_outgrow_the_cache() -> None:
    rotation = timers.cold_inputs(lambda device, seed: (torch.full((2**20,), seed),), "cpu")
    assert 2 <= len({int(inputs[0][0]) for inputs in rotation}) == len(rotation) <= 64


def test_shares_of_the_ceilings(toy_run: Callable[..., int], tmp_path: Path) -> None:
    case = replace(toy_case(RIGHT), flops=10**6)
    assert toy_run(case) == 0
    rows = {row.provider: row for row in report.read_rows(tmp_path / "out" / "results.csv")}
    right, copy, product = (rows[name] for name in ("right", ceilings.COPY, ceilings.PRODUCT))
    assert right.copy_share == pytest.approx(copy.median_ms / right.median_ms, rel=1e-3)
    assert right.gb_per_s == pytest.approx(512 / right.median_ms / 1e6, rel=1e-3)
    assert product.gflop_per_s == pytest.approx(2 * 1.024**3 / product.median_ms * 1e3, rel=1e-3)
    assert right.product_share == pytest.approx(right.gflop_per_s / product.gflop_per_s, rel=1e-3)
    assert right.of_floor == max(right.copy_share, right.product_share)
    assert copy.product_share is None
    assert product.copy_share is None
    assert copy.max_error == 0 < product.max_error


# ---- The command


def test_unknown_op_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--op", "hogg"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1] == "error: op is 'hogg'; known are " + ", ".join(map(repr, families()))
    assert sum(not line.startswith("warning") for line in error) == 1


def test_unknown_provider(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--op", "hog", "--cases", "all", "--providers", "nobody"]) == 2
    assert "providers are ['nobody']; known are 'reference eager'," in capsys.readouterr().err


def test_both_allocators_appear(
    toy_run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    used: list[str] = []
    monkeypatch.setattr(machine, "use_allocator", used.append)
    assert toy_run(toy_case(RIGHT), "--allocator", "both") == 0
    assert used == ["default", "tuned"]
    lines = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if "|" in line]
    table = [tuple(map(str.strip, line)) for line in lines]
    assert table.count(("right", "default")) == table.count(("right", "tuned")) == 1


def test_families_in_processes_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "run_tests", lambda *_: None)
    arguments = "--op hog,sinkhorn --cases all --small --seconds 0.01 --threads 1"
    options = ["--allocator", "tuned", "--providers", "reference eager"]
    assert command.main([*arguments.split(), *options]) == 0
    output = capfd.readouterr()
    count = len(load("hog", "cpu", True)) + len(load("sinkhorn", "cpu", True))
    for provider in ("reference eager", "copy of the same bytes"):
        assert output.out.count(f"| {provider} ") == count
    assert output.out.count("| tuned ") == 2 * count
    assert "[tuned allocator, 1/2, " in output.err
    assert "[tuned allocator, 2/2, " in output.err


def test_a_family_that_dies_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def die(job: worker.Job) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(worker, "_print_rows", die)
    job = worker.Job(("hog",), "cpu", "default", 0.01)
    with pytest.raises(SystemExit, match="hog ended with status 3"):
        worker._forked(job)


def test_a_run_of_all_ops_also_does_steps_and_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[list[str]] = []
    status = {"steps": 0, "loader": 0}

    def run_command(name: str, words: list[str]) -> int:
        done.append([name, *words])
        return status[name]

    monkeypatch.setattr(runner, "run_command", run_command)
    assert command.main(["--cases", "steps,loader", "--out", "there", "--small"]) == 0
    assert done == [
        ["steps", "--out", "there", "--device", "cpu", "--small"],
        ["loader", "--out", "there", "--small"],
    ]
    status["steps"] = 1
    assert command.main(["--cases", "steps,loader", "--small"]) == 1
    assert command.main(["--cases", "steps", "--op", "hog"]) == 1  # of one op nothing is asked
    assert len(done) == 4


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("family", families())
def test_cases_have_distinct_keys(family: str, device: str) -> None:
    cases = [*load(family, device), *load(family, device, selection="growth")]
    keys = [
        (case.op, case.name, case.dtype, provider.name)
        for case in cases
        for provider in case.providers
    ]
    assert len(keys) == len(set(keys)) > 0
