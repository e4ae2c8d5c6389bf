"""The contrastive losses with all gradients, as SimCLR, MoCo, MoCo v3, CLIP and SigLIP train."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import ops
from ..._dispatch import OPS, backends
from .. import gradients
from ..case import Case, Check, Inputs, Provider, Skipped
from ..gradients import Loss, with_gradients
from ..providers import COMPILED, EAGER, growing, in_long_runs, on, others, peer, standard

TEMPERATURE, BIAS = 0.1, -10.0
METHODS = {
    "nt_xent": "SimCLR",
    "info_nce_queue": "MoCo",
    "info_nce": "MoCo v3",
    "clip_loss": "CLIP",
    "siglip_loss": "SigLIP",
}


@dataclass(frozen=True)
class Task:
    """A loss on features of a size.

    Attributes:
        op: which loss.
        rows: of the queries, the images, or one view.
        columns: of the keys or the queue; elsewhere as many as rows.
        dim: of the features.
        dtype: that the features come in.
        headline: as in `Case`.
    """

    op: str
    rows: int
    columns: int
    dim: int
    dtype: torch.dtype = torch.float32
    headline: bool = False

    @property
    def name(self) -> str:
        pairs = f"2 x {self.rows}" if self.op == "nt_xent" else f"{self.rows} x {self.columns}"
        return f"{METHODS[self.op]}: {pairs}, D {self.dim}, with gradients"

    def inputs(self, device: str, seed: int) -> Inputs:
        """What the loss takes but for numbers: each positive pair has a part in common."""
        generator = torch.Generator(device).manual_seed(seed)

        def normal(rows: int) -> Tensor:
            return torch.randn((rows, self.dim), device=device, generator=generator)

        first = normal(self.rows)
        second = normal(self.rows) + first
        if self.op not in ("nt_xent", "info_nce"):  # which normalise themselves
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
        some = {"clip_loss": (0, 1, 2), "siglip_loss": (0, 1, 2, 3), "info_nce": (0,)}
        return some.get(self.op, (0, 1))

    @property
    def similarities(self) -> int:
        return (2 * self.rows) ** 2 if self.op == "nt_xent" else self.rows * self.columns

    @property
    def moved_bytes(self) -> int:
        """Features read once; their gradients, of the same type, written once."""
        queue = self.columns if self.op == "info_nce_queue" else 0
        return (4 * self.rows + queue) * self.dim * self.dtype.itemsize

    @property
    def flops(self) -> int:
        """Each similarity once, and what makes gradients of them: 2 N K D for each product.

        For NT-Xent half of the (2N)^2 similarities, which are symmetric, and both gradients that
        a pair has a part in. A way that does not keep the similarities forms them once more.
        """
        pairs = self.similarities // 2 if self.op == "nt_xent" else self.similarities
        with_columns = self.op not in ("info_nce", "info_nce_queue")
        return 2 * pairs * self.dim * (3 if with_columns else 2)


def cases(device: str, small: bool) -> Iterator[Case]:
    """The shapes of the methods; small batches; bfloat16. On a GPU larger ones too."""
    tasks = _tasks(device)
    if small:
        tasks = [
            Task(op, 16, 48 if op == "info_nce_queue" else 16, 16, headline=True) for op in METHODS
        ]
    yield from (_case(task, device) for task in tasks)


def _tasks(device: str) -> list[Task]:
    headline = functools.partial(Task, headline=True)
    narrow = torch.bfloat16
    tasks = [
        headline("nt_xent", 4096, 4096, 128),
        headline("nt_xent", 4096, 4096, 128, narrow),
        Task("nt_xent", 256, 256, 128),
        Task("nt_xent", 32, 32, 128),
        headline("info_nce_queue", 256, 65536, 128),
        headline("info_nce", 4096, 4096, 256),
        headline("siglip_loss", 4096, 4096, 512),
        Task("clip_loss", 64, 64, 512),
    ]
    clip = 32768 if device == "cuda" else 8192
    tasks += [headline("clip_loss", clip, clip, 512, dtype) for dtype in (torch.float32, narrow)]
    if device == "cuda":
        tasks += [Task("nt_xent", 8192, 8192, 512, dtype) for dtype in (torch.float32, narrow)]
        tasks += [Task("info_nce", 4096, 4096, 256, narrow)]
        tasks += [Task("clip_loss", 8192, 8192, 512, dtype) for dtype in (torch.float32, narrow)]
    return tasks


def growth(device: str, small: bool) -> Iterator[Case]:
    """Over the batch, the features' size and the queue.

    A matrix of similarities is 4 bytes a pair, and autograd keeps several: who stores them takes
    part up to 2 GB of these on a CPU, up to 32 GB on a GPU.
    """
    if small:
        counts, dims, queues = [8, 16], [16, 32], [32, 64]
    elif device == "cuda":
        counts, dims = [1024, 4096, 16384, 32768, 65536], [64, 128, 256, 512, 1024]
        queues = [4096, 16384, 65536, 262144, 1048576]
    else:
        counts, dims = [256, 1024, 2048, 4096], [64, 256, 512, 1024]
        queues = [4096, 16384, 65536, 262144]
    batch = 8 if small else 8192 if device == "cuda" else 1024
    for count in counts:
        yield _grown(Task("nt_xent", count, count, counts[0] if small else 128), "N", count, device)
    for count in counts:
        yield _grown(Task("clip_loss", count, count, 16 if small else 512), "N", count, device)
    for dim in dims:
        yield _grown(Task("clip_loss", batch, batch, dim), "D", dim, device)
    for queue in queues:
        yield _grown(Task("info_nce_queue", 8 if small else 256, queue, 128), "K", queue, device)


def _grown(task: Task, axis: str, size: int, device: str) -> Case:
    case = _case(task, device)
    stored = 4 * task.similarities * (6 if task.op == "clip_loss" else 4)
    fits = stored <= (32e9 if device == "cuda" else 2e9)
    return growing(case, axis, size, without=() if fits else (EAGER, case.theirs))


def _case(task: Task, device: str) -> Case:
    def public(*inputs: Tensor) -> Tensor:
        loss: Tensor = PUBLIC[task.op](*inputs)
        return loss

    complete = with_gradients(task.leaves, float(task.rows))
    wide = task.dtype == torch.float32
    own, peers = standard(task.op, public, REFERENCES[task.op], complete), _peers(task, complete)
    if device == "cpu" and task.similarities > 1 << 24:  # it would take minutes
        own = in_long_runs(own, EAGER, COMPILED)
    return Case(
        op=task.op,
        name=task.name,
        dtype=_name(task.dtype),
        reference=complete(TRUTHS[task.op]),
        checks=(Check("pairs", task.inputs, atol=1e-4 if wide else 0.1),),
        moved_bytes=task.moved_bytes,
        providers=(
            *own,
            *(_by_way(task, public, way, complete) for way in ("panels", "fused")),
            *peers,
        ),
        flops=task.flops,
        theirs=peers[0].name,
        headline=task.headline,
    )


def _by_way(task: Task, public: Loss, name: str, complete: Callable[[Loss], Any]) -> Provider:
    """Our Triton kernels by one of their two ways, whichever would be chosen."""

    def prepare(device: str) -> Callable[..., Any]:
        if reason := backends.reason(OPS[task.op], "triton", device):
            raise Skipped(reason)
        kernels = importlib.import_module("ssl_fast.ops.contrastive.triton_kernels")

        def by_way(*inputs: Tensor) -> Tensor:
            with kernels.way(name):
                return public(*inputs)

        result: Callable[..., Any] = complete(by_way)
        return result

    return Provider(
        f"triton {name}",
        on("cuda", prepare),
        backend="triton",
        packages=("triton",),
        thorough=True,
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---- Ours, the reference, and the truth


def _normalised(loss: Loss) -> Loss:
    """MoCo v3 normalises within its loss; so does everybody here."""
    return lambda query, keys: loss(F.normalize(query, dim=1), F.normalize(keys, dim=1))


PUBLIC: dict[str, Loss] = {
    "nt_xent": lambda z0, z1: ops.nt_xent(z0, z1, TEMPERATURE),
    "info_nce": _normalised(lambda query, keys: ops.info_nce(query, keys, None, TEMPERATURE)),
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
    "info_nce": _normalised(_info_nce),
    "info_nce_queue": lambda *inputs: OPS["info_nce_queue"].reference(
        *inputs, _scale(inputs[0]), False
    )[0],
    "clip_loss": lambda *inputs: OPS["clip_loss"].reference(*inputs, False)[0],
    "siglip_loss": lambda *inputs: OPS["siglip_loss"].reference(*inputs, 0, False)[0],
}
# In blocks where the reference would hold many matrices in float64.
TRUTHS: dict[str, Loss] = {
    **REFERENCES,
    "nt_xent": lambda z0, z1: gradients.nt_xent(z0, z1, 1 / TEMPERATURE),
    "info_nce": _normalised(lambda q, k: gradients.info_nce(q, k, 1 / TEMPERATURE)),
    "clip_loss": gradients.clip_loss,
    "siglip_loss": gradients.siglip_loss,
}


# ---- What people use today


def _peers(task: Task, complete: Callable[[Loss], Any]) -> tuple[Provider, ...]:
    """Others who compute the same loss; the first is the one that most use."""

    def of(name: str, make: Callable[[str], Loss], *packages: str) -> tuple[Provider, ...]:
        return others(name, make, packages, complete)

    if task.op == "nt_xent":
        return of("lightly", lambda _: peer("lightly_peer").nt_xent(TEMPERATURE), "lightly")
    if task.op == "info_nce_queue":
        moco = functools.partial(_mmpretrain, "moco_loss")
        return of("mmpretrain's MoCo steps and head", moco, "mmpretrain")
    if task.op == "siglip_loss":
        return of("open_clip", lambda _: peer("open_clip_peer").siglip_loss(), "open_clip_torch")
    if task.op == "clip_loss":
        return (
            *of("open_clip", lambda _: peer("open_clip_peer").clip_loss(), "open_clip_torch"),
            *_fused(task, complete),
        )
    mocov3 = functools.partial(_mmpretrain, "mocov3_loss")
    return (*of("mmpretrain", mocov3, "mmpretrain"), *_fused(task, complete))


def _mmpretrain(name: str, device: str) -> Loss:
    loss: Loss = getattr(peer("mmpretrain_peer"), name)(TEMPERATURE)
    return loss


def _fused(task: Task, complete: Callable[[Loss], Any]) -> tuple[Provider, ...]:
    """Losses that store no matrix of logits. Nobody runs them under torch.compile."""
    clip = task.op == "clip_loss"

    def in_torch(device: str) -> Loss:
        if not hasattr(F, "linear_cross_entropy"):
            raise Skipped("torch has linear_cross_entropy from 2.13 on")
        return _both_ways(linear_cross_entropy) if clip else _normalised(by_temperature)

    def by_temperature(query: Tensor, keys: Tensor) -> Tensor:
        return linear_cross_entropy(query, keys, 1 / TEMPERATURE)

    def liger(device: str) -> Loss:
        return _normalised(peer("liger_peer").info_nce(TEMPERATURE))

    def inf_cl(device: str) -> Loss:
        if task.dtype == torch.float32:
            raise Skipped("Inf-CL multiplies in TF32: not with the accuracy of float32")
        module = peer("inf_cl_peer")
        return module.clip_loss() if clip else _normalised(module.info_nce(TEMPERATURE))

    def provider(name: str, make: Callable[[str], Loss], *packages: str) -> Provider:
        return Provider(name, lambda device: complete(make(device)), packages=packages)

    # Of CLIP's loss it multiplies twice as much, which takes a CPU seconds.
    found = [replace(provider("torch linear_cross_entropy", in_torch), thorough=clip)]
    if not clip:
        found.append(provider("liger", on("cuda", liger), "liger-kernel", "triton"))
    return (*found, provider("inf-cl", on("cuda", inf_cl), "inf-cl", "triton"))


def linear_cross_entropy(rows: Tensor, columns: Tensor, scale: float | Tensor) -> Tensor:
    """torch's own, in chunks: rows as the input, columns as the weight."""
    options = torch.nn.LinearCrossEntropyOptions()
    targets = torch.arange(len(rows), device=rows.device)
    loss: Tensor = F.linear_cross_entropy(rows * scale, columns, targets, options=options)
    return loss


def _both_ways(loss: Loss) -> Loss:
    """CLIP's loss of one that goes from rows to columns."""

    def both(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return (loss(image, text, scale) + loss(text, image, scale)) / 2

    return both
