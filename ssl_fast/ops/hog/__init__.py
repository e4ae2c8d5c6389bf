from .hog import hog, hog_tokens

__all__ = ["hog", "hog_tokens"]
