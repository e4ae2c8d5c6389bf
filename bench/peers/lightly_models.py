"""lightly's heads and losses over torchvision's backbones, as its examples put them together.

An ImportError here means: not installed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssl_fast._compat import import_torchvision
from ssl_fast.bench.steps.entrants import Entrant, Task
from ssl_fast.bench.steps.spans import inside

torchvision = import_torchvision()
from lightly.loss import BarlowTwinsLoss, NTXentLoss  # noqa: E402
from lightly.models.modules import (  # noqa: E402
    BarlowTwinsProjectionHead,
    SimCLRProjectionHead,
)

PACKAGES = ("lightly", "torchvision")


class Model(nn.Module):
    """Backbone and projection head.

    Args:
        backbone: torchvision's, without its classifier.
    """

    def __init__(self, backbone: nn.Module, projection_head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projection_head = projection_head

    def forward(self, images: Tensor) -> Tensor:
        return self.projection_head(self.backbone(images).flatten(start_dim=1))


def entrant(task: Task) -> Entrant:
    """lightly's model of the task, with our weights."""
    ours = task.model
    linear = [layer for layer in ours.neck.modules() if isinstance(layer, nn.Linear)]
    sizes = (linear[0].in_features, linear[0].out_features, linear[-1].out_features)
    criterion: nn.Module
    if task.name == "simclr":
        head, criterion = SimCLRProjectionHead(*sizes), NTXentLoss(ours.head.temperature)
    else:
        head, criterion = BarlowTwinsProjectionHead(*sizes), BarlowTwinsLoss(ours.head.lambd)
    resnet = getattr(torchvision.models, task.size.backbone)()
    resnet.load_state_dict(ours.backbone.model.state_dict(), strict=False)
    _fill(head, ours.neck)
    backbone = nn.Sequential(*list(resnet.children())[:-1])
    model = Model(backbone, head).to(task.device).train()
    views = [ours.normalized(view) for view in task.images]

    def loss() -> Tensor:
        return criterion(*map(model, views))

    def compared_loss() -> Tensor:
        if task.name == "barlowtwins":
            return loss()
        # Batch norms see both views at once in ours, as in the paper, and one at a time in lightly.
        return criterion(*model(torch.cat(views)).chunk(2))

    return Entrant(
        model,
        loss,
        compared_loss,
        (inside(criterion, "forward"),),
        packages=PACKAGES,
        tolerance=1e-3,
        note="its data loader normalises the images",
    )


def _fill(head: nn.Module, neck: nn.Module) -> None:
    """Our weights into layers of the same kind, one after the other."""
    kinds = (nn.Linear, nn.BatchNorm1d)
    theirs = [layer for layer in head.modules() if isinstance(layer, kinds)]
    ours = [layer for layer in neck.modules() if isinstance(layer, kinds)]
    for target, source in zip(theirs, ours, strict=True):
        target.load_state_dict(source.state_dict(), strict=False)
        if isinstance(target, nn.Linear) and source.bias is None and target.bias is not None:
            nn.init.zeros_(target.bias)
