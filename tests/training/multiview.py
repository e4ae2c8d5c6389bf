"""A small method that takes views, for the tests of what is around it."""

import torch
import torch.nn.functional as F
from torch import nn

from ssl_fast.models import MODELS, BaseSelfSupervisor
from ssl_fast.models.masked import MaskedViT
from ssl_fast.models.measures import feature_std
from ssl_fast.training.methods import Method
from ssl_fast.training.views import SIMCLR, SWAV, View

# Colours and whole views as SimCLR has them, and two small ones.
VIEWS = (*SIMCLR, View(2, size=SWAV[1].size, scale=(0.05, 0.14)))


@MODELS.register
class ViewContrast(BaseSelfSupervisor):
    """The first two views of an image are told from those of others; all views have a part."""

    collapsed = False

    def loss(self, inputs, data_samples=None):
        views = [self.head(self.backbone.pooled(x)) for x in self.normalized(inputs)]
        if self.collapsed:
            views = [0 * view + 1 for view in views]
        first, second, *others = (F.normalize(view, dim=1) for view in views)
        target = torch.arange(len(first))
        losses = {"loss": F.cross_entropy(first @ second.T / 0.2, target)}
        for view in others:
            losses["loss"] = losses["loss"] + F.cross_entropy(view @ second.T / 0.2, target)
        return {**losses, "feature_std": feature_std(views[0])}


def config(backbone, image_size, patch_size=None, backbone_options=None, width=32):
    model = MaskedViT(
        backbone, image_size, patch_size, dynamic_img_size=True, **(backbone_options or {})
    )
    head = nn.Sequential(nn.Linear(model.num_features, width), nn.ReLU(), nn.Linear(width, width))
    return dict(type="ViewContrast", backbone=model, head=head)


def method(views=VIEWS):
    return Method(
        config=config,
        base_lr=1e-3,
        weight_decay=0.05,
        betas=(0.9, 0.999),
        clip_grad=0.0,
        views=views,
    )
