"""mmpretrain's nineteen self-supervised algorithms, from its own configs: small for tests, and as
large as two CPU cores stand for `bench/mmpretrain_steps.py`.

A config is the one that mmpretrain ships; `small` and `bench` say what differs, by the dotted names
of its items. Teachers and tokenizers have random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

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
RESNET_18 = {"backbone.depth": 18, "neck.in_channels": 512}
THIN = {"backbone.depth": 18, "backbone.stem_channels": 8, "backbone.base_channels": 8}
TOY_RESNET = {**THIN, "neck.in_channels": 64, "neck.hid_channels": 16}
TOY_HIVIT = dict(embed_dims=32, depths=[1, 1, 1], num_heads=2)


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
        small, bench: see `Size`; None where another variant is measured.
        model: in words, for `bench`.
    """

    config: str
    inputs: str
    small: Size
    bench: Size | None
    model: str


ALGORITHMS = {
    "Barlow Twins": Algorithm(
        "barlowtwins/barlowtwins_resnet50_8xb256-coslr-300e_in1k.py",
        "views",
        Size({**TOY_RESNET, "neck.out_channels": 16, "head.in_channels": 16}, 32, batch=4),
        Size({**RESNET_18, "neck.hid_channels": 2048}, 96, batch=32),
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
        None,
        "not measured",
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
        Size(RESNET_18, 96, batch=32),
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
            },
            batch=4,
        ),
        "ViT-S, 224 px, batch 4",
    ),
    "DenseCL": Algorithm(
        "densecl/densecl_resnet50_8xb32-coslr-200e_in1k.py",
        "views",
        Size({**TOY_RESNET, "neck.out_channels": 16, "feat_dim": 16, "queue_len": 32}, 64, batch=4),
        Size(RESNET_18, 224),
        "ResNet-18, 224 px, batch 8",
    ),
    "EVA": Algorithm(
        "eva/eva-mae-style_vit-base-p16_16xb256-coslr-400e_in1k.py",
        "image",
        Size({**TOY_MAE, "neck.predict_feature_dim": 16, "target_generator": "toy"}, 64, 4, 2),
        Size({"backbone.arch": VIT_S, "neck.embed_dim": 384, "target_generator": "base"}, batch=4),
        "ViT-S, 224 px, batch 4",
    ),
    "iTPN": Algorithm(
        "itpn/itpn-pixel_hivit-base-p16_8xb512-amp-coslr-400e_in1k.py",
        "image",
        Size(
            {
                "backbone.arch": TOY_HIVIT,
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
                "backbone.arch": TOY_HIVIT,
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
            },
            batch=4,
        ),
        "HiViT-T, 224 px, batch 4",
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
        Size({**TOY_MAE, "backbone.arch": TOY_HIVIT}, 64, 4, 2),
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
        Size({"backbone.arch": VIT_S, "neck.embed_dim": 384, "target_generator": "base"}, batch=4),
        "ViT-S, 224 px, batch 4",
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
        Size(RESNET_18, 96, batch=32),
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
        Size(RESNET_18, 96, batch=32),
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
        Size(RESNET_18, 96, batch=32),
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
        Size(RESNET_18, 128, batch=16),
        "ResNet-18, 128 px and 64 px, batch 16",
    ),
}
