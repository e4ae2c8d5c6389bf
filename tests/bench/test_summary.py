"""The summary of headline cases, and README's table drawn from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ssl_fast.bench import command, report, summary


def row(provider: str, allocator: str, median: float, **fields: object) -> report.Row:
    options = {"theirs": "lightly", "headline": True, **fields}
    key = ("nt_xent", "4096", "float32", provider, allocator, "cpu")
    return report.Row(*key, median_ms=median, **options)


ROWS = [
    row("lightly", "default", 1760.0, extra_mb=1000.0, resident_mb=1091.0),
    row("lightly", "tuned", 1000.0, extra_mb=1000.0),
    row("as served", "default", 215.2, extra_mb=0.1, resident_mb=0.4, product_share=0.5),
    row("as served", "tuned", 200.0, copy_share=0.01, product_share=0.75),
    row("reference eager", "tuned", 500.0),
    row("as served", "default", 1.0, headline=False),
]
TABLE = """\
|  | in place of | theirs, default allocator | ours, default allocator | theirs, tuned allocator \
| ours, tuned allocator | memory | of the floor |
| --- | --- | --- | --- | --- | --- | --- | --- |
| `nt_xent`, 4096, float32 | lightly | 1,760 | **215 (8.2x)** | 1,000 | **200 (5.0x)** \
| 1,091 MB -> none | 75% |"""


def test_markdown() -> None:
    assert summary.markdown(ROWS[:-1], "cpu") == TABLE


def test_a_gpu_has_the_time_of_the_host() -> None:
    rows = [replace(r, device="cuda", host_ms=0.5) for r in ROWS[:3] if r.allocator == "default"]
    head, line = summary.cells(rows, "cuda")
    assert head[-3:] == ["memory", "of the floor", "CPU, theirs -> ours"]
    assert line[-1] == "0.5 -> 0.5"
    assert "allocator" not in "".join(head)


def test_who_waits_for_launches_is_compared_with_ours_and_its_launches() -> None:
    theirs = replace(ROWS[0], median_ms=1.2, host_ms=1.1, timing="events", device="cuda")
    ours = replace(ROWS[2], median_ms=0.3, host_ms=0.6, timing="graph", device="cuda")
    ratios = [
        summary.lines([one, ours], "cuda")[0].ratios["default"]
        for one in (theirs, replace(theirs, host_ms=0.5), replace(theirs, timing="graph"))
    ]
    assert ratios == pytest.approx([2.0, 4.0, 4.0])


def test_what_failed_has_no_number() -> None:
    failed = row("as served", "tuned", 1.0)
    failed.status = "failed: off"
    (line,) = summary.lines([ROWS[1], failed], "cpu")
    assert line.ours == {}
    assert "0x" not in summary.markdown([ROWS[1], failed], "cpu")


def test_readme_gets_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, readme = tmp_path / "results.csv", tmp_path / "README.md"
    report.write_csv(results, ROWS[:-1])
    readme.write_text(f"a\n{summary.BEGIN}\nold\n{summary.END}\nb\n")
    assert command.main(["table", str(results), "--into", str(readme)]) == 0
    assert readme.read_text() == f"a\n{summary.BEGIN}\n\n{TABLE}\n\n{summary.END}\nb\n"
    readme.write_text("nothing to fill")
    assert command.main(["table", str(results), "--into", str(readme)]) == 2
    assert "to put the table between" in capsys.readouterr().err


def test_marks_of_a_gpu_are_left_to_its_results(tmp_path: Path) -> None:
    marked = tmp_path / "performance.md"
    on_gpu = "<!-- bench nt_xent on cuda: begin -->\nold\n<!-- bench nt_xent on cuda: end -->"
    on_cpu = "<!-- bench nt_xent: begin -->\nold\n<!-- bench nt_xent: end -->"
    marked.write_text(f"{on_gpu}\n{on_cpu}\n")
    summary.write_into(marked, ROWS, "cpu")
    assert on_gpu in marked.read_text()
    assert on_cpu not in marked.read_text()
    marked.write_text(f"{on_cpu}\n{on_gpu}\n")
    summary.write_into(marked, [replace(row, device="cuda") for row in ROWS], "cuda")
    assert on_cpu in marked.read_text()
    assert on_gpu not in marked.read_text()
    marked.write_text(on_cpu)
    with pytest.raises(ValueError, match="no lines <!-- bench on cuda: begin -->"):
        summary.write_into(marked, ROWS, "cuda")


def test_results_survive_the_file(tmp_path: Path) -> None:
    report.write_csv(tmp_path / "results.csv", ROWS[:-1])
    read = report.read_rows(tmp_path / "results.csv")
    assert sorted(read, key=repr) == sorted(ROWS[:-1], key=repr)
