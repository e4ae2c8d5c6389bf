from .sinkhorn import sinkhorn

__all__ = ["sinkhorn"]
