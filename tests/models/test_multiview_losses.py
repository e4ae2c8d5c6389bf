"""Each multi-view method's loss is its paper's, written out in plain torch."""

import pytest
import torch
import torch.nn.functional as F

from .multiview import model, train, views


def unit(x):
    return F.normalize(x, dim=1)


def cross_entropy(scores, targets=None):
    targets = torch.arange(len(scores)) if targets is None else targets
    return F.cross_entropy(scores, targets)


def built_and_views(method, **options):
    """A model after two steps, and normalised views."""
    built, batch = model(method, **options), views(method)
    train(built, batch, 2)
    return built, batch, built.normalized(batch)


def embedded(built, view):
    return built.neck(built.backbone(view))


def among_queue(query, key, queue, temperature=0.2):
    scores = torch.cat([(query * key).sum(dim=1, keepdim=True), query @ queue.T], dim=1)
    return cross_entropy(scores / temperature, torch.zeros(len(query), dtype=torch.int64))


def encoder_of_next_step(built, encoder, momentum):
    """What the momentum encoder will be in the next step."""
    weights = {name: p.clone() for name, p in encoder.module.named_parameters()}
    online = dict(torch.nn.Sequential(built.backbone, built.neck).named_parameters())
    moved = {name: (1 - momentum) * w + momentum * online[name] for name, w in weights.items()}
    # Batch norms use the batch's own statistics here.
    return lambda x: torch.func.functional_call(encoder.module, moved, (x,))


def test_simclr():
    built, batch, x = built_and_views("simclr")
    z = unit(embedded(built, torch.cat(x)))
    scores = (z @ z.T / 0.1).fill_diagonal_(-torch.inf)
    expected = cross_entropy(scores, torch.arange(16).roll(8))
    torch.testing.assert_close(built(batch, mode="loss")["loss"], expected)


def test_moco():
    built, batch, x = built_and_views("moco")
    with torch.no_grad():
        key = unit(encoder_of_next_step(built, built.encoder_k, 0.001)(x[1]))
    queue = built.queue.bank.clone()
    expected = among_queue(unit(embedded(built, x[0])), key, queue)
    torch.testing.assert_close(built(batch, mode="loss")["loss"], expected)
    # Two steps of eight keys had filled rows 0 to 11 and 0 to 3; now it is rows 4 to 11.
    torch.testing.assert_close(built.queue.bank[4:], key)
    assert torch.equal(built.queue.bank[:4], queue[:4])
    assert built.queue.pointer == 0


def test_densecl():
    built, batch, x = built_and_views("densecl")
    query_map = built.backbone(x[0])
    query, query_dense, _ = built.neck(query_map)
    encoder = built.encoder_k
    encoder.follow(built.backbone, built.neck, steps=built.steps)
    key_map = encoder.module[0](x[1])
    key, key_dense, key_mean = encoder.module[1](key_map)
    positives = torch.empty_like(query_dense)
    for sample in range(8):
        q, k = (unit(each[sample].flatten(1).T) for each in (query_map, key_map))
        for place in range(q.shape[0]):
            best = (k @ q[place]).argmax()
            positives[sample, :, place] = unit(key_dense)[sample, :, best]
    rows = unit(query_dense).transpose(1, 2).reshape(-1, 16)
    columns = positives.transpose(1, 2).reshape(-1, 16)
    single = among_queue(unit(query), unit(key), built.queue.bank.clone())
    dense = among_queue(rows, columns, built.queue2.bank.clone())
    queues = [built.queue.bank.clone(), built.queue2.bank.clone()]
    built.steps.tell(0, 1)
    built.steps.begin()  # so that the encoder, which has moved already, stays
    losses = built(batch, mode="loss")
    torch.testing.assert_close(losses["loss_single"], 0.5 * single)
    torch.testing.assert_close(losses["loss_dense"], 0.5 * dense)
    torch.testing.assert_close(built.queue.bank[4:], unit(key))
    torch.testing.assert_close(built.queue2.bank[4:], unit(key_mean))
    assert torch.equal(built.queue2.bank[:4], queues[1][:4])


def test_densecl_begins_with_the_single_loss():
    built, batch = model("densecl", start_iters=2), views("densecl")
    dense = [built(batch, mode="loss")["loss_dense"].item() for _ in range(4)]
    assert dense[:2] == [0, 0]
    assert min(dense[2:]) > 0


def test_mocov3():
    built, batch, x = built_and_views("mocov3")
    encode = encoder_of_next_step(built, built.momentum_encoder, 0.01)
    queries = [unit(built.head.predictor(embedded(built, view))) for view in x]
    keys = [unit(encode(view)).detach() for view in x]
    both = (cross_entropy(queries[i] @ keys[1 - i].T / 0.2) for i in range(2))
    torch.testing.assert_close(built(batch, mode="loss")["loss"], 2 * 0.2 * sum(both))


def test_byol():
    built, batch, x = built_and_views("byol")
    encode = encoder_of_next_step(built, built.target_net, 0.004)
    expected = 0
    for i in range(2):
        prediction = unit(built.head.predictor(embedded(built, x[i])))
        target = unit(encode(x[1 - i])).detach()
        expected += (prediction - target).square().sum(dim=1).mean()
    torch.testing.assert_close(built(batch, mode="loss")["loss"], expected)


def test_simsiam():
    built, batch, x = built_and_views("simsiam")
    z = [embedded(built, view) for view in x]
    p = [built.head.predictor(each) for each in z]
    expected = sum(-F.cosine_similarity(p[i], z[1 - i].detach()).mean() / 2 for i in range(2))
    loss = built(batch, mode="loss")["loss"]
    torch.testing.assert_close(loss, expected)
    weights = list(built.neck.parameters())
    ours, theirs = (
        torch.autograd.grad(each, weights, retain_graph=True) for each in (loss, expected)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_barlowtwins():
    built, batch, x = built_and_views("barlowtwins")
    z0, z1 = (F.batch_norm(embedded(built, view), None, None, training=True) for view in x)
    c = z0.T @ z1 / 8
    off = c - torch.diag(c.diagonal())
    expected = (c.diagonal() - 1).square().sum() + 0.0051 * off.square().sum()
    torch.testing.assert_close(built(batch, mode="loss")["loss"], expected)


def sinkhorn(scores, epsilon=0.05):
    q = (scores / epsilon).exp()
    for _ in range(3):
        q = q / q.sum(dim=0) / q.shape[1]
        q = q / q.sum(dim=1, keepdim=True) / q.shape[0]
    return q * q.shape[0]


def test_swav():
    built, batch, x = built_and_views("swav")
    z = embedded_views(built, x)
    prototypes = unit(built.head.prototypes.weight.detach())
    scores = [each @ prototypes.T for each in z]
    assigned = [sinkhorn(score.detach()) for score in scores[:2]]
    parts = [
        -(assigned[i] * F.log_softmax(scores[v] / 0.1, dim=1)).sum(dim=1).mean()
        for i in range(2)
        for v in range(4)
        if v != i
    ]
    loss = built(batch, mode="loss")["loss"]
    torch.testing.assert_close(loss, sum(parts) / 6, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(built.head.prototypes.weight.detach(), prototypes)


def embedded_views(built, x):
    features = [built.backbone(torch.cat(x[:2])), built.backbone(torch.cat(x[2:]))]
    return built.neck(torch.cat(features)).chunk(4)


def test_swav_with_queues():
    # Queues of 16 begin in step 2 and are full after step 3, of eight samples each.
    options = dict(queue_len=16, queue_start=1)
    built, plain, batch = model("swav", **options), model("swav"), views("swav")
    losses = [train(each, batch, 3) for each in (built, plain)]
    assert losses[0] == losses[1]
    x = built.normalized(batch)
    z = [each.detach() for each in embedded_views(built, x)]
    prototypes = unit(built.head.prototypes.weight.detach())
    queues = [queue.bank.clone() for queue in built.queues]
    scores = [each @ prototypes.T for each in z]
    assigned = [sinkhorn(torch.cat([queues[i] @ prototypes.T, scores[i]]))[-8:] for i in range(2)]
    expected = built.head.loss(scores, assigned)
    torch.testing.assert_close(built(batch, mode="loss")["loss"], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(built.queues[1].bank[:8], z[1])


def test_frozen_prototypes():
    built, batch = model("swav", freeze_steps=2), views("swav")
    weight = built.head.prototypes.weight
    for frozen in (True, True, False):
        built.zero_grad()
        built(batch, mode="loss")["loss"].backward()
        assert (weight.grad == 0).all() == frozen


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("simclr", dict(temperature=0), "temperature is 0; expected over 0"),
        ("moco", dict(momentum=0.999), "momentum is 0.999; accepted are 0 to 0.5"),
        ("densecl", dict(loss_lambda=2), "loss_lambda is 2; accepted are 0 to 1"),
        ("swav", dict(epsilon=-1), "epsilon is -1; expected over 0"),
        ("swav", dict(queue_len=-1), "queue_len is -1; expected 0 or more"),
    ],
)
def test_options_out_of_range(method, options, message):
    with pytest.raises(ValueError, match=message):
        model(method, **options)
