"""What all multi-view methods have in common: training, checkpoints, what is not trained."""

import io
import math

import pytest
import torch

from .multiview import METHODS, model, train, views

# Methods with a momentum encoder, and its name.
ENCODERS = {
    "moco": "encoder_k",
    "densecl": "encoder_k",
    "byol": "target_net",
    "mocov3": "momentum_encoder",
}


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss(method):
    # A queue that moves on makes MoCo's loss another one in each step.
    options = dict(queue_len=1) if method in ("moco", "densecl") else {}
    losses = train(model(method, **options), views(method), 12, lr=3e-3)
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("method", METHODS)
def test_gradients_reach_all_that_is_trained(method):
    built = model(method)
    loss, values = built.parse_losses(built(views(method), mode="loss"))
    loss.backward()
    for name, parameter in built.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    frozen = {name for name, parameter in built.named_parameters() if not parameter.requires_grad}
    encoder = ENCODERS.get(method)
    fixed = ("backbone.model.pos_embed", "backbone.model.patch_embed")  # MoCo v3's
    assert all(name.startswith((f"{encoder}.", *fixed)) for name in frozen)
    assert 0 < values["feature_std"] < 1.5
    assert not values["feature_std"].requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_nothing_moves_without_training(method):
    built, batch = model(method), views(method)
    train(built, batch, 2)
    built.eval()
    before = {name: value.clone() for name, value in built.state_dict().items()}
    built(batch, mode="loss")["feature_std"].item()
    built.train()
    norms = {name for name in before if "running_" in name or "num_batches" in name}
    with torch.no_grad():
        built(batch, mode="loss")
    after = built.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - norms)


@pytest.mark.parametrize("method", METHODS)
def test_going_on_from_a_checkpoint(method):
    batch = views(method)
    whole = model(method)
    train(whole, batch, 3)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = model(method, seed=7)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert train(resumed, batch, 3) == train(whole, batch, 3)
    state, other = whole.state_dict(), resumed.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state)


@pytest.mark.parametrize("method", METHODS)
def test_equal_seeds_give_equal_losses(method):
    losses = [train(model(method), views(method), 2) for _ in range(2)]
    assert losses[0] == losses[1]
    assert losses[0] != train(model(method, seed=3), views(method), 2)


@pytest.mark.parametrize("method", METHODS)
def test_views_that_are_not_accepted(method):
    built, batch = model(method), views(method)
    count = "2 or more" if method == "swav" else "2"
    with pytest.raises(TypeError, match=rf"one tensor; expected a list of {count} views"):
        built.loss(batch[0])
    with pytest.raises(ValueError, match=rf"1 views; expected a list of {count} views"):
        built.loss(batch[:1])
    with pytest.raises(ValueError, match=r"\[8, 3\] images; expected equal ones"):
        built.loss([batch[0], batch[1][:3]])
    with pytest.raises(TypeError, match=f"inputs have a list; expected a list of {count}"):
        built.loss([batch[0], batch[1].tolist()])
    if method != "swav":
        with pytest.raises(ValueError, match="3 views; expected a list of 2 views"):
            built.loss([*batch, batch[0]])


@pytest.mark.parametrize("method", METHODS)
def test_features_for_probes(method):
    built, images = model(method).eval(), views(method)[0]
    pooled = built.backbone.pooled(built.normalized(images))
    assert pooled.shape == (8, built.backbone.num_features)
    depth, depths = built.get_layer_depth("backbone.model.norm.weight")
    assert depth == depths - 1
    assert built.with_neck
    assert built.with_target_generator is False


@pytest.mark.parametrize("method", METHODS)
def test_autocast(method):
    built, batch = model(method), views(method)
    expected = sum(v for k, v in built(batch, mode="loss").items() if "loss" in k)
    again = model(method)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sum(v for k, v in again(batch, mode="loss").items() if "loss" in k)
    assert loss.dtype == torch.float32
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=0.1, abs=0.1)


def test_compiled_losses_are_the_same():
    batch = views("moco")
    plain, compiled = model("moco"), model("moco")
    compiled.compile(backend="eager")
    assert train(compiled, batch, 4) == pytest.approx(train(plain, batch, 4), rel=1e-4)
    assert torch.equal(plain.steps.get_extra_state(), compiled.steps.get_extra_state())
