"""mmpretrain's models with our weights, for the benchmark of whole steps.

An ImportError here means: not installed.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_fast._compat import import_torchvision
from ssl_fast.bench.steps.entrants import Entrant, Task
from ssl_fast.bench.steps.sizes import MEAN, STD
from ssl_fast.bench.steps.spans import Span, after, before, inside

import_torchvision()
with warnings.catch_warnings():  # mmcv-lite says at length which of its ops it lacks
    warnings.simplefilter("ignore")
    import mmpretrain
    from mmengine.config import Config
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS
    from mmpretrain.structures import DataSample

PACKAGES = ("mmpretrain", "mmengine", "mmcv-lite")
MAX_STEPS = 10**6  # momentum schedules ask for it
CONFIGS = {
    "maskfeat": "maskfeat/maskfeat_vit-base-p16_8xb256-amp-coslr-300e_in1k.py",
    "mae": "mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py",
    "simmim": "simmim/simmim_swin-base-w6_16xb128-amp-coslr-100e_in1k-192px.py",
    "simclr": "simclr/simclr_resnet50_8xb32-coslr-200e_in1k.py",
    "mocov3": "mocov3/mocov3_vit-small-p16_16xb256-amp-coslr-300e_in1k.py",
    "barlowtwins": "barlowtwins/barlowtwins_resnet50_8xb256-coslr-300e_in1k.py",
}


def entrant(task: Task) -> Entrant:
    """mmpretrain's model of the task."""
    model = build(CONFIGS[task.name], changes(task))
    carry_over(task.name, task.model, model)
    model.to(task.device).train()
    batch = batch_of(task)

    def loss() -> Tensor:
        data = model.data_preprocessor(dict(batch), True)
        return model(**data, mode="loss")["loss"]

    def compared_loss() -> Tensor:
        if task.name != "mae":
            return loss()
        model.backbone.random_masking = functools.partial(_given_masks, task.mask)
        try:
            return loss()
        finally:
            del model.backbone.random_masking

    with_mask = task.name in ("maskfeat", "simmim")
    return Entrant(
        model,
        loss,
        compared_loss,
        SPANS[task.name](model),
        packages=PACKAGES,
        tolerance=1e-3,  # normalised images turn single bins of HOG; other orders of sums
        note="its masks come from its data loader" if with_mask else "",
    )


# ---- The model


def build(config: str, items: Mapping[str, Any]) -> nn.Module:
    """The model of one of mmpretrain's configs, `items` changed, by their dotted names."""
    MMLogger.get_current_instance().setLevel("ERROR")  # else it lists every weight
    MessageHub.get_current_instance().update_info("max_iters", MAX_STEPS)
    whole = Config.fromfile(Path(mmpretrain.__file__).parent / ".mim/configs" / config)
    whole.model.data_preprocessor = dict(type="SelfSupDataPreprocessor", mean=MEAN, std=STD)
    for path, value in items.items():
        *parents, last = path.split(".")
        functools.reduce(lambda part, key: part[key], parents, whole.model)[last] = value
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(whole.model)
        model.init_weights()
    return revert_sync_batchnorm(model)


def changes(task: Task) -> dict[str, Any]:
    """What differs from mmpretrain's config, so that the model is as large as ours."""
    ours: Any = task.model
    body, features = ours.backbone.model, ours.backbone.num_features
    if task.name in ("simclr", "barlowtwins"):
        items = {
            "backbone.depth": int(task.size.backbone.removeprefix("resnet")),
            "neck.in_channels": features,
            "neck.hid_channels": ours.neck.fc0.out_features,
            "neck.out_channels": _last_layer(ours.neck).out_features,
        }
        if task.name == "barlowtwins":
            items["head.in_channels"] = items["neck.out_channels"]
        return items
    if task.name == "simmim":
        stages = [layer.blocks for layer in body.layers]
        return {
            "backbone.arch": {
                "embed_dims": body.embed_dim,
                "depths": [len(blocks) for blocks in stages],
                "num_heads": [blocks[0].attn.num_heads for blocks in stages],
            },
            "backbone.img_size": task.size.image,
            "backbone.stage_cfgs.block_cfgs.window_size": stages[0][0].window_size[0],
            "backbone.drop_path_rate": 0.0,
            "neck.in_channels": features,
        }
    items = {
        "backbone.arch": {
            "embed_dims": features,
            "num_layers": len(body.blocks),
            "num_heads": body.blocks[0].attn.num_heads,
            "feedforward_channels": body.blocks[0].mlp.fc1.out_features,
        },
        "backbone.img_size": task.size.image,
    }
    if task.name == "maskfeat":
        items["neck.in_channels"] = features
    elif task.name == "mae":
        items |= {
            "neck.num_patches": ours.backbone.grid[0] * ours.backbone.grid[1],
            "neck.embed_dim": features,
            "neck.decoder_embed_dim": ours.neck.decoder_embed.out_features,
            "neck.decoder_depth": len(ours.neck.decoder_blocks),
            "neck.decoder_num_heads": ours.neck.decoder_blocks[0].attn.num_heads,
        }
    else:
        hidden, out = ours.neck.fc0.out_features, _last_layer(ours.neck).out_features
        items |= {"neck.in_channels": features, "head.predictor.in_channels": out}
        for part in ("neck", "head.predictor"):
            items |= {f"{part}.hid_channels": hidden, f"{part}.out_channels": out}
    return items


def _last_layer(neck: nn.Module) -> nn.Linear:
    return [layer for layer in neck.modules() if isinstance(layer, nn.Linear)][-1]


# ---- Weights

# Of our names, in this order.
RENAMED = (
    (r"^backbone\.model\.", "backbone."),
    (r"^(backbone\.patch_embed)\.proj\.", r"\1.projection."),
    (r"^backbone\.blocks\.", "backbone.layers."),
    (r"((?:layers|decoder_blocks)\.\d+)\.norm(\d)\.", r"\1.ln\2."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"^neck\.pos_embed$", "neck.decoder_pos_embed"),
    (r"^neck\.decoder_norm\.", "neck.ln1."),
)
LAST_NORMS = ("backbone.norm3", "backbone.ln1", "backbone.norm1")


def carry_over(name: str, ours: nn.Module, theirs: nn.Module) -> None:
    """Our weights into their model.

    Raises:
        ValueError: if names or sizes do not correspond.
    """
    expected = theirs.state_dict()
    found: dict[str, Tensor] = {}
    for key, value in ours.state_dict().items():
        if key.startswith(("data_preprocessor.", "momentum_encoder.", "steps.")):
            continue  # the momentum encoder begins as a copy in both
        for pattern, replacement in RENAMED:
            key = re.sub(pattern, replacement, key)
        if name == "simmim":
            key, value = _as_their_swin(key, value)
        found[key] = value
    for kind in ("weight", "bias"):
        if (value := found.pop(f"backbone.norm.{kind}", None)) is not None:
            target = next(norm for norm in LAST_NORMS if f"{norm}.{kind}" in expected)
            found[f"{target}.{kind}"] = value
    wanted = {
        key for key in expected
        if not key.startswith(("momentum_encoder.", "data_preprocessor.", "target_generator."))
        and not key.endswith(("relative_position_index", "attn_mask", "num_batches_tracked"))
        and not (name == "barlowtwins" and key.startswith("head."))
    }  # fmt: skip
    if missing := wanted - set(found):
        raise ValueError(f"mmpretrain's {name} has weights that ours lacks: {sorted(missing)}")
    state = {key: found[key].reshape(expected[key].shape) for key in wanted}
    theirs.load_state_dict(state, strict=False)
    if name == "mocov3":
        theirs.momentum_encoder.module.load_state_dict(
            nn.Sequential(theirs.backbone, theirs.neck).state_dict()
        )


def _as_their_swin(key: str, value: Tensor) -> tuple[str, Tensor]:
    """Stages instead of layers; patches are merged at the end of the stage before."""
    key = key.replace("backbone.layers.", "backbone.stages.")
    key = re.sub(r"\.ln(\d)\.", r".norm\1.", key)
    key = re.sub(r"\.attn\.", ".attn.w_msa.", key)
    merging = re.match(r"backbone\.stages\.(\d+)\.downsample\.(.*)", key)
    if merging is None:
        return key, value
    # Theirs unfolds: channel, row, column. Ours concatenates: column, row, channel.
    *rows, columns = value.shape
    value = value.reshape(*rows, 2, 2, columns // 4).transpose(-1, -3).reshape(value.shape)
    return f"backbone.stages.{int(merging[1]) - 1}.downsample.{merging[2]}", value


# ---- The batch


def batch_of(task: Task) -> dict[str, Any]:
    """uint8 images, and masks where mmpretrain's pipeline makes them."""
    samples = [DataSample() for _ in range(task.size.batch)]
    if task.name in ("maskfeat", "simmim"):
        for sample, mask in zip(samples, task.mask.long(), strict=True):
            sample.set_mask(mask)
    return {"inputs": task.images, "data_samples": samples}


def _given_masks(
    masks: tuple[Tensor, Tensor, Tensor], tokens: Tensor, mask_ratio: float
) -> tuple[Tensor, Tensor, Tensor]:
    """In place of mmpretrain's random_masking, while losses are compared."""
    ids_keep, ids_restore, mask = masks
    return torch.take_along_dim(tokens, ids_keep[..., None], dim=1), mask, ids_restore


# ---- What ours does otherwise

SPANS: dict[str, Callable[[Any], tuple[Span, ...]]] = {
    "maskfeat": lambda model: (inside(model.target_generator, "forward"),),
    "mae": lambda model: (
        Span(before(model.backbone.patch_embed, "forward"),
             after(model.backbone, "random_masking")),
        Span(after(model.neck.decoder_embed, "forward"),
             before(model.neck.decoder_blocks[0], "forward")),
        inside(model.head, "loss"),
    ),
    "simmim": lambda model: (inside(model.head, "loss"),),
    "simclr": lambda model: (Span(after(model.neck, "forward"), after(model.head, "loss")),),
    "mocov3": lambda model: (
        Span(after(model.head.predictor, "forward"), after(model.head, "loss")),
    ),
    "barlowtwins": lambda model: (inside(model.head, "loss"),),
}  # fmt: skip
