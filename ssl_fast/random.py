"""Random numbers as functions of (seed, sample id): the same on every device and in every process.

All samplers draw from Philox4x32-10 with the counter (sample id, draw, stream) and the key seed;
csrc/common/philox.h states the layout. Nothing depends on the batch a sample is in.
"""

from __future__ import annotations

import enum
import operator
from typing import Any

import torch
from torch import Tensor

WORD = 0xFFFFFFFF


class Stream(enum.IntEnum):
    """What a counter is for: one number for each kind of draw, never used twice."""

    DERIVE_SEED = 0
    BLOCK_MASK = 1
    RANDOM_MASK = 2
    IBOT_MASK = 3
    CUBE_MASK = 4
    MULTIBLOCK_MASK = 5
    MULTIBLOCK_SIZES = 6


def philox(counter: tuple[Any, ...], key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Philox4x32-10: four random words of 32 bits.

    Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).

    Args:
        counter: four words, key: two, each an int or an int64 tensor, in 0 .. 2^32 - 1.

    Returns:
        Four words, tensors where the arguments are.
    """
    a, b, c, d = counter
    low, high = key
    for _ in range(10):
        left_high, left_low = _multiply(0xD2511F53, a)
        right_high, right_low = _multiply(0xCD9E8D57, c)
        a, b, c, d = right_high ^ b ^ low, right_low, left_high ^ d ^ high, left_low
        low = (low + 0x9E3779B9) & WORD
        high = (high + 0xBB67AE85) & WORD
    return a, b, c, d


def _multiply(constant: int, word: Any) -> tuple[Any, Any]:
    """High and low word of a product; in two halves, as an int64 tensor has no 64 bits for it."""
    lower = constant * (word & 0xFFFF)
    upper = constant * (word >> 16) + (lower >> 16)
    return upper >> 16, (upper & 0xFFFF) << 16 | lower & 0xFFFF


def words_of(value: Any) -> tuple[Any, Any]:
    """Low and high word of 64 bits: an int or an int64 tensor, of either sign."""
    return value & WORD, value >> 32 & WORD


def derive_seed(seed: int, *keys: int) -> int:
    """A seed for a part of a run: for a step, say, or for (epoch, sample).

    Equal arguments give equal seeds on every platform and in every version of Python; others give
    unrelated ones. The order and the number of keys count.

    Args:
        seed: of the run; any integer of 64 bits, signed or not.
        keys: what the part is known by; likewise.

    Returns:
        An int in 0 .. 2^63 - 1.

    Raises:
        TypeError: if an argument is no integer.
        ValueError: if one does not fit 64 bits.
    """
    state = check_seed(seed)
    for position, key in enumerate((len(keys), *keys)):
        counter = (*words_of(check_seed(key, "key")), position, Stream.DERIVE_SEED)
        low, high, *_ = philox(counter, words_of(state))
        state = high << 32 | low
    return state & (2**63 - 1)


def multiblock_words(seed: int) -> tuple[int, ...]:
    """Three random words that make the sizes of I-JEPA's blocks: of the seed, not of a sample."""
    return philox((0, 0, 0, Stream.MULTIBLOCK_SIZES), words_of(seed))[:3]


def check_seed(seed: Any, name: str = "seed") -> int:
    """`seed` as an int of 64 bits, signed or not.

    Raises:
        TypeError: if it is no integer.
        ValueError: if it does not fit 64 bits.
    """
    try:
        value = operator.index(seed)
    except TypeError:
        raise TypeError(f"{name} is {seed!r} ({type(seed).__name__}); expected an int") from None
    if not -(2**63) <= value < 2**64:
        raise ValueError(f"{name} is {value}; expected an integer of 64 bits")
    return value


def signed_seed(seed: Any) -> int:
    """The int64 with the bits of `seed`; raises as `check_seed` does."""
    value = check_seed(seed)
    return value - 2**64 if value >= 2**63 else value


def seed_tensor(seed: int | Tensor | None, device: torch.device) -> Tensor:
    """The seed as the ops take it: [1] int64 on `device`, made without waiting for the device.

    Args:
        seed: an int; or one int64 on `device`, handed through; or None: drawn from torch's default
            generator of the device, so that `torch.manual_seed` rules.

    Raises:
        TypeError, ValueError: for another type, size, range or device.
    """
    if seed is None:
        return torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=device)
    if not isinstance(seed, Tensor):
        return torch.full((1,), signed_seed(seed), dtype=torch.int64, device=device)
    if seed.dtype != torch.int64 or seed.numel() != 1:
        raise TypeError(f"seed is {seed.dtype} of shape {tuple(seed.shape)}; expected one int64")
    _check_device("seed", seed, device)
    return seed.reshape(1)


def sample_id_tensor(sample_ids: Tensor | None, num_samples: int, device: torch.device) -> Tensor:
    """The sample ids as the ops take them: [N] int64 on `device`; None is 0 .. N - 1.

    Raises:
        TypeError, ValueError: for another type, shape or device.
    """
    if sample_ids is None:
        return torch.arange(num_samples, device=device)
    if not isinstance(sample_ids, Tensor) or sample_ids.dtype != torch.int64:
        got = sample_ids.dtype if isinstance(sample_ids, Tensor) else type(sample_ids).__name__
        raise TypeError(f"sample_ids is {got}; expected an int64 tensor [N]")
    if tuple(sample_ids.shape) != (num_samples,):
        shape = tuple(sample_ids.shape)
        raise ValueError(f"sample_ids has shape {shape}; expected ({num_samples},), one an image")
    _check_device("sample_ids", sample_ids, device)
    return sample_ids


def optional_sample_ids(
    sample_ids: Tensor | None, num_samples: int, device: torch.device
) -> Tensor | None:
    """The same for an op that knows by itself what None is: a launch less."""
    return None if sample_ids is None else sample_id_tensor(sample_ids, num_samples, device)


def device_of(device: torch.device | str | None, *tensors: Any) -> torch.device:
    """Where to draw: `device`, else that of the first tensor, else torch's default device."""
    found = next((tensor.device for tensor in tensors if isinstance(tensor, Tensor)), None)
    if device is None and found is not None:
        return found
    # Asked of a tensor: "cuda" alone means the current one, None the default, as all over torch.
    return torch.empty(0, device=device).device


def _check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}; expected {device}")
