from .barlow_twins import barlow_twins_loss

__all__ = ["barlow_twins_loss"]
