"""Fixtures of the integration's tests."""

import pytest


@pytest.fixture
def few_elements_too(monkeypatch):
    """Our ops serve tensors that are too small for a gain."""
    from ssl_fast.integrations.mmpretrain import serving

    monkeypatch.setattr(serving, "FEW", 0)
