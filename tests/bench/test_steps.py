"""The bench of whole steps: comparison before timing, shares of the hot paths, kept rows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from ssl_fast import ops
from ssl_fast.bench import command, machine, report
from ssl_fast.bench.case import Skipped
from ssl_fast.bench.steps import entrants, measure, sizes, spans
from ssl_fast.bench.steps.command import main
from ssl_fast.bench.steps.entrants import Entrant, Task
from ssl_fast.bench.steps.rows import KEY, StepRow

OURS = ("reference ops", "ssl_fast")


@pytest.fixture(autouse=True)
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MIN_ROUNDS", 1)
    monkeypatch.setattr(machine, "use_allocator", lambda name: None)  # of this process


def rows_of(method: str, *providers: str) -> dict[str, StepRow]:
    providers = providers or OURS
    rows = measure.measure(
        method, sizes.METHODS[method], "cpu", "fp32", 0.0, small=True, providers=providers
    )
    return {row.provider: row for row in rows}


@pytest.mark.parametrize("method", ["maskfeat", "mae", "simmim", "simclr", "mocov3"])
def test_rows(method: str) -> None:
    rows = rows_of(method)
    assert tuple(rows) == OURS
    for row in rows.values():
        assert row.status == "ok"
        assert 0 < row.p20_ms <= row.median_ms <= row.p80_ms
        assert row.images_per_s == pytest.approx(1e3 * row.batch / row.median_ms)
        assert 0 < row.hot_share < 1
        assert row.hot_ms == pytest.approx(row.hot_share * row.median_ms)
        assert row.peak_mb > 0
    reference, ours = rows.values()
    assert ours.loss == pytest.approx(reference.loss, rel=1e-4)


def test_hot_paths_of_references_are_larger() -> None:
    reference, ours = rows_of("maskfeat").values()  # whose HOG is most of a toy's step
    assert reference.hot_share > 0.3 > ours.hot_share


# ---- Comparison before timing


def off(task: Task) -> Entrant:
    entrant = entrants.ours(task)
    right = entrant.compared_loss
    entrant.compared_loss = lambda: right() + 1e-3
    return entrant


def steeper(task: Task) -> Entrant:
    entrant = entrants.ours(task)
    right = entrant.compared_loss

    def loss() -> torch.Tensor:
        value = right()
        return 1.01 * value - 0.01 * value.detach()

    entrant.compared_loss = loss
    return entrant


def raises(task: Task) -> Entrant:
    raise RuntimeError("at once")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (off, "failed: Mismatch: loss of the first step is"),
        (steeper, "failed: Mismatch: gradient norm of the first step is"),
        (raises, "failed: RuntimeError: at once"),
    ],
)
def test_wrong_provider_gets_no_number(
    prepare: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(entrants.PROVIDERS, "wrong", prepare)
    rows = rows_of("mae", "ssl_fast", "wrong")
    assert rows["wrong"].status.startswith(message)
    assert rows["ssl_fast"].status == "ok"
    numbers = ("median_ms", "images_per_s", "hot_ms", "hot_share", "peak_mb")
    assert [getattr(rows["wrong"], name) for name in numbers] == [None] * len(numbers)


def test_missing_peers_say_how_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(module: str) -> object:
        raise Skipped("no such module; to install: `pip install it`")

    monkeypatch.setattr(entrants, "peer", absent)
    assert main(["--methods", "simclr", "--small", "--seconds", "0"]) == 0
    output = capsys.readouterr().out
    for peer in ("mmpretrain", "lightly"):
        assert f"{peer} skipped: no such module; to install: `pip install it`" in output


@pytest.mark.parametrize("method", sizes.METHODS)
def test_peers_train_the_same_model(method: str) -> None:
    wanted = [name for name in entrants.providers_of(method) if name not in OURS]
    here = [name for name in wanted if importlib.util.find_spec(name)]
    if not here:
        pytest.skip(f"not installed: {', '.join(wanted)}")
    rows = rows_of(method, *OURS, *here)
    assert {name: row.status for name, row in rows.items()} == dict.fromkeys([*OURS, *here], "ok")
    for row in rows.values():
        assert row.loss == pytest.approx(rows["reference ops"].loss, rel=1e-3)
        assert 0 < row.hot_share < 1


# ---- Shares


def test_share_of_spans_and_their_gradients() -> None:
    class Model(torch.nn.Module):
        def hot(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(20):
                x = x @ x
            return x

        def cold(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    model, x = Model(), torch.eye(200, requires_grad=True)

    def step() -> None:
        (model.hot(model.cold(x)).sum()).backward()

    step()
    whole = spans.share_of_step(step, [spans.inside(model, "hot")], "cpu")
    with torch.no_grad():
        half = spans.share_of_step(
            lambda: (model.hot(x), model.hot(x.detach() + 1)), [spans.inside(model, "cold")], "cpu"
        )
    assert 0.5 < whole < 1  # its gradients are two thirds of it
    assert half == 0
    between = spans.Span(spans.after(model, "cold"), spans.after(model, "hot"))
    assert 0.5 < spans.share_of_step(step, [between], "cpu") < 1
    assert "hot" not in vars(model)  # all is as it was


def test_nodes_in_spans_are_counted_and_no_others() -> None:
    class Parts:
        def first(self, x: torch.Tensor) -> torch.Tensor:
            return x.sin().cos()

        def second(self, x: torch.Tensor) -> torch.Tensor:
            return x.exp()

    parts, marks = Parts(), spans.Marks()
    x = torch.ones(2, requires_grad=True)
    with spans.installed([spans.inside(parts, "first")], marks):
        parts.second(parts.first(parts.second(x)))
    assert [end - first for first, end in marks.nodes] == [2]


def test_all_functions_of_ops_are_spans() -> None:
    names = {span.begin.name for span in spans.of_our_ops()}
    assert names == set(ops.__all__) - {"IbotMask"}


# ---- The command


def test_files_keep_the_newest_of_each_key(tmp_path: Path) -> None:
    def row(provider: str, median: float | None, status: str = "ok") -> StepRow:
        key = ("mae", "toy", 2, "fp32", provider, "cpu")
        return StepRow(*key, status=status, median_ms=median)

    path = tmp_path / "steps.csv"
    report.write_csv(path, [row("a", 1.0), row("b", 2.0)], StepRow, KEY)
    report.write_csv(path, [row("a", 3.0), row("b", None, "skipped: gone")], StepRow, KEY)
    rows = report.read_rows(path, StepRow, KEY)
    assert [(row.provider, row.median_ms, row.batch) for row in rows] == [
        ("a", 3.0, 2),
        ("b", 2.0, 2),
    ]


def test_sizes_have_distinct_keys() -> None:
    for name, method in sizes.METHODS.items():
        words = {size.words for size in (method.cpu, method.cuda, method.small)}
        assert len(words) == 3, name


def test_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["steps", "--methods", "mea"]) == 2
    assert "methods are ['mea']; known are 'maskfeat', 'mae'" in capsys.readouterr().err
    assert command.main(["steps", "--providers", "me"]) == 2
    assert "known are 'reference ops', 'ssl_fast'" in capsys.readouterr().err
