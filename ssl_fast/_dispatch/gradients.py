"""Autograd of ops that form their gradients in the forward.

Such an op returns a scalar loss and, where asked, the gradients of this loss. Backward, they are
multiplied by the gradient that comes in: what the loss was made of may have been overwritten by
then, and nothing is computed again. They are kept in float32 whatever the inputs, so that a loss
scaled for float16 does not lose them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def formed_in_forward(positions: Sequence[int]) -> dict[str, Any]:
    """The autograd formula, as keyword arguments of `register`.

    Args:
        positions: for each gradient that the op returns behind its loss, which argument it is of.
            A gradient that was not asked for has no elements.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        gradients = output[1:]
        ctx.mark_non_differentiable(*gradients)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*gradients)
        ctx.arguments = [(inputs[at].dtype, inputs[at].shape) for at in positions]
        ctx.number = len(inputs)

    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        results: list[Tensor | None] = [None] * ctx.number
        if grad is None:
            return tuple(results)
        asked = [i for i, at in enumerate(positions) if ctx.needs_input_grad[at]]
        for i in asked:
            if ctx.saved_tensors[i].shape != ctx.arguments[i][1]:
                raise RuntimeError(f"the gradient of argument {positions[i]} was not asked for")
        # In one launch: of a small loss each launch is a good part of its time.
        scaled = torch._foreach_mul([ctx.saved_tensors[i] for i in asked], grad) if asked else ()
        for i, gradient in zip(asked, scaled, strict=True):
            results[positions[i]] = gradient.to(ctx.arguments[i][0])
        return tuple(results)

    return {"setup_context": setup_context, "backward": backward}
