"""Names in configs: our classes by scope, mmpretrain's inside ours, and which comes first."""

import subprocess
import sys

import pytest
from torch import nn

from tests.integrations.peers import require

mmpretrain = require("mmpretrain")
from mmengine.registry import MODELS as MMENGINE  # noqa: E402
from mmengine.registry import DefaultScope  # noqa: E402
from mmpretrain.registry import MODELS as THEIRS  # noqa: E402

from ssl_fast import models  # noqa: E402
from ssl_fast.integrations.mmpretrain import registry  # noqa: E402
from ssl_fast.models import MODELS  # noqa: E402

pytestmark = pytest.mark.smoke

NECK = dict(in_channels=512, hid_channels=8, out_channels=8)
LOSS = dict(type="CrossEntropyLoss")


class Supervisor(models.BaseSelfSupervisor):
    """Written for mmpretrain but for its base class."""

    def loss(self, inputs, data_samples):
        return {"loss": self.backbone(inputs)[0].mean()}


def simclr(scope="", **parts):
    return dict(
        type="ssl_fast.SimCLR",
        backbone=dict(type="mmpretrain.ResNet", depth=18),
        neck=dict(type=f"{scope}NonLinearNeck", **NECK),
        head=dict(type="ContrastiveHead"),
        **parts,
    )


def library(module):
    return type(module).__module__.partition(".")[0]


@pytest.mark.parametrize("registry", [MMENGINE, THEIRS, MODELS], ids=["root", "theirs", "ours"])
def test_a_config_names_our_classes_by_scope(registry):
    model = registry.build(simclr())
    assert type(model) is models.SimCLR
    assert library(model.backbone) == "mmpretrain"
    assert type(model.neck) is models.NonLinearNeck
    assert type(model.head) is models.ContrastiveHead
    assert type(model.data_preprocessor) is models.SelfSupDataPreprocessor


def test_inside_of_ours_a_scope_says_what_is_meant():
    model = THEIRS.build(simclr("mmpretrain."))
    assert library(model.neck) == "mmpretrain"
    assert type(THEIRS.build(simclr("ssl_fast.")).neck) is models.NonLinearNeck
    model = THEIRS.build({**simclr(), "backbone": dict(type="timm.resnet10t")})
    assert library(model.backbone) == "timm"
    loss = dict(type="mmpretrain.CrossEntropyLoss", loss_weight=3.0)
    head = MODELS.build(dict(type="MIMHead", loss=loss))
    assert head.loss_module.loss_weight == 3.0


def test_our_components_in_a_model_of_theirs():
    backbone = dict(type="ssl_fast.TimmBackbone", name="resnet10t", out_type="pooled")
    model = THEIRS.build(dict(type="ImageClassifier", backbone=backbone))
    assert type(model.backbone) is models.TimmBackbone


def test_a_subclass_written_for_mmpretrain_gets_its_components():
    config = dict(
        backbone=dict(type="ResNet", depth=18),
        neck=dict(type="NonLinearNeck", **NECK),
        head=dict(type="ContrastiveHead", loss=LOSS),
        data_preprocessor=dict(mean=[1.0, 2, 3], std=[1.0, 2, 3], to_rgb=True),
    )
    model = Supervisor(**config)
    parts = (model.backbone, model.neck, model.head, model.data_preprocessor)
    assert {library(part) for part in parts} == {"mmpretrain"}
    theirs = THEIRS.get("SimCLR")(**config)
    assert list(model.state_dict()) == list(theirs.state_dict())
    # What only we have is found all the same, and by its scope too.
    for scope in ("", "ssl_fast."):
        backbone = dict(type=f"{scope}TimmBackbone", name="resnet10t")
        assert type(Supervisor(backbone=backbone).backbone) is models.TimmBackbone
    ours = Supervisor(**{**config, "neck": dict(type="ssl_fast.NonLinearNeck", **NECK)})
    assert type(ours.neck) is models.NonLinearNeck


def test_a_subclass_of_one_of_our_methods_gets_ours():
    class Mine(models.SimCLR):
        pass

    config = {key: value for key, value in simclr().items() if key != "type"}
    assert type(Mine(**config).neck) is models.NonLinearNeck


def test_either_registry_takes_such_a_subclass():
    config = dict(backbone=dict(type="ResNet", depth=18))
    for where, name in ((THEIRS, "Theirs"), (MMENGINE, "Root"), (registry.MODELS, "Scoped")):
        where.register_module(name=f"{name}Supervisor", module=Supervisor)
    assert type(THEIRS.build(dict(type="TheirsSupervisor", **config))) is Supervisor
    assert type(THEIRS.build(dict(type="RootSupervisor", **config))) is Supervisor
    assert type(THEIRS.build(dict(type="ssl_fast.ScopedSupervisor", **config))) is Supervisor
    assert "ScopedSupervisor" in MODELS  # one table
    for where, name in ((THEIRS, "Theirs"), (MMENGINE, "Root"), (registry.MODELS, "Scoped")):
        where.module_dict.pop(f"{name}Supervisor")


def test_what_is_registered_with_ours_later_is_in_the_scope():
    MODELS.register(nn.Identity, name="LateIdentity")
    try:
        assert isinstance(THEIRS.build(dict(type="ssl_fast.LateIdentity")), nn.Identity)
    finally:
        del MODELS._classes["LateIdentity"]


def test_plain_names_follow_the_default_scope():
    neck = dict(type="LabelSmoothLoss", label_smooth_val=0.1)  # only mmpretrain has it
    assert library(MODELS.build(neck)) == "mmpretrain"
    with DefaultScope.overwrite_default_scope("mmengine"):
        with pytest.raises(ValueError, match="'LabelSmoothLoss' is not registered"):
            MODELS.build(neck)
        assert library(MODELS.build({**neck, "type": "mmpretrain.LabelSmoothLoss"})) == "mmpretrain"


@pytest.mark.parametrize("name", ["NoSuchNeck", "mmpretrain.NoSuchNeck", "no_scope.NoSuchNeck"])
def test_unknown_names_are_our_error(name):
    with pytest.raises(ValueError, match=f"{name!r} is not registered"):
        MODELS.build(dict(type=name))
    with pytest.raises(ValueError, match="'NoSuchNeck' is not registered"):
        MODELS.build(dict(type="ssl_fast.NoSuchNeck"))


def test_our_base_class_alone_finds_their_components():
    script = """
import mmpretrain
from mmpretrain.registry import MODELS
from ssl_fast.models import BaseSelfSupervisor
@MODELS.register_module()
class Mine(BaseSelfSupervisor):
    def loss(self, inputs, data_samples): ...
print(MODELS.build(dict(type="Mine", backbone=dict(type="ResNet", depth=18))).backbone.depth)
"""
    shim = "from ssl_fast._compat import import_torchvision; import_torchvision()\n"
    command = [sys.executable, "-W", "ignore", "-c", shim + script]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "18", done.stderr
