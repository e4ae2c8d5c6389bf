"""mmpretrain's classes for the benchmark. An ImportError here means: not installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from ssl_fast._compat.torchvision import import_torchvision

import_torchvision()
with warnings.catch_warnings():  # mmcv-lite says at length which of its ops it lacks
    warnings.simplefilter("ignore")
    from mmpretrain.datasets.transforms import BEiTMaskGenerator, SimMIMMaskGenerator
    from mmpretrain.models.heads import (
        ContrastiveHead,
        LatentCrossCorrelationHead,
        MAEPretrainHead,
        MoCoV3Head,
        SimMIMHead,
    )
    from mmpretrain.models.losses.swav_loss import distributed_sinkhorn
    from mmpretrain.models.necks import MAEPretrainDecoder
    from mmpretrain.models.selfsup.mae import MAEHiViT, MAEViT
    from mmpretrain.models.selfsup.maskfeat import HOGGenerator

Function = Callable[..., Any]
ENTROPY = {"type": "CrossEntropyLoss"}


def hog_generator(nbins: int, pool: int, gaussian_window: int, tokens: bool = True) -> nn.Module:
    """MaskFeat's target generator: [B, 3, H, W] float32 to [B, 3, nbins, H / pool, W / pool].

    With `tokens` as it is: at 224 px then to [B, 196, 108].
    """
    generator = HOGGenerator(nbins, pool, gaussian_window)
    if not tokens:
        generator._reshape = _same
    return generator


# ---- Masks: transforms of one image, called as a loader's worker calls them, stacked as it stacks


def beit_masks(batch: int, grid: tuple[int, int], masked: int, min_block: int) -> Function:
    """Nothing to [batch, *grid] int64."""
    return _stacked(BEiTMaskGenerator(grid, masked, min_num_patches=min_block), batch)


def simmim_masks(batch: int) -> Function:
    """Nothing to [batch, 48, 48] int64."""
    return _stacked(SimMIMMaskGenerator(), batch)


def _stacked(generator: Any, batch: int) -> Function:
    return lambda: torch.from_numpy(np.stack([generator({})["mask"] for _ in range(batch)]))


def random_ids(batch: int, length: int, ratio: float, device: str) -> Function:
    """Nothing to (ids_keep, ids_restore, mask): MAE's masking as its HiViT has it by itself."""
    model = SimpleNamespace(pos_embed=torch.zeros(1, length, 1, device=device))
    return lambda: MAEHiViT.masking_id(model, batch, ratio)


# ---- Tokens


def random_masking(ratio: float) -> Function:
    """(x [N, L, D], noise [N, L] or none: its own) to (kept tokens, mask, ids_restore)."""

    def masking(x: Tensor, noise: Tensor | None = None) -> Any:
        """It asks torch.rand for its noise, so given noise comes from there; not compiled then."""
        if noise is None:
            return MAEViT.random_masking(None, x, ratio)
        return given_noise(x, noise)

    @torch.compiler.disable
    def given_noise(x: Tensor, noise: Tensor) -> Any:
        with mock.patch.object(torch, "rand", return_value=noise):
            return MAEViT.random_masking(None, x, ratio)

    return masking


def restore_tokens() -> Function:
    """How MAE's decoder begins: one without layers, kept before it cuts the class token off.

    (x [N, 1 + K, D], ids_restore [N, L], mask token, positions) to [N, 1 + L, D].
    """

    def restore(x: Tensor, ids: Tensor, token: Tensor, positions: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def keep(tokens: Tensor) -> Tensor:
            seen.append(tokens)
            return tokens

        decoder = SimpleNamespace(
            decoder_embed=_same,
            mask_token=token,
            decoder_pos_embed=positions,
            decoder_blocks=(),
            decoder_norm=_same,
            decoder_pred=keep,
        )
        MAEPretrainDecoder.forward(decoder, x, ids)
        return seen[0]

    return restore


def _same(x: Any) -> Any:
    return x


# ---- Losses


def mae_loss(patch: int, norm_pix: bool) -> Function:
    """(prediction [N, L, p*p*C], images, mask [N, L]) to the loss."""
    head = MAEPretrainHead({"type": "PixelReconstructionLoss", "criterion": "L2"}, norm_pix, patch)

    def loss(prediction: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        return head.loss(prediction.float(), images, mask)  # as autocast hands it to mse_loss

    return loss


def simmim_loss(patch: int) -> Function:
    """(prediction [N, C, H, W], images, mask [N, h, w]) to the loss."""
    loss = {"type": "PixelReconstructionLoss", "criterion": "L1", "channel": 3}
    return SimMIMHead(patch, loss).loss


def moco_loss(temperature: float) -> Function:
    """MoCo's two einsums, which it has no function for, and its head; the queue is [K, D]."""
    head = ContrastiveHead(ENTROPY, temperature)

    def loss(query: Tensor, positive: Tensor, queue: Tensor) -> Tensor:
        own = torch.einsum("nc,nc->n", [query, positive]).unsqueeze(-1)
        others = torch.einsum("nc,ck->nk", [query, queue.t().clone().detach()])
        return head.loss(own, others)

    return loss


def mocov3_loss(temperature: float) -> Function:
    """(query, keys) to MoCo v3's loss, without a predictor; normalises both."""
    return MoCoV3Head({"type": nn.Identity}, ENTROPY, temperature).loss


def barlow_twins_loss(features: int, weight: float, device: str) -> Function:
    """Two views [N, D] to the loss."""
    loss = {"type": "CrossCorrelationLoss", "lambd": weight}
    return LatentCrossCorrelationHead(features, loss).to(device).loss


def sinkhorn(epsilon: float, iterations: int) -> Function:
    """Scores [N, K] to assignments, in float32, as under autocast."""
    return lambda scores: distributed_sinkhorn(scores.float(), iterations, 1, epsilon)
