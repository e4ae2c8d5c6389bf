"""The exported backbone of a pretraining run, loaded by timm alone."""

import pytest
import torch
from torch.testing import assert_close

from ssl_fast._compat import import_timm
from tests.training.runs import TINY, pretrain, weights

timm = import_timm()
OPTIONS = {**TINY["backbone_options"], "img_size": TINY["image_size"], "patch_size": 8}
PREFIX = "model.backbone.model."


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return pretrain(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def path(run):
    return str(run.folder / "export" / "backbone.safetensors")


def create(path, **options):
    return timm.create_model(TINY["backbone"], checkpoint_path=path, **OPTIONS, **options).eval()


def images():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_features_are_those_of_the_trained_backbone(run, path):
    trained = timm.create_model(TINY["backbone"], num_classes=0, **OPTIONS).eval()
    checkpoint = weights(run.folder)
    trained.load_state_dict(
        {k.removeprefix(PREFIX): v for k, v in checkpoint.items() if k.startswith(PREFIX)}
    )
    found = create(path, num_classes=0)
    assert torch.equal(found(images()), trained(images()))
    assert torch.equal(found.forward_features(images()), trained.forward_features(images()))
    fresh = timm.create_model(TINY["backbone"], num_classes=0, **OPTIONS).eval()
    assert not torch.allclose(fresh(images()), trained(images()))


@torch.no_grad()
def test_a_classifier_is_added_afterwards(path):
    """The export has none, and timm is strict."""
    with pytest.raises(RuntimeError, match=r"head\.weight"):
        create(path, num_classes=7)
    model = create(path, num_classes=0)
    features = model(images())
    model.reset_classifier(7)
    assert model(images()).shape == (3, 7)
    assert_close(model.forward_head(model.forward_features(images()), pre_logits=True), features)
