"""Pretraining from images to an exported backbone: `ssl_fast.pretrain`, and `ssl-fast pretrain`."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from rich.console import Console

from .._compat import import_timm
from .._compat.allocator import keep_freed_memory
from ..models.base import BaseSelfSupervisor
from ..models.registry import MODELS, nearest
from .checkpoints import AtomicCheckpointIO, Checkpoints, Diverged, StopOnSignal, load_checkpoint
from .evaluation import Evaluation
from .export import export_backbone
from .feed import Feed, default_workers
from .folder import find_run, read_config
from .log import Log
from .methods import METHODS
from .module import PretrainModule
from .options import DEFAULTS, PRECISIONS, PretrainOptions
from .plan import Plan, plan
from .progress import Progress
from .run import Run

# ImageNet's statistics, on the scale of 8-bit pixels.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class PretrainResult:
    """How a run ended.

    Attributes:
        folder: of the run, with all that it wrote.
        finished: whether it came to its last step; else it was stopped and can be resumed.
        step: steps done.
        loss: of the last step.
        before, after: {"step", "knn", "linear"}: accuracies of probes on held-out images, of the
            first weights and of the last; None without labels.
    """

    folder: Path
    finished: bool
    step: int
    loss: float
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def pretrain(**options: Any) -> PretrainResult:
    """Pretrains a backbone on images, shows how it goes, measures it and exports it.

    Args:
        options: those of `PretrainOptions`; `ssl-fast pretrain` and its YAML files have the same.

    Raises:
        TypeError, ValueError: for options that are unknown, out of range, or do not fit together.
        DataError: (a ValueError) for images that are missing or cannot be read.
        CheckpointError: (a ValueError) for a run that cannot be resumed.
        Diverged: if the loss or a weight became NaN or infinite.
    """
    if unknown := [name for name in options if name not in DEFAULTS]:
        raise TypeError(f"unknown option {unknown[0]!r}{nearest(unknown[0], DEFAULTS)}")
    chosen = PretrainOptions(**options)
    folder = checkpoint = None
    if chosen.resume is not None:
        folder, checkpoint = find_run(chosen.resume)
        load_checkpoint(checkpoint)  # what is wrong with it is said before anything starts
        chosen = chosen.continued(read_config(folder))
    if chosen.data is None:
        raise ValueError('data is missing: name a folder of images, or "digits"')
    feed = Feed(chosen)
    if os.path.isdir(chosen.data):  # so that the run can be resumed from elsewhere
        chosen = dataclasses.replace(chosen, data=os.path.abspath(chosen.data))
    run = Run(chosen, plan(chosen, len(feed.train)), folder, feed.description)
    try:
        return _train(run, feed, checkpoint)
    finally:
        run.close()


# What help() and editors show: the options by name.
pretrain.__signature__ = inspect.signature(PretrainOptions).replace(  # type: ignore[attr-defined]
    return_annotation=PretrainResult
)


def _train(run: Run, feed: Feed, checkpoint: Path | None) -> PretrainResult:
    options, planned = run.options, run.plan
    console = Console()
    progress = Progress(console, planned)
    stop = StopOnSignal()
    log = Log(planned, options.log_steps, progress, feed.source)
    checkpoints = Checkpoints(planned)
    evaluation = Evaluation(planned, log, checkpoints, feed)
    run.attach(console, progress, log, checkpoints)
    trainer = _trainer(options, planned, [run, stop, log, evaluation, checkpoints])
    _check(options, trainer)
    if trainer.strategy.root_device.type == "cpu":
        keep_freed_memory()
        _share_threads(trainer)
    torch.manual_seed(options.seed)  # of the first weights
    model = build_model(options)
    if METHODS[options.method].sync_batchnorm:
        model = with_synchronised_norms(model, trainer)
    if options.compile:
        model.compile()
    feed.multiple = getattr(model.backbone, "patch_size", 1)
    workers = options.workers
    if workers is None:
        workers = default_workers(trainer.num_devices)

    def make_loader(rank: int, world_size: int, step: int) -> Iterable[dict[str, Any]]:
        return feed.loader(rank, world_size, step, planned.steps, workers)

    module = PretrainModule(model, options, planned, make_loader)
    with _quiet_lightning():
        try:
            trainer.fit(module, ckpt_path=checkpoint)
        except Diverged as error:
            raise Diverged(error.step, error.what, run.advice(error.step)) from error
    return _result(run, log, trainer, module, stop.stopped)


def _result(
    run: Run, log: Log, trainer: Trainer, module: PretrainModule, stopped: bool
) -> PretrainResult:
    """Exports the backbone of a run that is done, and says where everything is."""
    assert run.folder is not None
    finished = trainer.global_step >= run.plan.steps and not stopped
    evaluations = [record for record in log.records if "knn" in record]
    result = PretrainResult(
        folder=run.folder,
        finished=finished,
        step=trainer.global_step,
        loss=log.mean_loss(1),
        before=evaluations[0] if evaluations else None,
        after=evaluations[-1] if len(evaluations) > 1 else None,
    )
    if trainer.is_global_zero:
        if finished:
            _export(run, module.model, result)
        run.summary(result)
    return result


def build_model(options: PretrainOptions) -> BaseSelfSupervisor:
    """The model of a run, with the preprocessor that keeps images uint8."""
    method = METHODS[options.method]
    config = method.config(
        options.backbone or method.backbone,
        options.image_size,
        options.patch_size,
        backbone_options=options.backbone_options,
        **options.method_options,
    )
    preprocessor = dict(
        type="SelfSupDataPreprocessor", mean=MEAN, std=STD, non_blocking=True, keep_uint8=True
    )
    model = MODELS.build({**config, "data_preprocessor": preprocessor})
    model.init_weights()
    return model


def with_synchronised_norms(model: Any, trainer: Trainer) -> Any:
    """The model with batch norms over all GPUs; on CPUs torch has none, and they stay."""
    if trainer.world_size == 1 or trainer.strategy.root_device.type != "cuda":
        return model
    return import_timm().layers.convert_sync_batchnorm(model)


def _export(run: Run, model: Any, result: PretrainResult) -> None:
    options = run.options
    info = {
        "architecture": model.backbone.name,
        "options": model.backbone.options,
        "image_size": options.image_size,
        "mean": list(MEAN),
        "std": list(STD),
        "method": options.method,
        "steps": result.step,
        "images": run.plan.images,
        "accuracy": result.after,
    }
    export_backbone(result.folder / "export", model.backbone.model, info)


def _trainer(options: PretrainOptions, planned: Plan, callbacks: list[Any]) -> Trainer:
    with _quiet_lightning(), _as_value_error():
        return Trainer(
            accelerator=options.accelerator,
            devices=options.devices,
            num_nodes=options.nodes,
            strategy=options.strategy,
            precision=PRECISIONS[options.precision],
            max_steps=planned.steps,
            max_epochs=-1,  # epochs are the sampler's
            accumulate_grad_batches=options.accumulate,
            gradient_clip_val=planned.clip_grad or None,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )


class _quiet_lightning(warnings.catch_warnings):
    """Keeps Lightning's advice, which our options do not need, off the terminal."""

    def __enter__(self) -> None:
        super().__enter__()
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(logging.WARNING)
        warnings.filterwarnings("ignore", module=r"lightning\.")
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")


@contextmanager
def _as_value_error() -> Iterator[None]:
    """Lightning's own error for options that do not fit is no ValueError."""
    try:
        yield
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error


def _check(options: PretrainOptions, trainer: Trainer) -> None:
    """Raises unless the trainer's processes can do this run."""
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        # Its processes are copies of this one, which would not learn what became of the run.
        raise ValueError(f"strategy is {options.strategy!r}, which forks or spawns; take 'ddp'")
    parts = trainer.world_size * options.accumulate
    if options.batch_size % parts:
        raise ValueError(
            f"batch_size is {options.batch_size}; expected a multiple of {parts}: "
            f"{trainer.world_size} processes times {options.accumulate} accumulated parts"
        )


def _share_threads(trainer: Trainer) -> None:
    """Divides the processors between the processes of this machine, unless the user did."""
    local = trainer.num_devices
    if local > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local))
