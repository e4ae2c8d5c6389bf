"""mmpretrain's multi-view models, built small, and steps of training with them."""

from __future__ import annotations

import copy

import torch
from mmengine.logging import MessageHub
from mmpretrain.registry import MODELS
from mmpretrain.utils import register_all_modules
from torch import nn

register_all_modules(init_default_scope=True)

CHANNELS, FEATURES, VIEWS = 8, 16, 2
LOSS = dict(type="CrossEntropyLoss", loss_weight=1.5)
BATCH_NORM = dict(type="BN1d")  # theirs is synchronised, which a CPU has not
PREDICTOR = dict(
    type="NonLinearNeck",
    in_channels=FEATURES,
    hid_channels=12,
    out_channels=FEATURES,
    with_avg_pool=False,
    norm_cfg=BATCH_NORM,
)
NECK = dict(
    type="NonLinearNeck",
    in_channels=CHANNELS,
    hid_channels=12,
    out_channels=FEATURES,
    with_avg_pool=True,
    norm_cfg=BATCH_NORM,
)


class Backbone(nn.Module):
    """A convolution and a batch norm; a tuple of one map."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, CHANNELS, 4, stride=4, bias=False), nn.BatchNorm2d(CHANNELS), nn.ReLU()
        )

    def forward(self, images):
        return (self.layers(images),)


CONFIGS = {
    "SimCLR": dict(neck=NECK, head=dict(type="ContrastiveHead", loss=LOSS, temperature=0.1)),
    "MoCo": dict(
        neck=dict(type="MoCoV2Neck", in_channels=CHANNELS, hid_channels=12, out_channels=FEATURES),
        head=dict(type="ContrastiveHead", loss=LOSS, temperature=0.2),
        queue_len=24,
        feat_dim=FEATURES,
        momentum=0.01,
    ),
    "DenseCL": dict(
        neck=dict(type="DenseCLNeck", in_channels=CHANNELS, hid_channels=12, out_channels=FEATURES),
        head=dict(type="ContrastiveHead", loss=LOSS, temperature=0.2),
        queue_len=24,
        feat_dim=FEATURES,
        momentum=0.01,
        loss_lambda=0.3,
    ),
    "MoCoV3": dict(
        neck=NECK,
        head=dict(type="MoCoV3Head", predictor=PREDICTOR, loss=LOSS, temperature=0.2),
        base_momentum=0.05,
    ),
    "BYOL": dict(
        neck=NECK,
        head=dict(
            type="LatentPredictHead", loss=dict(type="CosineSimilarityLoss"), predictor=PREDICTOR
        ),
        base_momentum=0.05,
    ),
    "BarlowTwins": dict(
        neck=NECK,
        head=dict(
            type="LatentCrossCorrelationHead",
            in_channels=FEATURES,
            loss=dict(type="CrossCorrelationLoss"),
        ),
    ),
    "SwAV": dict(
        neck=dict(
            type="SwAVNeck",
            in_channels=CHANNELS,
            hid_channels=12,
            out_channels=FEATURES,
            with_avg_pool=True,
            norm_cfg=BATCH_NORM,
        ),
        head=dict(
            type="SwAVHead",
            loss=dict(type="SwAVLoss", feat_dim=FEATURES, num_crops=[2, 1], num_prototypes=10),
        ),
    ),
}


def built(name, **changes):
    """One of the models with fixed weights."""
    torch.manual_seed(0)
    config = copy.deepcopy({**CONFIGS[name], **changes})
    return MODELS.build(dict(type=name, backbone=Backbone(), **config)).train()


def views_of(name, count=4, seed=1):
    """A list of views [count, 3, 16, 16]; SwAV gets a smaller third."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [16, 16, 8] if name == "SwAV" else [16, 16]
    return [torch.randn(count, 3, size, size, generator=generator) for size in sizes]


def trained(model, batches, autocast=False):
    """Losses and gradients of each step, then the model's state.

    Args:
        batches: for each step, views of the type of the model's weights.
        autocast: whether in bfloat16.
    """
    MessageHub.get_current_instance().update_info("max_iters", 10)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    found = []
    for number, batch in enumerate(batches):
        torch.manual_seed(number)  # of the shuffled batches
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses = model(batch, mode="loss")
        sum(losses.values()).backward()
        gradients = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
        found.append(({k: v.detach() for k, v in losses.items()}, gradients))
        optimizer.step()
    return found, {k: v.clone() for k, v in model.state_dict().items()}
