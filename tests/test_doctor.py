"""The doctor: what it finds, what it advises, and that nothing that is missing stops it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import ssl_fast
from ssl_fast import doctor
from ssl_fast._dispatch import OPS, native

PACKAGE = Path(ssl_fast.__file__).parent
EXTRAS = (
    "timm lightning torchvision triton matplotlib jsonargparse rich sklearn skimage tensorboard "
    "safetensors mmpretrain mmengine mmcv lightly open_clip kornia cv2 PIL pybind11"
)
# What a fresh process says of itself, as one line of JSON.
SCRIPT = f"""
import io, json, sys
from contextlib import redirect_stdout
# An editable install of the package would lend its compiled parts.
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import torch
before = set(sys.modules)
import ssl_fast
extras = [name for name in {EXTRAS!r}.split() if name in set(sys.modules) - before]
context = torch.cuda.is_initialized()
images = torch.arange(2 * 3 * 16 * 24).remainder(251).to(torch.uint8).view(2, 3, 16, 24)
features = ssl_fast.ops.hog(images)
owner = ssl_fast.explain("hog", images).owner
from ssl_fast import cli
text = io.StringIO()
with redirect_stdout(text):
    code = cli.main(["doctor"])
print(json.dumps(dict(extras=extras, context=context, features=features.tolist(), owner=owner,
                      text=text.getvalue(), code=code)))
"""


def fresh_process(root):
    """Runs SCRIPT with the package that lies in `root`."""
    env = {name: value for name, value in os.environ.items() if name not in doctor.VARIABLES}
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    env |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The package as it is where nothing was compiled: its Python files alone."""
    root = tmp_path_factory.mktemp("bare")
    unwanted = shutil.ignore_patterns("*.so", "*.pyd", "*.dylib", "__pycache__")
    shutil.copytree(PACKAGE, root / "ssl_fast", ignore=unwanted)
    return fresh_process(root)


def test_import_takes_no_extra_and_no_context():
    fresh = fresh_process(PACKAGE.parent)
    assert fresh["extras"] == []
    assert fresh["context"] is False
    assert fresh["code"] == 0


def test_works_where_nothing_was_compiled(bare):
    assert bare["extras"] == []
    assert bare["owner"] == "reference"
    images = torch.arange(2 * 3 * 16 * 24).remainder(251).to(torch.uint8).view(2, 3, 16, 24)
    with ssl_fast.backend("reference"):
        assert torch.equal(torch.tensor(bare["features"]), ssl_fast.ops.hog(images))


def test_says_how_to_get_the_kernels(bare):
    assert bare["code"] == 0
    said = bare["text"].split("\nadvice\n")
    assert re.search(r"cpu: reference for .*\bhog\b", said[0])
    assert "_host was not built" in said[0]
    if sys.platform != "win32":
        assert "pip install --no-build-isolation ssl_fast" in said[1]
    assert doctor.IN_PLACE not in said[1]


def test_report_has_all_sections_and_is_json():
    found = json.loads(json.dumps(doctor.report()))
    expected = ["versions", "machine", "gpus", "build", "environment", "owners", "advice"]
    assert list(found) == expected
    assert not any("error" in section for section in found.values())
    assert found["versions"]["ssl_fast"] == ssl_fast.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["machine"]["instruction_set"] == native.instruction_set()
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert list(found["owners"]) == (["cpu", "cuda"] if torch.version.cuda else ["cpu"])
    for device, ops in found["owners"].items():
        assert list(ops) == sorted(OPS)
        assert all(ops[op]["owner"] == ssl_fast.explain(op, device=device).owner for op in ops)


def test_missing_library(monkeypatch, tmp_path):
    missing = native.NativeLibrary(tmp_path / "_ops.so")
    monkeypatch.setattr(native, "ops", lambda: missing)
    monkeypatch.setattr(native, "cuda_reason", lambda: missing.reason)
    found = doctor.report()
    assert found["machine"]["instruction_set"] is None
    assert found["build"]["kernels"] == missing.reason
    assert "none: nothing compiled" in doctor.render(found)
    assert found["advice"][0].startswith("compiled kernels are missing")


def test_missing_and_broken_modules(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert doctor.report()["versions"]["triton"] is None
    assert "numpy is not installed: `pip install numpy`" in doctor.report()["advice"]
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace())
    assert any(line.startswith("triton does not import") for line in doctor.report()["advice"])


def test_a_section_that_fails_is_reported(monkeypatch):
    def broken():
        raise OSError("the floor is wet")

    for name in ("_versions", "_machine", "_gpus", "_build", "_owners"):
        monkeypatch.setattr(doctor, name, broken)
    found = doctor.report()
    assert found["versions"] == {"error": "OSError: the floor is wet"}
    assert "gpus could not be found out: OSError: the floor is wet" in found["advice"]
    assert doctor.render(found).count("the floor is wet") == 10


def test_gpus_are_listed(monkeypatch):
    gpu = SimpleNamespace(name="H200", major=9, minor=0, total_memory=150_000_000_000)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    monkeypatch.setattr(doctor, "_driver_cuda", lambda: "12.4")
    monkeypatch.setattr(native, "cuda_reason", lambda: "the driver supports CUDA 12.4 at most")
    found = doctor.report()
    assert found["gpus"]["devices"] == [
        {"name": "H200", "compute_capability": "9.0", "memory_gib": 139.7}
    ]
    text = doctor.render(found)
    assert "0: H200, compute capability 9.0, 139.7 GiB" in text
    assert "compiled cannot: the driver supports CUDA 12.4 at most" in text
    if not native.ops().reason:
        expected = "compiled CUDA kernels cannot run: the driver supports CUDA 12.4 at most"
        assert expected in found["advice"]


@pytest.fixture
def healthy():
    """A report in which nothing is missing."""
    gpu = {"name": "H200", "compute_capability": "9.0", "memory_gib": 139.7}
    serves = {"owner": "compiled", "forced": False, "cannot": {"triton": "not here"}}
    return {
        "versions": {"torch": "2.13.0", "torch_cuda": "13.0", "triton": "3.9", "numpy": "2.4"},
        "machine": {},
        "gpus": {"driver_cuda": "13.0", "devices": [gpu], "warnings": []},
        "build": {"kernels": "", "cuda_kernels": ""},
        "environment": dict.fromkeys(doctor.VARIABLES),
        "owners": {"cpu": {"hog": serves}},
    }


def test_nothing_to_advise(healthy):
    assert list(doctor.advice(healthy)) == []
    healthy["gpus"].update(devices=[])
    healthy["gpus"]["driver_cuda"] = None  # a torch with CUDA on a machine without a GPU
    healthy["build"]["cuda_kernels"] = "there is no NVIDIA driver"
    assert list(doctor.advice(healthy)) == []
    assert doctor.render({**healthy, "advice": []}).endswith(f"advice\n  {doctor.IN_PLACE}")


@pytest.mark.parametrize(
    ("section", "change", "expected"),
    [
        ("build", {"cuda_kernels": "no nvcc"}, "compiled CUDA kernels cannot run: no nvcc"),
        ("versions", {"numpy": None}, "numpy is not installed: `pip install numpy`"),
        ("versions", {"torch_cuda": None}, ""),
        (
            "gpus",
            {"devices": []},
            "torch sees no GPU, though there is an NVIDIA driver for CUDA 13",
        ),
        ("gpus", {"devices": [], "warnings": ["too old"]}, "torch sees no GPU.*(too old)"),
        ("environment", {"TRITON_INTERPRET": "1"}, "TRITON_INTERPRET=1 is for tests"),
        (
            "owners",
            {"cpu": {"hog": {"owner": "triton", "forced": True, "cannot": {"triton": "gone"}}}},
            "triton is forced and cannot serve hog on cpu: gone",
        ),
    ],
)
def test_advice(healthy, section, change, expected):
    healthy[section].update(change)
    lines = list(doctor.advice(healthy))
    if not expected:
        assert lines == []
        return
    assert len(lines) == 1
    assert all(part in lines[0] for part in expected.split(".*"))


def test_advice_for_a_cpu_torch_beside_a_driver(healthy):
    healthy["versions"]["torch_cuda"] = None
    healthy["gpus"]["devices"] = []
    (line,) = doctor.advice(healthy)
    assert "CPU build" in line
    assert "CUDA 13.0" in line


def test_ops_with_the_same_owner_share_a_line(healthy):
    serves = healthy["owners"]["cpu"]["hog"]
    other = {"owner": "reference", "forced": True, "cannot": {}}
    healthy["owners"] = {"cpu": {"hog": serves, "hog_tokens": dict(serves), "new": other}}
    text = doctor.render({**healthy, "advice": []})
    assert "cpu: compiled for hog, hog_tokens\n      triton cannot: not here\n" in text
    assert "cpu: reference (forced) for new\n" in text


def test_main_prints_text_or_json(capsys):
    assert doctor.main([]) == 0
    assert capsys.readouterr().out.startswith("versions\n  ssl_fast ")
    assert doctor.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["versions"]["ssl_fast"] == ssl_fast.__version__
