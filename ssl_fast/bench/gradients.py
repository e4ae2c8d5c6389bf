"""A loss with its gradients, as training takes it, or its backward alone; and losses in blocks of
rows, for the truth.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._functorch.config
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Loss = Callable[..., Tensor]
# What of an op is timed.
FORWARD, BOTH, BACKWARD = "forward", "both", "backward"
BLOCK = 1024


def with_gradients(
    leaves: Sequence[int], scale: float = 1.0
) -> Callable[[Loss], Callable[..., tuple[Tensor, ...]]]:
    """Makes of a loss what gives the loss and its gradients.

    Args:
        leaves: which inputs get a gradient.
        scale: gradients of all but scalars come times this, so that their values are about 1.
    """

    def complete(loss: Loss) -> Callable[..., tuple[Tensor, ...]]:
        def run(*inputs: Any) -> tuple[Tensor, ...]:
            asking = {i: inputs[i].detach().requires_grad_() for i in leaves}
            value = loss(*(asking.get(i, part) for i, part in enumerate(inputs)))
            incoming = torch.full_like(value, scale)
            gradients = torch.autograd.grad(value, list(asking.values()), incoming)
            return value.detach(), *(g if g.dim() else g / scale for g in gradients)

        return run

    return complete


class Staged:
    """A function in two steps, of which the second alone is timed.

    Args:
        stage: takes the inputs, does the first step, and returns the second, which can be called
            again and again.
    """

    def __init__(self, stage: Callable[..., Callable[[], Any]]) -> None:
        self.stage = stage

    def __call__(self, *inputs: Any) -> Any:
        """Both steps."""
        return self.stage(*inputs)()


def backward_of(
    function: Callable[..., Tensor], leaves: Sequence[int], gradient: Tensor | float, inputs: Any
) -> Callable[[], tuple[Tensor, ...]]:
    """Runs a function; what is returned takes its output's gradient back to the leaves."""
    asking = {i: inputs[i].detach().requires_grad_() for i in leaves}
    # Else torch.compile would let its backward run once only.
    with torch._functorch.config.patch(donated_buffer=False):
        output = function(*(asking.get(i, part) for i, part in enumerate(inputs)))
    incoming = gradient if isinstance(gradient, Tensor) else torch.full_like(output, gradient)
    return functools.partial(
        torch.autograd.grad, output, list(asking.values()), incoming, retain_graph=True
    )


def backward_alone(leaves: Sequence[int], scale: float = 1.0) -> Callable[[Loss], Staged]:
    """As `with_gradients`, but the loss itself is not timed and not among the outputs."""
    return lambda loss: Staged(lambda *inputs: backward_of(loss, leaves, scale, inputs))


# ---- The contrastive losses, whose float64 matrices would not fit, by blocks of rows


def nt_xent(z0: Tensor, z1: Tensor, scale: float) -> Tensor:
    """SimCLR's loss; normalises."""
    z = F.normalize(torch.cat([z0, z1]), dim=1, eps=1e-12)
    own = torch.arange(len(z), device=z.device)
    places = torch.stack([own.roll(-len(z0)), own])
    return _mean_over_rows(_cross_entropies, z, z, places, scale)


def info_nce(query: Tensor, keys: Tensor, scale: float | Tensor) -> Tensor:
    """The loss of queries against keys, key i being query i's."""
    return _mean_over_rows(_cross_entropies, query, keys, _diagonal(query), scale)


def clip_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The mean of both directions."""
    return (info_nce(image, text, scale) + info_nce(text, image, scale)) / 2


def siglip_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The sum over all pairs, divided by the number of images."""
    return _mean_over_rows(_sigmoid_losses, image, text, _diagonal(image), scale, bias)


def _diagonal(rows: Tensor) -> Tensor:
    return torch.arange(len(rows), device=rows.device)[None]


def _mean_over_rows(
    law: Callable[..., Tensor], rows: Tensor, columns: Tensor, places: Tensor, *options: Any
) -> Tensor:
    """Sums of each block, whose logits the backward forms again.

    Args:
        places: [1 or 2, N], of each row its positive's column, and perhaps one to leave out.
    """
    total = rows.new_zeros(())
    for begin in range(0, len(rows), BLOCK):
        one = slice(begin, begin + BLOCK)
        block = (rows[one], columns, places[:, one])
        total = total + checkpoint(law, *block, *options, use_reentrant=False)
    return total / len(rows)


def _cross_entropies(rows: Tensor, columns: Tensor, places: Tensor, scale: Any) -> Tensor:
    logits = scale * (rows @ columns.T)
    targets, *left_out = places
    for own in left_out:
        logits = logits.scatter(1, own[:, None], -torch.inf)
    return F.cross_entropy(logits, targets, reduction="sum")


def _sigmoid_losses(
    rows: Tensor, columns: Tensor, places: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    logits = scale * (rows @ columns.T) + bias
    signs = torch.full_like(logits, -1.0).scatter(1, places[0][:, None], 1.0)
    return -F.logsigmoid(signs * logits).sum()
