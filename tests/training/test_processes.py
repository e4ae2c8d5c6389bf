"""Two processes train as one: the same global batches, masks of their own, one folder."""

import sys

import pytest

from ssl_fast import ops
from ssl_fast.training.data import EpochSampler

from .runs import TINY, command, finish, losses, pretrain, weights

# Dropped paths would differ between the processes.
SAME = dict(backbone_options={**TINY["backbone_options"], "drop_path_rate": 0.0}, strategy="ddp")


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("runs") / "single", **{**SAME, "strategy": "auto"})


def check(done, folder, single):
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert [path.name for path in folder.parent.glob("run*") if path.is_dir()] == ["run"]
    assert losses(folder) == pytest.approx(losses(single.folder), rel=1e-4)
    for name, value in weights(single.folder).items():
        assert (weights(folder)[name] - value).abs().max() < 1e-3, name
    assert done.stdout.count("held-out images") == 2  # one process speaks
    assert ", 2 processes" in done.stdout


def test_lightnings_launcher(single, tmp_path):
    done = finish(command(tmp_path / "run", devices=2, **SAME))
    check(done, tmp_path / "run", single)


def test_torchrun(single, tmp_path):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2")
    arguments = command(tmp_path / "run", *launcher, "--standalone", devices=2, **SAME)
    done = finish(arguments)
    check(done, tmp_path / "run", single)


def test_ranks_see_other_samples_and_masks():
    first, second = (
        next(iter(EpochSampler(100, 16, 0, rank=rank, world_size=2, total_steps=1)))
        for rank in range(2)
    )
    assert not set(first) & set(second)
    masks = [
        ops.block_mask(8, (14, 14), 78, seed=3, sample_ids=torch_ids(keys))
        for keys in (first, second)
    ]
    assert not any((masks[0][i] == masks[1][j]).all() for i in range(8) for j in range(8))


def torch_ids(keys):
    import torch

    return torch.tensor([position for _, position in keys])
