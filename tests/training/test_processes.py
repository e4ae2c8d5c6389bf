"""Two processes train as one: the same global batches, masks of their own, one folder."""

import sys

import pytest

from ssl_fast import ops
from ssl_fast.training.data import EpochSampler

from .runs import OTHERS, TINY, command, finish, losses, pretrain, weights

# Dropped paths would differ between the processes.
SAME = dict(backbone_options={**TINY["backbone_options"], "drop_path_rate": 0.0}, strategy="ddp")


def single(folder, method):
    """The same run in one process."""
    options = dict(method=method, method_options=OTHERS[method])
    return pretrain(folder.with_name("single"), **{**SAME, **options, "strategy": "auto"})


def check(done, folder, method):
    alone = single(folder, method).folder
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert [path.name for path in folder.parent.glob("run*") if path.is_dir()] == ["run"]
    assert losses(folder) == pytest.approx(losses(alone), rel=1e-4)
    for name, value in weights(alone).items():
        assert (weights(folder)[name] - value).abs().max() < 1e-3, name
    assert done.stdout.count("held-out images") == 2  # one process speaks
    assert ", 2 processes" in done.stdout


@pytest.mark.parametrize("method", ["maskfeat", "simmim", "moco"])
def test_lightnings_launcher(tmp_path, method):
    options = dict(method=method, method_options=OTHERS[method])
    done = finish(command(tmp_path / "run", devices=2, **SAME, **options))
    check(done, tmp_path / "run", method)


def test_torchrun(tmp_path):
    options = dict(method="mae", method_options=OTHERS["mae"])
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2")
    arguments = command(tmp_path / "run", *launcher, "--standalone", devices=2, **SAME, **options)
    done = finish(arguments)
    check(done, tmp_path / "run", "mae")


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
