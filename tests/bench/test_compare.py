"""Two files of results: what has become slower, and what only the machine did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ssl_fast.bench import ceilings, command, report
from ssl_fast.bench.compare import compare


def row(name: str, median: float, spread: float = 0.01) -> report.Row:
    low, high = median * (1 - spread), median * (1 + spread)
    return report.Row(
        *("op", "case", "float32", name, "default", "cpu"),
        median_ms=median,
        p20_ms=low,
        p80_ms=high,
    )


def verdict(old: report.Row, new: report.Row, mood: float = 1.0) -> str:
    before, after = [old, row(ceilings.COPY, 1.0)], [new, row(ceilings.COPY, mood)]
    (change,) = compare(before, after, tolerance=0.1)
    return change.verdict


def test_verdicts() -> None:
    assert verdict(row("a", 1.0), row("a", 1.05)) == "same"
    assert verdict(row("a", 1.0), row("a", 1.2)) == "slower"
    assert verdict(row("a", 1.0), row("a", 0.8)) == "faster"
    # Within the spread of the measurements, or no more than the machine itself.
    assert verdict(row("a", 1.0, spread=0.3), row("a", 1.2)) == "same"
    assert verdict(row("a", 1.0), row("a", 1.2), mood=1.2) == "same"
    assert verdict(row("a", 1.0), row("a", 1.5), mood=1.2) == "slower"
    assert verdict(row("a", 1.0), replace(row("a", 1.0), status="failed: off")) == "failed: off"


def test_what_only_one_file_has_is_no_change() -> None:
    assert compare([row("a", 1.0)], [row("b", 1.0)], 0.1) == []


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    report.write_csv(old, [row("a", 1.0), row("b", 1.0)])
    report.write_csv(new, [row("a", 2.0), row("b", 1.0)])
    assert command.main(["compare", str(old), str(old)]) == 0
    assert capsys.readouterr().out == "2 compared, 0 slower or failed\n"
    assert command.main(["compare", str(old), str(new)]) == 1
    line = "slower: op, case, float32, a, default, cpu: 1 ms -> 2 ms"
    assert capsys.readouterr().out == f"{line}\n2 compared, 1 slower or failed\n"
    assert command.main(["compare", str(old), str(new), "--tolerance", "2"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no.csv", "no.csv"], "no.csv is not a file"),
        (["old.csv", "other.csv"], "have no case in common"),
        (["old.csv", "old.csv", "--tolerance", "-1"], "tolerance is -1.0; expected 0 or more"),
    ],
)
def test_bad_files(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    report.write_csv(Path("old.csv"), [row("a", 1.0)])
    report.write_csv(Path("other.csv"), [row("b", 1.0)])
    assert command.main(["compare", *words]) == 2
    assert message in capsys.readouterr().err
