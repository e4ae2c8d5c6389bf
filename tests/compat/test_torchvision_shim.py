"""torchvision and timm beside any torch, each case in a process of its own."""

import importlib.util
import subprocess
import sys

import pytest

needs_torchvision = pytest.mark.skipif(
    not importlib.util.find_spec("torchvision"), reason="needs torchvision"
)
needs_timm = pytest.mark.skipif(not importlib.util.find_spec("timm"), reason="needs timm")

# A torchvision that fails as the build for CUDA does beside a torch for the CPU.
FAKE = """
import torch
from . import half
torch.library.register_fake("torchvision::nms")(lambda *a: None)
torch.library.register_fake("torchvision::qnms")(lambda *a: None)
half.done = True
"""


def run(script, path=None):
    command = [sys.executable, "-c", f"import sys\nsys.path[:0] = {[str(path)] if path else []}\n"]
    command[-1] += script
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def fake(tmp_path, content, name="torchvision"):
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text(content)
    (package / "half.py").write_text("done = False\n")
    return tmp_path


def test_missing_schemas_are_declared_and_the_import_repeated(tmp_path):
    script = """
from ssl_fast._compat import import_torchvision
assert "torchvision" not in sys.modules
module = import_torchvision()
assert module is sys.modules["torchvision"] is import_torchvision()
assert module.half.done and module.half is sys.modules["torchvision.half"]
import torch
print(torch.ops.torchvision.nms.default._schema)
"""
    out = " ".join(run(script, fake(tmp_path, FAKE)))
    assert out == "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def test_other_failures_pass(tmp_path):
    script = """
from pathlib import Path
from ssl_fast._compat import import_torchvision
sys.dont_write_bytecode = True
for content in ("import no_such_module", "raise ImportError('libfoo')", "raise RuntimeError('x')"):
    Path(sys.path[0], "torchvision", "__init__.py").write_text(content)
    try:
        import_torchvision()
    except (ImportError, RuntimeError) as error:
        print(type(error).__name__, error)
"""
    result = " ".join(run(script, fake(tmp_path, "")))
    install = 'install it with pip install "ssl_fast[train]"'
    assert result == (
        f"ImportError torchvision cannot be imported (No module named 'no_such_module'); {install} "
        f"ImportError torchvision cannot be imported (libfoo); {install} "
        f"RuntimeError x"
    )


def test_what_is_not_installed_is_said():
    script = """
sys.modules["torchvision"] = None
from ssl_fast._compat import import_timm
try:
    import_timm()
except ImportError as error:
    print(error)
"""
    expected = 'torchvision is not installed; install it with pip install "ssl_fast[train]"'
    assert " ".join(run(script)) == expected


@needs_torchvision
def test_the_real_torchvision():
    script = """
from ssl_fast._compat import import_torchvision
torchvision = import_torchvision()
import torch
from torchvision.transforms import v2
print(tuple(v2.RandomResizedCrop(8)(torch.zeros(3, 16, 16, dtype=torch.uint8)).shape))
"""
    assert " ".join(run(script)) == "(3, 8, 8)"


@needs_timm
def test_the_real_timm_also_after_a_failed_import():
    script = """
try:
    import timm
except RuntimeError:
    pass
from ssl_fast._compat import import_timm
import torch
model = import_timm().create_model("resnet10t", num_classes=0).eval()
print(tuple(model(torch.zeros(1, 3, 32, 32)).shape))
"""
    assert " ".join(run(script)) == "(1, 512)"


def test_importing_the_models_imports_no_extra():
    script = """
import ssl_fast.models
extras = {"timm", "torchvision", "lightning", "jsonargparse", "rich", "sklearn", "matplotlib"}
extras |= {"mmengine", "mmpretrain", "safetensors", "tensorboard"}
print(sorted(extras & set(sys.modules)))
"""
    assert run(script) == ["[]"]
