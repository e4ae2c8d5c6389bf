from __future__ import annotations

import torch
from torch import Tensor, nn


class MemoryBank(nn.Module):
    bank: Tensor
    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("bank", nn.functional.normalize(torch.randn(size, dim), dim=1))
        self.pointer = 0
    @torch.no_grad()
    def update(self, keys: Tensor) -> None:
        ids = (torch.arange(len(keys)) + self.pointer) % len(self.bank)
        self.bank[ids] = keys.to(self.bank.dtype)
        self.pointer = int((self.pointer + len(keys)) % len(self.bank))
    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.pointer)
    def set_extra_state(self, s: Tensor) -> None:
        self.pointer = int(s)
