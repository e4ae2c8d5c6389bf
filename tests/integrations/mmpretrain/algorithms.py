"""mmpretrain's nineteen self-supervised algorithms, from its own configs: small for tests, and as
large as two CPU cores stand for `bench/mmpretrain_steps.py`.

A config is the one that mmpretrain ships; `small` and `bench` say what differs, by the dotted names
of its items. Teachers and tokenizers have random weights.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmpretrain
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmpretrain.models.utils.clip_generator_helper import CLIP
from mmpretrain.registry import MODELS, TRANSFORMS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

CONFIGS = Path(mmpretrain.__file__).parent / ".mim/configs"
MASKED = 0.383  # share of patches: 75 of 196, as CAE wants
MAX_ITERS = 100  # momentum schedules ask for it

TOY_VIT = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
VIT_S = dict(embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1536)
TOY_DECODER = {
    "neck.num_patches": 16,
    "neck.embed_dim": 32,
    "neck.decoder_embed_dim": 32,
    "neck.decoder_depth": 1,
    "neck.decoder_num_heads": 2,
}
TOY_MAE = {"backbone.arch": TOY_VIT, "backbone.img_size": 64, **TOY_DECODER}
TOY_RESNET = {"backbone.depth": 18, "neck.in_channels": 512, "neck.hid_channels": 16}


@dataclass(frozen=True)
class Size:
    """Of one algorithm: what differs from its config, and the batch.

    Attributes:
        model: items of the config's model, by dotted names.
        image: side in pixels of the (first) pictures.
        grid: side of the masks that come with the pictures, in patches.
        batch: pictures.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    image: int = 224
    grid: int = 14
    batch: int = 8


@dataclass(frozen=True)
class Algorithm:
    """One algorithm.

    Attributes:
        config: its file among mmpretrain's configs.
        inputs: "image"; "masked", an image and its mask; "pictures", an image, its mask and a
            second picture for the tokenizer; "views", two; "crops", two views and six small ones.
        small, bench: see `Size`.
        model: in words, for `bench`.
    """

    config: str
    inputs: str
    small: Size
    bench: Size
    model: str


ALGORITHMS = {
    "Barlow Twins": Algorithm(
        "barlowtwins/barlowtwins_resnet50_8xb256-coslr-300e_in1k.py",
        "views",
        Size({**TOY_RESNET, "neck.out_channels": 16, "head.in_channels": 16}, 32, batch=4),
        Size({"backbone.depth": 18, "neck.in_channels": 512}, 96, batch=32),
        "ResNet-18, 96 px, batch 32",
    ),
    "BEiT": Algorithm(
        "beit/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py",
        "pictures",
        Size(
            {
                "backbone.arch": TOY_VIT,
                "backbone.img_size": 64,
                "head.embed_dims": 32,
                "head.num_embed": 64,
                "target_generator": dict(type="DALL-E", n_hid=8, vocab_size=64),
            },
            64,
            4,
            2,
        ),
        Size({"backbone.arch": VIT_S, "head.embed_dims": 384, "target_generator.init_cfg": None}),
        "ViT-S, 224 px, batch 8",
    ),
    "BEiT v2": Algorithm(
        "beitv2/beitv2_beit-base-p16_8xb256-amp-coslr-300e_in1k.py",
        "pictures",
        Size(
            {
                "backbone.arch": TOY_VIT,
                "backbone.img_size": 64,
                "backbone.out_indices": [0, 1],
                "neck.backbone_arch": {**TOY_VIT, "depth": 2},
                "neck.early_layers": 1,
                "neck.num_layers": 1,
                "head.embed_dims": 32,
                "head.num_embed": 64,
                "target_generator.init_cfg": None,
                "target_generator.num_embed": 64,
                "target_generator.encoder_config.arch": TOY_VIT,
                "target_generator.encoder_config.img_size": 64,
            },
            64,
            4,
            2,
        ),
        Size({"target_generator.init_cfg": None}, batch=2),
        "ViT-B, 224 px, batch 2",
    ),
    "BYOL": Algorithm(
        "byol/byol_resnet50_16xb256-coslr-200e_in1k.py",
        "views",
        Size(
            {
                **TOY_RESNET,
                "neck.out_channels": 16,
                "head.predictor.in_channels": 16,
                "head.predictor.hid_channels": 16,
                "head.predictor.out_channels": 16,
            },
            32,
            batch=4,
        ),
        Size({"backbone.depth": 18, "neck.in_channels": 512}, 96, batch=32),
        "ResNet-18, 96 px, batch 32",
    ),
    "CAE": Algorithm(
        "cae/cae_beit-base-p16_8xb256-amp-coslr-300e_in1k.py",
        "pictures",
        Size(
            {
                "backbone.arch": TOY_VIT,
                "backbone.img_size": 64,
                "neck.embed_dims": 32,
                "neck.num_heads": 2,
                "neck.regressor_depth": 1,
                "neck.decoder_depth": 1,
                "neck.num_classes": 64,
                "neck.mask_tokens_num": 6,
                "target_generator": dict(type="DALL-E", n_hid=8, vocab_size=64),
            },
            64,
            4,
            2,
        ),
        Size(
            {
                "backbone.arch": VIT_S,
                "neck.embed_dims": 384,
                "neck.num_heads": 6,
                "target_generator.init_cfg": None,
            }
        ),
        "ViT-S, 224 px, batch 8",
    ),
    "DenseCL": Algorithm(
        "densecl/densecl_resnet50_8xb32-coslr-200e_in1k.py",
        "views",
        Size({**TOY_RESNET, "neck.out_channels": 16, "feat_dim": 16, "queue_len": 32}, 64, batch=4),
        Size({"backbone.depth": 18, "neck.in_channels": 512}, 224),
        "ResNet-18, 224 px, batch 8",
    ),
    "EVA": Algorithm(
        "eva/eva-mae-style_vit-base-p16_16xb256-coslr-400e_in1k.py",
        "image",
        Size({**TOY_MAE, "neck.predict_feature_dim": 16, "target_generator": "toy"}, 64, 4, 2),
        Size(
            {"backbone.arch": VIT_S, "neck.embed_dim": 384, "target_generator": "base"},
        ),
        "ViT-S, 224 px, batch 8",
    ),
    "iTPN": Algorithm(
        "itpn/itpn-pixel_hivit-base-p16_8xb512-amp-coslr-400e_in1k.py",
        "image",
        Size(
            {
                "backbone.arch": dict(embed_dims=32, depths=[1, 1, 1], num_heads=2),
                "backbone.img_size": 64,
                **TOY_DECODER,
                "neck.fpn_dim": 16,
                "neck.fpn_depth": 1,
            },
            64,
            4,
            2,
        ),
        Size({"backbone.arch": "tiny", "neck.embed_dim": 384}),
        "HiViT-T, 224 px, batch 8",
    ),
    "iTPN (CLIP)": Algorithm(
        "itpn/itpn-clip-b_hivit-base-p16_8xb256-amp-coslr-300e_in1k.py",
        "pictures",
        Size(
            {
                "backbone.arch": dict(embed_dims=32, depths=[1, 1, 1], num_heads=2),
                "backbone.img_size": 64,
                "neck.embed_dim": 32,
                "neck.decoder_embed_dim": 32,
                "neck.fpn_dim": 16,
                "neck.fpn_depth": 1,
                "head.embed_dims": 32,
                "head.num_embed": 16,
                "target_generator": "toy",
            },
            64,
            4,
            2,
        ),
        Size(
            {
                "backbone.arch": "tiny",
                "neck.embed_dim": 384,
                "neck.decoder_embed_dim": 384,
                "head.embed_dims": 384,
                "target_generator": "base",
            }
        ),
        "HiViT-T, 224 px, batch 8",
    ),
    "MAE": Algorithm(
        "mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py",
        "image",
        Size(TOY_MAE, 64, 4, 2),
        Size({"backbone.arch": VIT_S, "neck.embed_dim": 384}),
        "ViT-S, 224 px, batch 8",
    ),
    "MAE (HiViT)": Algorithm(
        "mae/mae_hivit-base-p16_8xb512-amp-coslr-400e_in1k.py",
        "image",
        Size(
            {
                **TOY_MAE,
                "backbone.arch": dict(embed_dims=32, depths=[1, 1, 1], num_heads=2),
            },
            64,
            4,
            2,
        ),
        Size({"backbone.arch": "tiny", "neck.embed_dim": 384}),
        "HiViT-T, 224 px, batch 8",
    ),
    "MaskFeat": Algorithm(
        "maskfeat/maskfeat_vit-base-p16_8xb256-amp-coslr-300e_in1k.py",
        "masked",
        Size(
            {
                "backbone.arch": TOY_VIT,
                "backbone.img_size": 112,
                "backbone.patch_size": 8,
                "neck.in_channels": 32,
                "neck.out_channels": 27,
            },
            112,
            14,
            2,
        ),
        Size({"backbone.arch": VIT_S, "neck.in_channels": 384}),
        "ViT-S, 224 px, batch 8",
    ),
    "MFF": Algorithm(
        "mff/mff_vit-base-p16_8xb512-amp-coslr-300e_in1k.py",
        "image",
        Size({**TOY_MAE, "backbone.out_indices": [0, 1]}, 64, 4, 2),
        Size({"backbone.arch": VIT_S, "neck.embed_dim": 384}),
        "ViT-S, 224 px, batch 8",
    ),
    "MILAN": Algorithm(
        "milan/milan_vit-base-p16_16xb256-amp-coslr-400e_in1k.py",
        "image",
        Size({**TOY_MAE, "neck.predict_feature_dim": 16, "target_generator": "toy"}, 64, 4, 2),
        Size({"backbone.arch": VIT_S, "neck.embed_dim": 384, "target_generator": "base"}),
        "ViT-S, 224 px, batch 8",
    ),
    "MixMIM": Algorithm(
        "mixmim/mixmim_mixmim-base_16xb128-coslr-300e_in1k.py",
        "image",
        Size(
            {
                "backbone.arch": dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2]),
                "backbone.img_size": 64,
                "backbone.window_size": [2, 2, 2, 2],
                **TOY_DECODER,
                "neck.num_patches": 4,
                "neck.embed_dim": 128,
            },
            64,
            2,
            2,
        ),
        Size(
            {
                "backbone.arch": dict(embed_dims=64, depths=[2, 2, 6, 2], num_heads=[2, 4, 8, 16]),
                "neck.embed_dim": 512,
            }
        ),
        "MixMIM of width 64 and depths 2, 2, 6, 2, 224 px, batch 8",
    ),
    "MoCo": Algorithm(
        "mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py",
        "views",
        Size({**TOY_RESNET, "neck.out_channels": 16, "feat_dim": 16, "queue_len": 32}, 32, batch=4),
        Size({"backbone.depth": 18, "neck.in_channels": 512}, 96, batch=32),
        "ResNet-18, 96 px, batch 32",
    ),
    "MoCo v3": Algorithm(
        "mocov3/mocov3_vit-small-p16_16xb256-amp-coslr-300e_in1k.py",
        "views",
        Size(
            {
                "backbone.arch": TOY_VIT,
                "backbone.img_size": 64,
                "neck.in_channels": 32,
                "neck.hid_channels": 16,
                "neck.out_channels": 16,
                "head.predictor.in_channels": 16,
                "head.predictor.hid_channels": 16,
                "head.predictor.out_channels": 16,
            },
            64,
            batch=4,
        ),
        Size(),
        "ViT-S, 224 px, batch 8",
    ),
    "SimCLR": Algorithm(
        "simclr/simclr_resnet50_8xb32-coslr-200e_in1k.py",
        "views",
        Size({**TOY_RESNET, "neck.out_channels": 16}, 32, batch=4),
        Size({"backbone.depth": 18, "neck.in_channels": 512}, 96, batch=32),
        "ResNet-18, 96 px, batch 32",
    ),
    "SimMIM": Algorithm(
        "simmim/simmim_swin-base-w6_16xb128-amp-coslr-100e_in1k-192px.py",
        "masked",
        Size(
            {
                "backbone.arch": dict(embed_dims=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2]),
                "backbone.img_size": 64,
                "backbone.stage_cfgs.block_cfgs.window_size": 2,
                "neck.in_channels": 128,
            },
            64,
            16,
            2,
        ),
        Size({"backbone.arch": "tiny", "neck.in_channels": 768}, 192, 48),
        "Swin-T, 192 px, batch 8",
    ),
    "SimSiam": Algorithm(
        "simsiam/simsiam_resnet50_8xb32-coslr-100e_in1k.py",
        "views",
        Size(
            {
                **TOY_RESNET,
                "neck.out_channels": 16,
                "head.predictor.in_channels": 16,
                "head.predictor.hid_channels": 8,
                "head.predictor.out_channels": 16,
            },
            32,
            batch=4,
        ),
        Size({"backbone.depth": 18, "neck.in_channels": 512}, 96, batch=32),
        "ResNet-18, 96 px, batch 32",
    ),
    "SparK": Algorithm(
        "spark/spark_sparse-resnet50_8xb512-amp-coslr-800e_in1k.py",
        "image",
        Size(
            {
                "backbone.depth": 18,
                "input_size": 64,
                "enc_dec_norm_dim": 512,
                "neck.feature_dim": 32,
            },
            64,
            2,
            2,
        ),
        Size({"backbone.depth": 18, "enc_dec_norm_dim": 512}),
        "ResNet-18, 224 px, batch 8",
    ),
    "SwAV": Algorithm(
        "swav/swav_resnet50_8xb32-mcrop-coslr-200e_in1k-224px-96px.py",
        "crops",
        Size(
            {
                **TOY_RESNET,
                "neck.out_channels": 16,
                "head.loss.feat_dim": 16,
                "head.loss.num_prototypes": 12,
            },
            64,
            batch=4,
        ),
        Size({"backbone.depth": 18, "neck.in_channels": 512}, 128, batch=16),
        "ResNet-18, 128 px and 64 px, batch 16",
    ),
}


def config_of(name: str, size: Size) -> Config:
    """mmpretrain's config of an algorithm, with what `size` changes."""
    config = Config.fromfile(CONFIGS / ALGORITHMS[name].config)
    override(config.model, size)
    config.model.setdefault("data_preprocessor", config.get("data_preprocessor"))
    if "num_crops" in config.model.head.loss:
        config.model.head.loss.setdefault("num_prototypes", 3000)
    # One precision for all, so that losses can be compared; scaling of fp16 needs a GPU anyway.
    config.optim_wrapper.type = "OptimWrapper"
    config.optim_wrapper.pop("loss_scale", None)
    return config


def override(model: Any, size: Size) -> None:
    """Changes a model's config to that of a size."""
    for path, value in size.model.items():
        *parents, last = path.split(".")
        part = functools.reduce(lambda inner, key: inner[key], parents, model)
        part[last] = clip_teacher(value) if value in ("toy", "base") else value


def build(name: str, size: Size) -> nn.Module:
    """The model, initialised, in training mode; the same after the same `torch.manual_seed`."""
    MMLogger.get_current_instance().setLevel("ERROR")  # else it lists every weight
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(config_of(name, size).model)
        model.init_weights()
    MessageHub.get_current_instance().update_info("max_iters", MAX_ITERS)
    return revert_sync_batchnorm(model).train()


def optimizer_of(name: str, size: Size, model: nn.Module) -> Any:
    """mmengine's wrapper of the optimiser that the config asks for."""
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return build_optim_wrapper(model, config_of(name, size).optim_wrapper)


def batch_of(name: str, size: Size, seed: int = 0) -> dict[str, Any]:
    """A batch as mmpretrain's data loaders give it: uint8 images, and masks where it has them."""
    generator = torch.Generator().manual_seed(seed)

    def images(side: int) -> Tensor:
        shape = (size.batch, 3, side, side)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    kind, patches = ALGORITHMS[name].inputs, size.grid**2
    samples = [DataSample() for _ in range(size.batch)]
    if kind in ("masked", "pictures"):
        for sample in samples:
            order = torch.rand(patches, generator=generator).argsort()
            sample.set_mask((order < int(MASKED * patches)).long().view(size.grid, size.grid))
    inputs: Any = {
        "image": lambda: images(size.image),
        "masked": lambda: images(size.image),
        "pictures": lambda: [images(size.image), images(_second_side(name, size))],
        "views": lambda: [images(size.image) for _ in range(2)],
        "crops": lambda: (
            [images(size.image) for _ in range(2)] + [images(size.image // 2) for _ in range(6)]
        ),
    }[kind]()
    return {"inputs": inputs, "data_samples": samples}


def mask_step_of(name: str, size: Size) -> Any:
    """The transform of the config's pipeline that makes the masks; None if there is none."""
    for step in config_of(name, size).train_dataloader.dataset.pipeline:
        if step["type"] == "BEiTMaskGenerator":
            few = {} if size.grid == 14 else {"num_masking_patches": 6, "min_num_patches": 2}
            return TRANSFORMS.build({**step, "input_size": size.grid, **few})
        if step["type"] == "SimMIMMaskGenerator":
            return TRANSFORMS.build({**step, "input_size": size.image})
    return None


def masks_of(name: str, size: Size) -> Callable[[], None]:
    """A function that makes the masks of a batch as the config's data loader does."""
    transform = mask_step_of(name, size)

    def masks() -> None:
        if transform is not None:
            for _ in range(size.batch):
                transform({})

    return masks


def _second_side(name: str, size: Size) -> int:
    # DALL-E's tokenizer makes a token of 8 x 8 pixels, others of as many as the model.
    return 8 * size.grid if name in ("BEiT", "CAE") else size.image


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def clip_teacher(kind: str) -> dict[str, Any]:
    """The config of a CLIP with random weights: "toy" for 64 px, "base" as ViT-B/16."""
    path = Path(_folder().name) / f"{kind}.pth"
    if not path.is_file():
        embed, side, layers, width = (16, 64, 1, 64) if kind == "toy" else (512, 224, 12, 768)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            clip = CLIP(embed, side, layers, width, 16, 4, 8, 64, 1, 1, False, 1)  # small texts
        torch.save(clip.state_dict(), path)
    return dict(type="CLIPGenerator", tokenizer_path=str(path))
