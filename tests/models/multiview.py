"""Small multi-view models for tests."""

import torch

from ssl_fast.models import MODELS
from ssl_fast.models.barlowtwins import barlowtwins_config
from ssl_fast.models.byol import byol_config
from ssl_fast.models.densecl import densecl_config
from ssl_fast.models.moco import moco_config
from ssl_fast.models.mocov3 import mocov3_config
from ssl_fast.models.simclr import simclr_config
from ssl_fast.models.simsiam import simsiam_config
from ssl_fast.models.swav import swav_config

RESNET = dict(layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), stem_width=8, output_stride=8)
VIT = dict(depth=2, embed_dim=24, num_heads=2)
SIZES = dict(hidden_dim=32, out_dim=16)

# name -> (config, backbone, patch size, options)
METHODS = {
    "simclr": (simclr_config, "resnet18", None, dict(SIZES, backbone_options=RESNET)),
    "moco": (moco_config, "resnet18", None, dict(SIZES, queue_len=12, backbone_options=RESNET)),
    "mocov3": (mocov3_config, "vit_tiny_patch16_224", 8, dict(SIZES, backbone_options=VIT)),
    "densecl": (
        densecl_config,
        "resnet18",
        None,
        dict(SIZES, queue_len=12, start_iters=0, backbone_options=RESNET),
    ),
    "byol": (byol_config, "resnet18", None, dict(SIZES, backbone_options=RESNET)),
    "simsiam": (
        simsiam_config,
        "resnet18",
        None,
        dict(out_dim=32, predictor_dim=8, backbone_options=RESNET),
    ),
    "barlowtwins": (
        barlowtwins_config,
        "resnet18",
        None,
        dict(out_dim=16, backbone_options=RESNET),
    ),
    "swav": (
        swav_config,
        "resnet18",
        None,
        dict(SIZES, num_prototypes=10, freeze_steps=0, backbone_options=RESNET),
    ),
}


def model(method, seed=0, **options):
    """A method's model, of a few thousand weights."""
    config, backbone, patch_size, defaults = METHODS[method]
    torch.manual_seed(seed)
    built = config(backbone, 32, patch_size, **{**defaults, **options})
    preprocessor = dict(mean=[120.0], std=[60.0], keep_uint8=True)
    return MODELS.build({**built, "data_preprocessor": preprocessor})


def views(method, count=8, seed=1):
    """As many views as the method takes, of random pixels that the views of an image share."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 200, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)

    def view(side):
        noise = torch.randint(0, 50, (count, 3, side, side), generator=generator)
        return images[..., :side, :side] + noise.to(torch.uint8)

    return [view(32), view(32), *([view(24), view(24)] if method == "swav" else [])]


def train(built, batch, steps, lr=1e-3):
    """Steps of AdamW on one batch: the losses."""
    optimizer = torch.optim.AdamW([p for p in built.parameters() if p.requires_grad], lr=lr)
    losses = []
    for _ in range(steps):
        loss, _ = built.parse_losses(built(batch, mode="loss"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
