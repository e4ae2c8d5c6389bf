from __future__ import annotations

import pytest
import torch

from ssl_fast import nn, ops
from ssl_fast._testing.samples.cross_correlation import views


def test_loss():
    z_a, z_b = views(torch.float32, 6, 20)
    loss = nn.BarlowTwinsLoss(lambda_param=0.01)(z_a.requires_grad_(), z_b)
    assert torch.equal(loss, ops.barlow_twins_loss(z_a, z_b, 0.01))
    assert nn.BarlowTwinsLoss().lambda_param == 5e-3
    assert "lambda_param=0.005" in str(nn.BarlowTwinsLoss())
    # One process: there is nothing to gather.
    gathered = nn.BarlowTwinsLoss(0.01, gather_distributed=True)(z_a, z_b)
    assert torch.equal(loss, gathered)


def test_bad_weights():
    with pytest.raises(ValueError, match="lambda_param is -1"):
        nn.BarlowTwinsLoss(-1)
    with pytest.raises(TypeError, match="lambda_param is None"):
        nn.BarlowTwinsLoss(None)
