"""Runs of a few steps of the multi-view methods."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

import ssl_fast
from ssl_fast.training.export import load_backbone
from ssl_fast.training.methods import METHODS
from ssl_fast.training.options import PretrainOptions
from ssl_fast.training.plan import plan
from ssl_fast.training.pretrain import build_model, with_synchronised_norms

from .runs import losses, pretrain, same_weights, weights

RESNET = dict(
    backbone="resnet18",
    backbone_options=dict(layers=[1, 1, 1, 1], channels=[8, 8, 16, 16], stem_width=8),
    image_size=16,
    patch_size=None,
)
SIZES = dict(hidden_dim=16, out_dim=8)
OPTIONS = {
    "simclr": dict(RESNET, method_options=SIZES),
    "moco": dict(RESNET, method_options=dict(SIZES, queue_len=24)),
    "mocov3": dict(method_options=SIZES),  # with the ViT of all other tests
    "densecl": dict(RESNET, method_options=dict(SIZES, queue_len=24, start_iters=1)),
    "byol": dict(RESNET, method_options=SIZES),
    "simsiam": dict(RESNET, method_options=dict(out_dim=16, predictor_dim=8)),
    "barlowtwins": dict(RESNET, method_options=dict(out_dim=16)),
    "swav": dict(RESNET, local_views=1, method_options=dict(SIZES, num_prototypes=8, queue_len=16)),
}


def run(folder, method, **options):
    """Three steps, with the method's own optimiser and learning rate."""
    options = {"steps": 3, "lr": None, **OPTIONS[method], **options}
    return pretrain(folder, method=method, **options)


def test_all_methods_are_here():
    assert {name for name, method in METHODS.items() if method.views} == set(OPTIONS)


@pytest.mark.parametrize("method", OPTIONS)
def test_a_run(tmp_path, method):
    result = run(tmp_path / "run", method)
    assert (result.finished, result.step) == (True, 3)
    assert 0 < result.after["knn"] <= 1
    assert Image.open(result.folder / "panels/step-0000003.png").width > 3 * 128
    trained = weights(result.folder)
    loaded = load_backbone(result.folder / "export").state_dict()
    assert all(torch.equal(trained[f"model.backbone.model.{key}"], loaded[key]) for key in loaded)
    steps = trained.get("model.steps._extra_state")
    assert steps is None or steps == 3


def test_going_on_is_as_if_it_had_never_stopped(tmp_path):
    options = dict(lr=0.01, min_lr=0.01, warmup_steps=1, checkpoint_steps=2)
    whole = run(tmp_path / "whole", "moco", steps=4, **options)
    part = run(tmp_path / "part", "moco", steps=2, **options)
    assert not same_weights(weights(whole.folder), weights(part.folder))
    ssl_fast.pretrain(resume=part.folder, steps=4)
    assert same_weights(weights(whole.folder), weights(part.folder))
    assert losses(whole.folder) == losses(part.folder)


def test_parts_of_a_step_move_the_encoder_once(tmp_path):
    result = run(tmp_path / "run", "byol", accumulate=2, holdout=0.0)
    assert weights(result.folder)["model.steps._extra_state"] == 3


def test_papers_recipes():
    moco = plan(PretrainOptions(method="moco"), 1000)
    assert (moco.backbone, moco.optimizer, moco.lr) == ("resnet50", "sgd", 0.03)
    simclr = plan(PretrainOptions(method="simclr", batch_size=4096), 10_000)
    assert (simclr.optimizer, simclr.lr, simclr.weight_decay) == ("lars", pytest.approx(4.8), 1e-6)
    mocov3 = plan(PretrainOptions(method="mocov3"), 1000)
    assert (mocov3.backbone, mocov3.optimizer) == ("vit_small_patch16_224", "adamw")
    other = plan(PretrainOptions(method="moco", optimizer="adamw", lr=0.001), 1000)
    assert (other.optimizer, other.lr) == ("adamw", 0.001)
    with pytest.raises(ValueError, match=r"optimizer is 'adamw', and .* moco has is for 'sgd'"):
        plan(PretrainOptions(method="moco", optimizer="adamw"), 1000)
    with pytest.raises(ValueError, match="optimizer is 'adam'; accepted are 'adamw', 'sgd', 'l"):
        PretrainOptions(optimizer="adam")


def test_patches_of_a_resnet(tmp_path):
    with pytest.raises(ValueError, match="patch_size is 8, but 'resnet18' has no patches"):
        run(tmp_path / "run", "simclr", patch_size=8)


def test_synchronised_norms():
    config = PretrainOptions(method="byol", **{**OPTIONS["byol"], "image_size": 32})
    model = build_model(config).eval()
    images = torch.randn(2, 3, 32, 32)
    state, expected = model.state_dict(), model.extract_feat(images)
    for world_size, kind in ((1, torch.nn.BatchNorm1d), (2, torch.nn.SyncBatchNorm)):
        device = SimpleNamespace(root_device=torch.device("cuda"))
        trainer = SimpleNamespace(world_size=world_size, strategy=device)
        model = with_synchronised_norms(model, trainer)
        assert type(model.neck.bn0) is type(model.target_net.module[1].bn0) is kind
        assert model.state_dict().keys() == state.keys()
        torch.testing.assert_close(model.extract_feat(images), expected)
