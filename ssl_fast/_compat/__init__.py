"""Ways around faults of other libraries, applied when ssl_fast first needs them."""

from .torchvision import import_timm, import_torchvision

__all__ = ["import_timm", "import_torchvision"]
