"""What the integrations say and do where their library is missing."""

import sys

import pytest
import torch

from ssl_fast.integrations import lightly, open_clip


@pytest.mark.parametrize(
    ("integration", "name", "install"),
    [(lightly, "lightly", "pip install lightly"), (open_clip, "open_clip", "open_clip_torch")],
)
def test_enable_names_what_to_install(monkeypatch, integration, name, install):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"{name} is not installed; install it with .*{install}"):
        integration.enable()


def test_bank_is_no_part_of_the_state():
    loss = lightly.NTXentLoss(memory_bank_size=(8, 4))
    assert not loss.state_dict()
    assert loss.memory_bank.bank.shape == (8, 4)


def test_shapes_of_masks_and_losses():
    keep, masked = lightly.random_token_mask((3, 17), 0.75)
    assert keep.shape == (3, 5)
    assert masked.shape == (3, 12)
    assert not keep[:, 0].any()
    scores = [torch.randn(4, 6, requires_grad=True) for _ in range(3)]
    assert lightly.SwaVLoss()(scores[:2], scores[2:]).shape == (1,)
