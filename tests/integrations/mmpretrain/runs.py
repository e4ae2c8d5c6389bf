"""Small runs of mmengine's Runner: datasets, configs of our models, and the Runner itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import Dataset

SIDE, PATCH, IMAGES, BATCH = 32, 8, 8, 4
GRID = SIDE // PATCH
BACKBONE = dict(name="vit_tiny_patch16_224", image_size=SIDE, patch_size=PATCH, depth=2)
STATISTICS = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
EPOCHS = dict(type="EpochBasedTrainLoop", max_epochs=2)
ITERATIONS = dict(type="IterBasedTrainLoop", max_iters=4)

MODELS = {
    "MAE": dict(
        type="ssl_fast.MAE",
        backbone=dict(type="VisibleViT", **BACKBONE),
        neck=dict(
            type="MAEPretrainDecoder",
            grid=(GRID, GRID),
            patch_size=PATCH,
            embed_dim=192,
            decoder_embed_dim=32,
            decoder_depth=1,
            decoder_num_heads=2,
        ),
        head=dict(type="MAEPretrainHead", patch_size=PATCH),
        data_preprocessor=dict(**STATISTICS, keep_uint8=True),
    ),
    "MaskFeat": dict(
        type="ssl_fast.MaskFeat",
        backbone=dict(type="MaskedViT", **BACKBONE),
        neck=dict(type="LinearNeck", in_channels=192, out_channels=108),
        head=dict(type="MIMHead", loss=dict(type="PixelReconstructionLoss")),
        target_generator=dict(
            type="HOGGenerator", pool=PATCH // 2, gaussian_window=PATCH, patch_size=PATCH
        ),
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02),
        data_preprocessor=STATISTICS,
    ),
    "SimCLR": dict(
        type="ssl_fast.SimCLR",
        backbone=dict(type="TimmBackbone", name="resnet10t", out_type="pooled"),
        neck=dict(type="NonLinearNeck", in_channels=512, hid_channels=16, out_channels=16),
        head=dict(type="ContrastiveHead"),
        data_preprocessor=STATISTICS,
    ),
    "BYOL": dict(
        type="ssl_fast.BYOL",
        backbone=dict(type="mmpretrain.ResNet", depth=18, stem_channels=8, base_channels=8),
        neck=dict(type="NonLinearNeck", in_channels=64, hid_channels=16, out_channels=16),
        head=dict(
            type="LatentPredictHead",
            predictor=dict(type="NonLinearNeck", in_channels=16, hid_channels=8, out_channels=16),
            loss=dict(type="CosineSimilarityLoss"),
        ),
        data_preprocessor=STATISTICS,
    ),
}


@DATASETS.register_module()
class ToyImages(Dataset[dict[str, Any]]):
    """Random uint8 images by index, in several views or with a mask."""

    def __init__(self, views: int = 1, masks: bool = False) -> None:
        self.views, self.masks = views, masks

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        size = (self.views, 3, SIDE, SIDE)
        views = list(torch.randint(0, 256, size, dtype=torch.uint8, generator=generator))
        sample = DataSample()
        if self.masks:
            sample.set_mask(torch.rand(GRID, GRID, generator=generator) < 0.4)
        return {"inputs": views[0] if self.views == 1 else views, "data_samples": sample}


def runner_of(
    method: str, folder: Path, loop: dict[str, Any] = ITERATIONS, **changes: Any
) -> Runner:
    """A Runner that trains our model of a method; its checkpoints are in `folder`."""
    by_epoch = loop["type"] == EPOCHS["type"]
    views = 2 if method in ("SimCLR", "BYOL") else 1
    config = dict(
        model=MODELS[method],
        work_dir=str(folder),
        train_cfg=dict(loop),
        train_dataloader=dict(
            batch_size=BATCH,
            num_workers=0,
            sampler=dict(type="DefaultSampler" if by_epoch else "InfiniteSampler", shuffle=True),
            collate_fn=dict(type="default_collate"),
            dataset=dict(type="ToyImages", views=views, masks=method == "MaskFeat"),
        ),
        optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3)),
        default_hooks=dict(
            checkpoint=dict(
                type="CheckpointHook", interval=1 if by_epoch else 2, by_epoch=by_epoch
            ),
            logger=dict(type="LoggerHook", interval=1, log_metric_by_epoch=by_epoch),
        ),
        log_processor=dict(by_epoch=by_epoch),
        log_level="WARNING",
        default_scope="mmpretrain",
        randomness=dict(seed=0),
        experiment_name=f"{folder.parent.name}-{folder.name}",
    )
    return Runner.from_cfg({**config, **changes})


def state_of(runner: Runner) -> dict[str, Tensor]:
    """A copy of the model's state."""
    return {key: value.clone() for key, value in runner.model.state_dict().items()}
