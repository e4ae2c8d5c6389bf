"""Autograd of ops that form their gradients in the forward.

Such an op returns a scalar loss and, where asked, the gradients of this loss. Backward, they are
multiplied by the gradient that comes in: what the loss was made of may have been overwritten by
then, and nothing is computed again. They are kept in float32 whatever the inputs, so that a loss
scaled for float16 does not lose them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        for at, gradient, (dtype, shape) in zip(
            positions, ctx.saved_tensors, ctx.arguments, strict=True
        ):
            if ctx.needs_input_grad[at]:
                if gradient.shape != shape:
                    raise RuntimeError(f"the gradient of argument {at} was not asked for")
                results[at] = (gradient * grad).to(dtype)
        return tuple(results)

    return {"setup_context": setup_context, "backward": backward}
