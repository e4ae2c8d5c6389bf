"""The contrastive losses, forward and with all gradients."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ..._dispatch import OPS, backends
from ..case import Case, Check, Inputs, Provider, Skipped
from ..providers import standard, under_torch_compile

Loss = Callable[..., Tensor]
TEMPERATURE, BIAS = 0.1, -10.0
PANEL = 1024  # columns of similarities at a time


@dataclass(frozen=True)
class Task:
    """A loss on features of a size.

    Attributes:
        op: which loss.
        rows: of the queries, the images, or one view.
        columns: of the keys or the queue; elsewhere as many as rows.
        dim: of the features.
        dtype: that the features come in.
    """

    op: str
    rows: int
    columns: int
    dim: int
    dtype: torch.dtype

    def inputs(self, device: str, seed: int) -> Inputs:
        """What the loss takes but for numbers: each positive pair has a part in common."""
        generator = torch.Generator(device).manual_seed(seed)

        def normal(rows: int) -> Tensor:
            return torch.randn((rows, self.dim), device=device, generator=generator)

        first = normal(self.rows)
        second = normal(self.rows) + first
        if self.op != "nt_xent":  # which normalises itself
            first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
        features = [x.to(self.dtype) for x in (first, second)]
        if self.op == "info_nce_queue":
            # As mmpretrain keeps it: [D, K].
            queue = F.normalize(normal(self.columns), dim=1).to(self.dtype)
            features.append(queue.t().contiguous().t())
        if self.op in ("clip_loss", "siglip_loss"):
            features.append(torch.tensor(1 / TEMPERATURE, device=device))
        if self.op == "siglip_loss":
            features.append(torch.tensor(BIAS, device=device))
        return tuple(features)

    @property
    def leaves(self) -> tuple[int, ...]:
        """Which of the inputs get gradients. MoCo v3's keys are a momentum encoder's."""
        others = {"clip_loss": (0, 1, 2), "siglip_loss": (0, 1, 2, 3), "info_nce": (0,)}
        return others.get(self.op, (0, 1))

    @property
    def moved_bytes(self) -> int:
        """Features read once; their gradients, of the same type, written once."""
        queue = self.columns if self.op == "info_nce_queue" else 0
        return (4 * self.rows + queue) * self.dim * self.dtype.itemsize


def cases(device: str, small: bool) -> Iterator[Case]:
    """The shapes of SimCLR, MoCo, MoCo v3 and CLIP; small batches, and bfloat16."""
    task = functools.partial(Task, dtype=torch.float32)
    if small:
        tasks = [task(op, 16, 48 if op == "info_nce_queue" else 16, 12) for op in LAWS]
    else:
        tasks = [
            task("nt_xent", 4096, 4096, 128),
            task("nt_xent", 256, 256, 128),
            task("nt_xent", 32, 32, 128),
            task("info_nce_queue", 256, 65536, 128),
            task("info_nce", 4096, 4096, 256),
            task("clip_loss", 8192, 8192, 512),
            task("clip_loss", 64, 64, 512),
            task("siglip_loss", 4096, 4096, 512),
        ]
        narrow = functools.partial(Task, dtype=torch.bfloat16)
        tasks += [narrow("nt_xent", 4096, 4096, 128), narrow("clip_loss", 8192, 8192, 512)]
        if device == "cuda":
            tasks += [narrow("nt_xent", 8192, 8192, 512), task("nt_xent", 8192, 8192, 512)]
    for one in tasks:
        yield _case(one)
    if not small:
        yield from (_products(one) for one in tasks if one.rows * one.columns >= 1 << 24)


def _case(task: Task) -> Case:
    def public(*inputs: Tensor) -> Tensor:
        loss: Tensor = PUBLIC[task.op](*inputs)
        return loss

    reference = REFERENCES[task.op]
    name, law = LAWS[task.op]
    narrow = task.dtype != torch.float32
    own = standard(task.op, public, reference, functools.partial(_complete, task))
    upstream = Provider(name, lambda device: law)
    return Case(
        op=task.op,
        name=f"{task.rows}x{task.columns}, D {task.dim}, with gradient",
        dtype=_name(task.dtype),
        reference=_complete(task, reference),
        checks=(Check("pairs", task.inputs, atol=0.1 if narrow else 1e-4),),
        moved_bytes=task.moved_bytes,
        providers=(
            *own,
            *(_by_way(task, public, way) for way in ("panels", "fused")),
            _with_gradients(task, upstream),
            _with_gradients(task, under_torch_compile(upstream)),
        ),
    )


def _by_way(task: Task, public: Loss, name: str) -> Provider:
    """Our Triton kernels by one of their two ways, whichever would be chosen."""

    def prepare(device: str) -> Callable[..., Any]:
        if device != "cuda":
            raise Skipped("timed on cuda only")
        if reason := backends.reason(OPS[task.op], "triton", device):
            raise Skipped(reason)
        kernels = importlib.import_module("ssl_fast.ops.contrastive.triton_kernels")

        def by_way(*inputs: Tensor) -> Tensor:
            with kernels.way(name):
                return public(*inputs)

        return _complete(task, by_way)

    return Provider(f"triton {name}", prepare, backend="triton", packages=("triton",))


def _with_gradients(task: Task, provider: Provider) -> Provider:
    """Compiled is the loss alone: autograd runs through it, as in training."""
    return Provider(provider.name, lambda device: _complete(task, provider.prepare(device)))


def _complete(task: Task, loss: Loss) -> Callable[..., Any]:
    """The loss and its gradients, those of features times the rows: of the size of a feature."""

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        leaves = [inputs[i].detach().requires_grad_() for i in task.leaves]
        value = loss(*leaves, *inputs[len(leaves) :])
        gradients = torch.autograd.grad(value, leaves, torch.full_like(value, float(task.rows)))
        return value.detach(), *(g if g.dim() else g / task.rows for g in gradients)

    return run


def _products(task: Task) -> Case:
    """What no exact way can leave out: each similarity once, and what makes gradients of them.

    For NT-Xent, whose 2N rows are its columns, half of the pairs: as many as with N columns.
    """
    both_sides = task.op not in ("info_nce", "info_nce_queue")

    def products(rows: Tensor, columns: Tensor) -> tuple[Tensor, ...]:
        to_rows, to_columns = torch.zeros_like(rows), torch.zeros_like(columns)
        for begin in range(0, len(columns), PANEL):
            panel = columns[begin : begin + PANEL]
            weights = rows @ panel.T
            to_rows.addmm_(weights, panel)
            if both_sides:
                torch.mm(weights.T, rows, out=to_columns[begin : begin + PANEL])
        return (to_rows, to_columns) if both_sides else (to_rows,)

    def inputs(device: str, seed: int) -> Inputs:
        first, second, *rest = task.inputs(device, seed)
        if task.op == "nt_xent":
            both = F.normalize(torch.cat([first, second]).float(), dim=1).to(task.dtype)
            return both, both[: len(first)].clone()
        return first, rest[0] if task.op == "info_nce_queue" else second

    narrow = task.dtype != torch.float32
    return Case(
        op=task.op,
        name=f"{task.rows}x{task.columns}, D {task.dim}: the products alone",
        dtype=_name(task.dtype),
        reference=products,
        checks=(Check("pairs", inputs, atol=30.0 if narrow else 0.01),),
        moved_bytes=task.moved_bytes,
        providers=(Provider("torch.mm", lambda device: products),),
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- Losses: ours, the references' own steps


PUBLIC: dict[str, Loss] = {
    "nt_xent": lambda z0, z1: ops.nt_xent(z0, z1, TEMPERATURE),
    "info_nce": lambda query, keys: ops.info_nce(query, keys, None, TEMPERATURE),
    "info_nce_queue": lambda query, positive, queue: ops.info_nce_queue(
        query, positive, queue, TEMPERATURE
    ),
    "clip_loss": ops.clip_loss,
    "siglip_loss": ops.siglip_loss,
}


def _scale(like: Tensor) -> Tensor:
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.tensor(1 / TEMPERATURE, dtype=dtype, device=like.device)


def _nt_xent(z0: Tensor, z1: Tensor) -> Tensor:
    z = torch.cat([z0, z1])
    wide = z if z.dtype == torch.float64 else z.float()
    z = F.normalize(wide, dim=1, eps=1e-12).to(z.dtype)
    loss: Tensor = OPS["nt_xent"].reference(z, _scale(z), False)[0]
    return loss


def _info_nce(query: Tensor, keys: Tensor) -> Tensor:
    targets = torch.arange(len(query), device=query.device)
    loss: Tensor = OPS["info_nce"].reference(query, keys, targets, _scale(query), False, False)[0]
    return loss


REFERENCES: dict[str, Loss] = {
    "nt_xent": _nt_xent,
    "info_nce": _info_nce,
    "info_nce_queue": lambda *inputs: OPS["info_nce_queue"].reference(
        *inputs, _scale(inputs[0]), False
    )[0],
    "clip_loss": lambda *inputs: OPS["clip_loss"].reference(*inputs, False)[0],
    "siglip_loss": lambda *inputs: OPS["siglip_loss"].reference(*inputs, 0, False)[0],
}


# ---- What people compute today, step by step


def lightly_nt_xent(z0: Tensor, z1: Tensor) -> Tensor:
    """The steps of lightly's NTXentLoss: four blocks of similarities, the diagonals cut out."""
    count = len(z0)
    z0, z1 = F.normalize(z0, dim=1), F.normalize(z1, dim=1)
    others = ~torch.eye(count, dtype=torch.bool, device=z0.device)
    across, back = (torch.einsum("nc,mc->nm", a, b) / TEMPERATURE for a, b in ((z0, z1), (z1, z0)))
    within = [
        (torch.einsum("nc,mc->nm", z, z) / TEMPERATURE)[others].view(count, -1) for z in (z0, z1)
    ]
    first = torch.cat([across, within[0]], dim=1)
    second = torch.cat([back, within[1]], dim=1)
    targets = torch.arange(count, device=z0.device).repeat(2)
    return F.cross_entropy(torch.cat([first, second]), targets)


def mmpretrain_moco(query: Tensor, positive: Tensor, queue: Tensor) -> Tensor:
    """The steps of mmpretrain's MoCo and ContrastiveHead."""
    matched = torch.einsum("nc,nc->n", query, positive).unsqueeze(-1)
    others = torch.einsum("nc,ck->nk", query, queue.t().clone().detach())
    logits = torch.cat([matched, others], dim=1) / TEMPERATURE
    targets = torch.zeros(len(query), dtype=torch.long, device=query.device)
    return F.cross_entropy(logits, targets)


def mmpretrain_mocov3(query: Tensor, keys: Tensor) -> Tensor:
    """The steps of mmpretrain's MoCoV3Head, without its factor."""
    logits = query.mm(keys.t()) / TEMPERATURE
    return F.cross_entropy(logits, torch.arange(len(query), device=query.device))


def open_clip_clip(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """The steps of open_clip's ClipLoss: a product for each direction."""
    targets = torch.arange(len(image), device=image.device)
    by_image, by_text = scale * image @ text.T, scale * text @ image.T
    return (F.cross_entropy(by_image, targets) + F.cross_entropy(by_text, targets)) / 2


def open_clip_siglip(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """The steps of open_clip's SigLipLoss."""
    logits = scale * image @ text.T + bias
    signs = 2 * torch.eye(len(image), device=image.device, dtype=image.dtype)
    signs = signs - torch.ones_like(logits)
    return -F.logsigmoid(signs * logits).sum() / len(image)


LAWS: dict[str, tuple[str, Loss]] = {
    "nt_xent": ("lightly's law", lightly_nt_xent),
    "info_nce_queue": ("mmpretrain's law", mmpretrain_moco),
    "info_nce": ("mmpretrain's law", mmpretrain_mocov3),
    "clip_loss": ("open_clip's law", open_clip_clip),
    "siglip_loss": ("open_clip's law", open_clip_siglip),
}
