"""mmpretrain's own configs, with the one line and nothing else but what makes them small."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmengine.config import Config  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from ssl_fast.integrations import mmpretrain as integration  # noqa: E402
from tests.integrations.mmpretrain.algorithms import ALGORITHMS  # noqa: E402
from tests.integrations.mmpretrain.building import CONFIGS, override  # noqa: E402

pytestmark = pytest.mark.smoke

LINE = dict(imports=["ssl_fast.integrations.mmpretrain"])


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """ImageNet's folders, with four JPEGs and the list of them."""
    folder = tmp_path_factory.mktemp("imagenet")
    generator = np.random.default_rng(0)
    lines = []
    for index in range(4):
        path = folder / "train" / f"n{index % 2:08d}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((130, 130), Image.Resampling.BICUBIC).save(path)
        lines.append(f"{path.relative_to(folder / 'train')} {index % 2}")
    (folder / "meta").mkdir()
    (folder / "meta" / "train.txt").write_text("\n".join(lines) + "\n")
    return folder


def small(name, images, folder):
    """The config as it is shipped, made small for a test on a CPU."""
    size = ALGORITHMS[name].small
    config = Config.fromfile(CONFIGS / ALGORITHMS[name].config)
    override(config.model, size)
    for step in _transforms(config.train_dataloader.dataset.pipeline):
        if step["type"] == "RandomResizedCrop":
            step["scale"] = size.image
        if step["type"] == "ColorJitter":
            step["hue"] = 0.0  # mmcv 2.2.0 adds negative numbers to uint8, which NumPy 2 refuses
        if step["type"] == "SimMIMMaskGenerator":
            step["input_size"] = size.image
    config.train_dataloader.dataset.data_root = str(images)
    config.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    config.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=1)
    config.default_hooks.logger.interval = 1
    # mmengine's mixed precision needs an accelerator.
    config.optim_wrapper.type = "OptimWrapper"
    config.optim_wrapper.pop("loss_scale", None)
    config.randomness = dict(seed=0)
    config.resume = False
    config.log_level = "WARNING"
    config.work_dir = str(folder)
    config.experiment_name = f"{folder.parent.name}-{folder.name}"
    return config


def _transforms(pipeline):
    for step in pipeline:
        if isinstance(step, list):  # the views of MultiView
            yield from _transforms(step)
        else:
            yield step
            yield from _transforms(step.get("transforms", []))


def losses_of(config):
    runner = Runner.from_cfg(config)
    runner.train()
    assert runner.iter == 2
    path = Path(runner.log_dir) / "vis_data" / f"{runner.timestamp}.json"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("name", ["MAE", "MaskFeat", "SimCLR", "SimMIM"])
def test_two_steps_with_the_line(name, images, tmp_path):
    config = small(name, images, tmp_path / "with")
    config.custom_imports = LINE
    integration.disable()
    try:
        expected = losses_of(small(name, images, tmp_path / "without"))
    finally:
        integration.enable(quiet=True)
    losses = losses_of(config)
    assert len(losses) == len(expected) == 2
    # MaskFeat's masks, made in the loader, are drawn by the same law from other random numbers.
    assert losses == pytest.approx(expected, rel=0.05 if name == "MaskFeat" else 1e-4)
