"""Projectors from a backbone's features to embeddings, named as in mmpretrain's configs."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .registry import MODELS


def average_pooled(features: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Vectors [N, C] of a map [N, C, h, w]; vectors stay.

    Of a tuple, which is what mmpretrain's backbones return, the last: their deepest features.

    Raises:
        ValueError: for features of another shape.
    """
    if isinstance(features, tuple):
        features = features[-1]
    if features.dim() == 2:
        return features
    if features.dim() == 4:
        return features.mean(dim=(2, 3))
    raise ValueError(
        f"features have shape {tuple(features.shape)}; expected [N, C] or [N, C, h, w]: set "
        f"out_type of the backbone"
    )


@MODELS.register
class NonLinearNeck(nn.Module):
    """Linear layers with batch norm, and ReLU between them: a projector or a predictor.

    Args:
        in_channels, hid_channels, out_channels: of the features, between layers, of the embedding.
        num_layers: 2 or more.
        with_bias: of all layers but the last.
        with_last_bn, with_last_bn_affine, with_last_bias: of the last layer.
        with_avg_pool: whether maps [N, C, h, w] are averaged first; vectors stay.

    Raises:
        ValueError: for too few layers.
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int,
        out_channels: int,
        num_layers: int = 2,
        with_bias: bool = False,
        with_last_bn: bool = True,
        with_last_bn_affine: bool = True,
        with_last_bias: bool = False,
        with_avg_pool: bool = True,
    ) -> None:
        super().__init__()
        if num_layers < 2:
            raise ValueError(f"num_layers is {num_layers}; expected 2 or more")
        self.with_avg_pool = with_avg_pool
        self.num_layers = num_layers
        self.fc0 = nn.Linear(in_channels, hid_channels, bias=with_bias)
        self.bn0 = nn.BatchNorm1d(hid_channels)
        for layer in range(1, num_layers - 1):
            self.add_module(f"fc{layer}", nn.Linear(hid_channels, hid_channels, bias=with_bias))
            self.add_module(f"bn{layer}", nn.BatchNorm1d(hid_channels))
        last = num_layers - 1
        self.add_module(f"fc{last}", nn.Linear(hid_channels, out_channels, bias=with_last_bias))
        if with_last_bn:
            self.add_module(f"bn{last}", nn.BatchNorm1d(out_channels, affine=with_last_bn_affine))

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels], or a map, to [N, out_channels]."""
        x = average_pooled(features) if self.with_avg_pool else features
        for layer in range(self.num_layers):
            x = getattr(self, f"fc{layer}")(x if layer == 0 else F.relu(x))
            if norm := getattr(self, f"bn{layer}", None):
                x = norm(x)
        return x


@MODELS.register
class MoCoV2Neck(nn.Module):
    """Two linear layers with ReLU between them (MoCo v2).

    Args:
        in_channels, hid_channels, out_channels: see `NonLinearNeck`.
        with_avg_pool: see `NonLinearNeck`.
    """

    def __init__(
        self, in_channels: int, hid_channels: int, out_channels: int, with_avg_pool: bool = True
    ) -> None:
        super().__init__()
        self.with_avg_pool = with_avg_pool
        self.mlp = _mlp(in_channels, hid_channels, out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels], or a map, to [N, out_channels]."""
        return self.mlp(average_pooled(features) if self.with_avg_pool else features)


@MODELS.register
class DenseCLNeck(nn.Module):
    """A projector of the pooled features, and one of each place of the map (DenseCL).

    Args:
        in_channels, hid_channels, out_channels: see `NonLinearNeck`.
    """

    def __init__(self, in_channels: int, hid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mlp = _mlp(in_channels, hid_channels, out_channels)
        self.mlp2 = nn.Sequential(
            nn.Conv2d(in_channels, hid_channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hid_channels, out_channels, 1),
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of a map [N, in_channels, h, w].

        Returns:
            Of the pooled features [N, D], of each place [N, D, S], and the mean of these [N, D].

        Raises:
            ValueError: for what is no map.
        """
        if features.dim() != 4:
            raise ValueError(
                f"features have shape {tuple(features.shape)}; expected a map [N, C, h, w]: set "
                f"the backbone's out_type to 'featmap'"
            )
        single = self.mlp(features.mean(dim=(2, 3)))
        dense = self.mlp2(features).flatten(2)
        return single, dense, dense.mean(dim=2)


@MODELS.register
class SwAVNeck(nn.Module):
    """Two linear layers, batch norm and ReLU between them, to embeddings of length 1 (SwAV).

    Args:
        in_channels, hid_channels, out_channels: see `NonLinearNeck`.
        with_avg_pool: see `NonLinearNeck`.
        with_l2norm: whether embeddings get length 1.
    """

    def __init__(
        self,
        in_channels: int,
        hid_channels: int,
        out_channels: int,
        with_avg_pool: bool = True,
        with_l2norm: bool = True,
    ) -> None:
        super().__init__()
        self.with_avg_pool = with_avg_pool
        self.with_l2norm = with_l2norm
        self.projection_neck = nn.Sequential(
            nn.Linear(in_channels, hid_channels),
            nn.BatchNorm1d(hid_channels),
            nn.ReLU(inplace=True),
            nn.Linear(hid_channels, out_channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        """[N, in_channels], or a map, to [N, out_channels]."""
        pooled = average_pooled(features) if self.with_avg_pool else features
        embeddings = self.projection_neck(pooled)
        return F.normalize(embeddings.float(), dim=1) if self.with_l2norm else embeddings


def _mlp(in_channels: int, hid_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(in_channels, hid_channels),
        nn.ReLU(inplace=True),
        nn.Linear(hid_channels, out_channels),
    )
