"""Every registered op through every backend, dtype and sample, on a GPU.

A file of its own: a machine with a GPU collects these alone, in a few seconds.
"""

from __future__ import annotations

import pytest
import torch

from ssl_fast._dispatch import OPS
from ssl_fast._testing import checks
from ssl_fast._testing.samples import SAMPLES, Sample
from tests.ops.test_every_op import CALLS, GRADIENT_CALLS, serving

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", ["reference", "compiled", "triton"])
@pytest.mark.parametrize(("op", "dtype", "sample"), CALLS)
def test_truth_on_gpu(op: str, dtype: torch.dtype, sample: Sample, name: str) -> None:
    with serving(name, op, "cuda"):
        checks.check_against_truth(OPS[op], sample.to("cuda"))


@pytest.mark.parametrize("name", ["reference", "compiled", "triton"])
@pytest.mark.parametrize(("op", "dtype", "sample"), GRADIENT_CALLS)
def test_true_gradients_on_gpu(op: str, dtype: torch.dtype, sample: Sample, name: str) -> None:
    with serving(name, op, "cuda"):
        checks.check_gradients_against_truth(OPS[op], sample.to("cuda"))


@pytest.mark.parametrize("name", ["compiled", "triton"])
@pytest.mark.parametrize("op", OPS)
def test_cuda_graph(op: str, name: str) -> None:
    """Nothing in the op synchronises or allocates outside the graph's pool."""
    samples = SAMPLES[op]
    sample = next(samples.make(samples.dtypes[0])).to("cuda")
    with serving(name, op, "cuda"):
        expected = checks.outputs_of(OPS[op].overload(*sample.args))  # warm up: tables, compilation
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = checks.outputs_of(OPS[op].overload(*sample.args))
        graph.replay()
        torch.cuda.synchronize()
        for result, eager in zip(results, expected, strict=True):
            assert torch.equal(result.nan_to_num(), eager.nan_to_num())
