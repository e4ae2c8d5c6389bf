"""Pretraining runs. Everything in here needs the extra `train`: `pip install "ssl_fast[train]"`."""

from .._compat import import_torchvision

# Lightning imports torchvision, which needs help beside a torch without CUDA.
import_torchvision()
