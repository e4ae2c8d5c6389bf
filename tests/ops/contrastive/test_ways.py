"""Both of the GPU's ways through the similarities, in parts as small as they get."""

from __future__ import annotations

import pytest
import torch

import ssl_fast
from ssl_fast._dispatch import OPS
from ssl_fast._testing import checks
from ssl_fast._testing.samples import SAMPLES

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("Triton has a GPU here", allow_module_level=True)

from ssl_fast.ops.contrastive import triton_fused, triton_kernels, triton_panels

NAMES = (
    "nt_xent",
    "info_nce",
    "info_nce_queue",
    "clip_loss",
    "siglip_loss",
    "similarity_logsumexp",
    "similarity_gradients",
)
CALLS = [
    pytest.param(op, sample, id=f"{op}-{sample.name}")
    for op in NAMES
    for sample in SAMPLES[op].make(torch.float32)
    if sample.name in ("odd", "cold", "share", "clip", "nt_xent", "more keys", "empty queue")
]


@pytest.mark.parametrize("way", triton_kernels.WAYS)
@pytest.mark.parametrize(("op", "sample"), CALLS)
def test_in_small_parts(op, sample, way, monkeypatch):
    """Panels of 32 rows; columns divided among programs."""
    monkeypatch.setattr(triton_panels, "WORKSPACE", 1)
    monkeypatch.setattr(triton_panels, "OF_COLUMNS", 0)
    monkeypatch.setattr(triton_fused, "_splits", lambda tiles, most, places: most)
    with triton_kernels.way(way), ssl_fast.backend("triton"):
        checks.check_against_truth(OPS[op], sample)


def test_ways_agree_on_what_they_take():
    z = torch.zeros(4, 300)
    pairs = triton_kernels.Pairs(z, z, torch.arange(4), torch.ones(()))
    assert not triton_fused.takes(pairs)  # too long: panels, whatever is wanted
    with triton_kernels.way("fused"):
        assert isinstance(triton_kernels._make(pairs, 2), triton_panels.PanelWay)


def test_unknown_way():
    with pytest.raises(ValueError, match="accepted are panels, fused"), triton_kernels.way("tiles"):
        pass


@pytest.mark.parametrize(
    ("rows", "columns", "size", "times", "fused"),
    [
        (1024, 1024, 128, 2, True),  # NT-Xent
        (1024, 1024, 128, 4, False),  # CLIP
        (4096, 4096, 128, 4, True),
        (1024, 1024, 256, 2, False),  # long products
        (64, 65536, 128, 2, False),  # few rows
        (256, 65536, 64, 2, True),
    ],
)
def test_which_way_serves(rows, columns, size, times, fused):
    pairs = triton_kernels.Pairs(
        torch.zeros(rows, size), torch.zeros(columns, size), None, torch.ones(())
    )
    chosen = triton_kernels._make(pairs, times)
    assert isinstance(chosen, triton_fused.FusedWay if fused else triton_panels.PanelWay)
    assert isinstance(triton_kernels._make_panels(pairs), triton_panels.PanelWay)
