"""Small whole models: a training step with the integration is that of mmpretrain, on its masks."""

import pytest
import torch

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmpretrain.models.selfsup.maskfeat import HOGGenerator  # noqa: E402
from mmpretrain.registry import MODELS  # noqa: E402
from mmpretrain.structures import DataSample  # noqa: E402
from torch import nn  # noqa: E402

from tests.integrations.mmpretrain.agreement import alike, both, no_worse  # noqa: E402

pytestmark = pytest.mark.usefixtures("few_elements_too")

VIT = dict(
    arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
    img_size=64,
    patch_size=16,
)
DECODER = dict(
    num_patches=16, embed_dim=32, decoder_embed_dim=48, decoder_depth=2, decoder_num_heads=4
)
PIXELS = dict(type="PixelReconstructionLoss", criterion="L2")
HIVIT = dict(
    arch=dict(embed_dims=64, depths=[1, 1, 1], num_heads=2),
    img_size=64,
    patch_size=16,
    inner_patches=4,
)


def mae(kind="MAE", backbone="MAEViT", **options):
    return dict(
        type=kind,
        backbone=dict(type=backbone, **VIT, **options),
        neck=dict(type="MAEPretrainDecoder", patch_size=16, **DECODER),
        head=dict(type="MAEPretrainHead", norm_pix=True, patch_size=16, loss=PIXELS),
    )


def itpn():
    neck = dict(DECODER, embed_dim=64, fpn_dim=32, fpn_depth=1)
    return dict(
        type="iTPN",
        backbone=dict(type="iTPNHiViT", **HIVIT),
        neck=dict(type="iTPNPretrainDecoder", patch_size=16, **neck),
        head=dict(type="MAEPretrainHead", norm_pix=True, patch_size=16, loss=PIXELS),
    )


def maskfeat():
    vit = dict(VIT, img_size=112, patch_size=8)
    return dict(
        type="MaskFeat",
        backbone=dict(type="MaskFeatViT", **vit),
        neck=dict(type="LinearNeck", in_channels=32, out_channels=27, norm_cfg=None, init_cfg=None),
        head=dict(type="MIMHead", loss=PIXELS),
        target_generator=dict(type="HOGGenerator"),
    )


def simmim():
    return dict(
        type="SimMIM",
        backbone=dict(
            type="SimMIMSwinTransformer",
            arch=dict(embed_dims=12, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2]),
            img_size=64,
            stage_cfgs=dict(block_cfgs=dict(window_size=2)),
            drop_path_rate=0.0,
        ),
        neck=dict(type="SimMIMLinearDecoder", in_channels=96, encoder_stride=32),
        head=dict(type="SimMIMHead", patch_size=4, loss=dict(PIXELS, criterion="L1", channel=3)),
    )


class Teacher(nn.Module):
    """In place of CLIP: features of all tokens, and the attention of the last layer."""

    def forward(self, x):
        generator = torch.Generator().manual_seed(0)
        features = torch.rand(len(x), 17, 24, generator=generator)
        return features, torch.rand(len(x), 17, 17, generator=generator)


def milan():
    return dict(
        type="MILAN",
        backbone=dict(type="MILANViT", **VIT),
        neck=dict(type="MILANPretrainDecoder", patch_size=16, predict_feature_dim=24, **DECODER),
        head=dict(type="MIMHead", loss=dict(type="CosineSimilarityLoss", shift_factor=2.0)),
        target_generator=Teacher(),
    )


def mff():
    return mae("MFF", "MFFViT", out_indices=[0, 1])


MODEL = dict(mae=mae, mff=mff, itpn=itpn, maskfeat=maskfeat, simmim=simmim, milan=milan)
SIZE = dict(maskfeat=112)
MASK = dict(maskfeat=(14, 14), simmim=(16, 16))


def built(name):
    """A model, images and data samples."""
    torch.manual_seed(0)
    model = MODELS.build(MODEL[name]())
    model.init_weights()
    size = SIZE.get(name, 64)
    samples = [DataSample() for _ in range(3)]
    for sample in samples:
        sample.set_field((torch.rand(MASK.get(name, (4, 4))) < 0.6).long(), "mask")
    return model, torch.randn(3, 3, size, size), samples


@pytest.fixture(params=list(MODEL))
def case(request):
    return built(request.param)


def step(model, images, samples, autocast=False):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = model(images, samples, mode="loss")
    losses["loss"].backward()
    return [losses["loss"], *(p.grad for p in model.parameters() if p.grad is not None)]


def test_a_step(case):
    ours, theirs = both(lambda: step(*case))
    alike(ours, theirs, 1e-4)
    if case[0].with_target_generator and type(case[0].target_generator) is HOGGenerator:
        # Upstream's HOG fails under autocast.
        torch.testing.assert_close(step(*case, autocast=True)[0], theirs[0], rtol=0.02, atol=0)
    else:
        no_worse(*both(lambda: step(*case, autocast=True)), theirs)


def test_a_run_of_steps(case):
    model, images, samples = case
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def run():
        model.load_state_dict(state)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            losses.append(step(model, images, samples)[0].detach())
            optimizer.step()
        return losses

    ours, theirs = both(run)
    alike(ours, theirs, 1e-4)
    assert ours[2] != ours[0]


def test_tracing_goes_through_where_it_did():
    model, images, samples = built("itpn")

    def traced():
        torch._dynamo.reset()
        run = torch.compile(model, backend="eager", fullgraph=True)
        run(images, samples, mode="loss")  # tracing draws numbers too
        torch.manual_seed(0)
        return [run(images, samples, mode="loss")["loss"].detach()]

    alike(*both(traced), 1e-4)
