"""A small model for the tests of the base class."""

import torch
from torch import nn

from ssl_fast.models import BaseSelfSupervisor


class Toy(BaseSelfSupervisor):
    """Predicts HOG from the pixels of a patch."""

    def loss(self, inputs, data_samples):
        feats = self.extract_feat(inputs).flatten(2).transpose(1, 2)
        target = self.build_target(inputs)
        return {"loss": (self.neck(feats) - target).square()}


def toy_config(**more):
    return dict(
        type=Toy,
        backbone=dict(type=nn.Conv2d, in_channels=3, out_channels=8, kernel_size=16, stride=16),
        neck=dict(type=nn.Linear, in_features=8, out_features=108),
        head=dict(type=nn.Identity),
        target_generator=dict(type="HOGGenerator", nbins=9, pool=8, gaussian_window=16),
        data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
        **more,
    )


def images(batch=2, side=224, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 3, side, side), generator=generator, dtype=torch.uint8)


def plain(**more):
    """A model of one parameter whose loss a test may set."""
    return Toy(nn.Linear(2, 2), **more)
