"""The page of results: all numbers and reasons, nothing from elsewhere, plots that are XML."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ssl_fast.bench import command, digest, listing, machine, page, plots, report, summary
from ssl_fast.bench.ceilings import COPY, PRODUCT
from ssl_fast.bench.listing import Listing


def row(provider: str, median: float | None = None, **fields: object) -> report.Row:
    options: dict[str, object] = {"allocator": "tuned", "case": "4096", "op": "nt_xent", **fields}
    key = (str(options.pop(name)) for name in ("op", "case"))
    spread = {"p20_ms": 0.9 * median, "p80_ms": 1.1 * median} if median else {}
    return report.Row(
        *key, "float32", provider, str(options.pop("allocator")), "cpu", median_ms=median,
        **{**spread, **options},
    )  # fmt: skip


CASES = [
    row("as served", 215.25, product_share=0.75, copy_share=0.01, headline=True, theirs="lightly"),
    row("as served", 230.5, allocator="default", product_share=0.7, max_error=1.25e-7),
    row("lightly", 1760.0, extra_mb=1000.0, resident_mb=1091.0, gflop_per_s=31.5),
    row("torch.compile of <it> & more", 500.75, machine="AMD EPYC, 2 processors", busy=0.02),
    row(COPY, 2.1525, copy_share=1.0, gb_per_s=30.25),
    row(PRODUCT, 10.5, gflop_per_s=205.5),
    row("absent", status="skipped: not installed; to install: `pip install it`"),
    row("wrong", status="failed: Mismatch: off by <1>"),
    row("as served", 3.125, op="hog", case="32x3x224x224"),
]
GROWTH = [
    row(name, factor * size**2, case=f"{size}x{size}", axis="N", size=size, extra_mb=0.01 * size,
        product_share=5e-6 / factor)
    for size in (256, 512, 1024)
    for name, factor in (("as served", 1e-5), ("lightly", 4e-5))
]  # fmt: skip
STEPS = Listing(
    "Whole steps",
    "A step & all of it.",
    [
        {"model": "mae ViT-S", "batch": 8, "provider": name, "median_ms": ms, "date": "2026-11-25"}
        for name, ms in (("reference ops", 2017.25), ("ssl_fast", 1982.5), ("failed", None))
    ],
)


def text_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", " ", html))


def numbers_missing(rows: list[report.Row], html: str) -> list[report.Row]:
    cells = {unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", html)}
    return [row for row in rows if row.kind == report.OK and page.cell(row.median_ms) not in cells]


@pytest.mark.parametrize("rows", [CASES, CASES + GROWTH], ids=["no growth", "growth"])
@pytest.mark.parametrize("listings", [[], [STEPS]], ids=["no steps", "steps"])
def test_page_is_whole(rows: list[report.Row], listings: list[Listing]) -> None:
    html = page.html(rows, listings)
    assert numbers_missing(rows, html) == []
    shown = text_of(html)
    for what in ("not installed; to install: `pip install it`", "Mismatch: off by <1>", "1 failed"):
        assert what in shown
    assert "torch.compile of <it> & more" in shown
    assert "75.0% (products)" in shown
    assert "AMD EPYC, 2 processors" in shown
    assert ("time over N, 256x256 to 1024x1024" in shown) == (rows is not CASES)
    assert ("mae ViT-S, 8" in shown) == bool(listings)
    assert html.count("<svg") == 2 + 2 * (rows is not CASES) + bool(listings)


def test_page_needs_nothing_else() -> None:
    html = page.html(CASES + GROWTH, [STEPS])
    assert "http" not in html
    assert " src=" not in html
    assert "url(" not in html.replace("url(#", "")
    assert "<script" not in html
    targets = re.findall(r'href="([^"]*)"', html)
    assert targets
    assert all(target.startswith("#") for target in targets)
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert {target[1:] for target in targets} <= set(ids)


def test_a_busy_machine_is_told() -> None:
    busy = [replace(row, busy=0.5) for row in CASES]
    assert "up to 50%: the times are not clean" in page.html(busy)
    assert "not clean" not in page.html(CASES)


def test_plots_are_files_and_the_same_again(tmp_path: Path) -> None:
    assert page.write(tmp_path / "a" / "page.html", CASES + GROWTH, [STEPS]) == ""
    page.write(tmp_path / "b" / "page.html", CASES + GROWTH, [STEPS])
    files = sorted(path.name for path in (tmp_path / "a" / "plots").iterdir())
    assert files == [
        "growth-nt_xent-float32-n-cpu-tuned-memory.svg",
        "growth-nt_xent-float32-n-cpu-tuned-time.svg",
        "hog-32x3x224x224-float32-cpu.svg",
        "nt_xent-4096-float32-cpu.svg",
        "whole-steps-mae-vit-s-8.svg",
    ]
    for name in ["page.html", *(f"plots/{file}" for file in files)]:
        first = (tmp_path / "a" / name).read_text()
        assert first == (tmp_path / "b" / name).read_text()
        if name.endswith(".svg"):
            root = ElementTree.fromstring(first)
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
    bars = (tmp_path / "a" / "plots" / "nt_xent-4096-float32-cpu.svg").read_text()
    for label in ("lightly", "torch.compile of &lt;it&gt; &amp; more", "1,760", "floor: 161 ms"):
        assert f">{label}</text>" in bars
    assert "<dc:date>" not in bars


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plots.importlib.util, "find_spec", lambda name: None)
    why_not = page.write(tmp_path / "page.html", CASES + GROWTH, [STEPS])
    assert 'pip install "ssl_fast[bench]"' in why_not
    html = (tmp_path / "page.html").read_text()
    assert numbers_missing(CASES + GROWTH, html) == []
    assert why_not in text_of(html)
    assert "<svg" not in html
    assert "<details>" not in html  # where no plot is, the table stands open
    assert not (tmp_path / "plots").exists()


def test_ceilings() -> None:
    others = [
        row(COPY, 2.0, gb_per_s=20.0, case="b"),  # 40 MB
        row(COPY, 0.01, gb_per_s=90.0, case="c"),  # of the cache
        row(PRODUCT, 10.0, gflop_per_s=215.5, case="b"),
    ]
    found = digest.ceilings([*CASES, *others])
    assert [(one.name, one.unit, one.median, one.count) for one in found] == [
        ("copy, 32 MB or more", "GB/s", (20.0 + 30.25) / 2, 2),
        ("product of matrices, float32", "GFLOP/s", 210.5, 2),
    ]


def test_floors_and_ours() -> None:
    (case, _) = digest.cases(CASES)
    assert case.providers == ("as served", "lightly", "torch.compile of <it> & more")
    assert case.floor_ms("tuned") == pytest.approx(0.75 * 215.25)
    assert case.floor_ms("default") == pytest.approx(0.7 * 230.5)
    (series,) = digest.growth(GROWTH)
    assert series.floor() == [(n, pytest.approx(5e-6 * n**2)) for n in (256, 512, 1024)]
    assert series.points("lightly", "MB") == [(256, 2.56), (512, 5.12), (1024, 10.24)]
    assert digest.cases(GROWTH) == []
    assert len(digest.cases([replace(GROWTH[0], headline=True)])) == 1


def test_families() -> None:
    for op, family in (("hog", "hog"), ("nt_xent", "contrastive"), ("random_masking", "tokens")):
        assert digest.family_of(op) == family
    assert digest.family_of("toy") == "toy"


def test_command_makes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, steps = tmp_path / "results.csv", tmp_path / "steps.csv"
    report.write_csv(results, CASES)
    steps.write_text("model,provider,median_ms,commit\nmae,ssl_fast,1982.58166,40e6002\n")
    out = tmp_path / "out" / "page.html"
    assert command.main(["page", str(results), "--out", str(out), "--steps", str(steps)]) == 0
    html = out.read_text()
    timed = [row for row in CASES if row.kind == report.OK]
    assert numbers_missing(timed, html) == []
    assert ">1,983</td>" in html
    assert "40e6002" in html
    assert (out.parent / "plots" / "whole-steps-mae.svg").is_file()
    assert command.main(["page", str(tmp_path / "none.csv"), "--out", str(out)]) == 2
    assert command.main(["page", str(results), "--steps", str(results.parent / "no.csv")]) == 2
    assert "expected a CSV" in capsys.readouterr().err
    steps.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="expected 'provider' among them"):
        listing.read(steps)


def test_committed_results_make_a_page() -> None:
    """The files of bench/results have today's columns, and whoever is compared in them is shown."""
    for path in (machine.ROOT / "bench" / "results").glob("*.csv"):
        if path.name.partition("-")[0] not in ("steps", "loader", "mmpretrain"):  # not of ops
            rows = report.read_rows(path)
            assert path.stem == machine.slug(rows[0].machine)
            assert sum(len(case.rows) for case in digest.cases(rows)) + sum(
                len(series.rows) for series in digest.growth(rows)
            ) >= len(rows)
            assert digest.ceilings(rows)


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("AMD EPYC, 2 processors", "amd-epyc-2-cores"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz, 8 processors", "intel-xeon-8-cores"),
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
    ],
)
def test_slug(name: str, slug: str) -> None:
    assert machine.slug(name) == slug


def test_bare_csv_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "name_of", lambda device: "AMD EPYC, 2 processors")
    assert command._parse(["--csv"]).csv == Path("bench/results/amd-epyc-2-cores.csv")
    assert command._parse(["--csv", "mine.csv", "--op", "hog"]).csv == Path("mine.csv")
    assert command._parse([]).csv is None


# ---- Tables of one op


def test_cases_of_an_op_go_between_its_marks(tmp_path: Path) -> None:
    results, document = tmp_path / "results.csv", tmp_path / "performance.md"
    report.write_csv(results, CASES)
    document.write_text(
        "a\n<!-- bench nt_xent: begin -->\nold\n<!-- bench nt_xent: end -->\nb\n"
        "<!-- bench hog: begin --><!-- bench hog: end -->\n"
        f"{summary.BEGIN}\n{summary.END}\n"
    )
    assert command.main(["table", str(results), "--into", str(document)]) == 0
    text = document.read_text()
    assert (
        "| 4096, float32 | 161 | **215** | 75% (products) | ? |  | 501 (2.3x), "
        "torch.compile of <it> & more |"
    ) in text
    assert "| 32x3x224x224, float32 |  | **3.1** |  | ? |  |  |" in text
    assert "| `nt_xent`, 4096, float32 | lightly |" in text
    assert "old" not in text
    assert command.main(["table", str(results), "--into", str(document)]) == 0
    assert document.read_text() == text
    document.write_text("<!-- bench sinkhorn: begin --><!-- bench sinkhorn: end -->")
    assert command.main(["table", str(results), "--into", str(document)]) == 2
