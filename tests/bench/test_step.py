"""The bench of whole steps."""

from ssl_fast.bench import step


def test_a_small_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(step.machine, "use_allocator", lambda name: None)  # of this process
    monkeypatch.setattr(step, "ROUNDS", 1)
    rows = tmp_path / "step.csv"
    arguments = ["--methods", "maskfeat", "--batch", "1", "--seconds", "0", "--small"]
    assert step.main([*arguments, "--csv", str(rows)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("maskfeat")]
    assert [line.split(", ")[3].split(":")[0] for line in lines] == ["reference ops", "ssl_fast"]
    assert not rows.exists()  # small shapes are no results


def test_time_in_ops_is_part_of_the_step(monkeypatch):
    monkeypatch.setattr(step, "ROUNDS", 1)
    (reference, ours) = step.measure("maskfeat", 1, "fp32", "cpu", 0.0, small=True)
    for row in (reference, ours):
        assert 0 < row.ops_ms < row.median_ms
        assert row.ops_share == row.ops_ms / row.median_ms
        assert row.images_per_s * row.median_ms > 999
