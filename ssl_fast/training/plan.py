"""What a run's options come to, once the data are known: steps, rates, and when what is due."""

from __future__ import annotations

from dataclasses import dataclass

from .methods import METHODS
from .options import PretrainOptions

DEFAULT_EPOCHS = 100
DEFAULT_EVALUATIONS = 10
BASE_BATCH = 256  # the batch that base_lr is meant for


@dataclass(frozen=True)
class Plan:
    """The numbers of a run.

    Attributes:
        images: images to train on.
        steps: steps of the optimiser, in all.
        steps_per_epoch: whole batches in a pass over the data, at least 1.
        backbone, optimizer, lr, warmup_steps, weight_decay, clip_grad: see `PretrainOptions`.
        betas: of AdamW.
        evaluate_every, checkpoint_every: steps between two.
    """

    images: int
    steps: int
    steps_per_epoch: int
    backbone: str
    optimizer: str
    lr: float
    warmup_steps: int
    weight_decay: float
    betas: tuple[float, float]
    clip_grad: float
    evaluate_every: int
    checkpoint_every: int

    def epoch(self, step: int) -> int:
        """The pass over the data in which a step lies, from 0."""
        return step // self.steps_per_epoch

    @property
    def epochs(self) -> int:
        return -(-self.steps // self.steps_per_epoch)

    def checkpoint_due(self, step: int) -> bool:
        """Whether the state is saved after this many steps."""
        return step == self.steps or (step > 0 and step % self.checkpoint_every == 0)

    def something_due(self, step: int) -> bool:
        """Whether an evaluation or a checkpoint is."""
        return self.checkpoint_due(step) or self.evaluation_due(step)

    def evaluation_due(self, step: int) -> bool:
        """Whether features are measured after this many steps."""
        return step == self.steps or (step > 0 and step % self.evaluate_every == 0)


def plan(options: PretrainOptions, images: int) -> Plan:
    """The plan for a number of images.

    Raises:
        ValueError: for another optimiser than the method's without a learning rate for it.
    """
    recipe = METHODS[options.method]
    optimizer = options.optimizer or recipe.optimizer
    if optimizer != recipe.optimizer and options.lr is None and options.base_lr is None:
        raise ValueError(
            f"optimizer is {optimizer!r}, and the learning rate that {options.method} has is for "
            f"{recipe.optimizer!r}; give lr or base_lr"
        )
    steps_per_epoch = max(1, images // options.batch_size)
    steps = options.steps or (options.epochs or DEFAULT_EPOCHS) * steps_per_epoch
    base_lr = recipe.base_lr if options.base_lr is None else options.base_lr
    scaled = base_lr * options.batch_size / BASE_BATCH
    evaluate = max(steps_per_epoch, steps / DEFAULT_EVALUATIONS)
    if options.evaluate_epochs is not None:
        evaluate = options.evaluate_epochs * steps_per_epoch
    return Plan(
        images=images,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        backbone=options.backbone or recipe.backbone,
        optimizer=optimizer,
        lr=scaled if options.lr is None else options.lr,
        warmup_steps=steps // 10 if options.warmup_steps is None else options.warmup_steps,
        weight_decay=_or(options.weight_decay, recipe.weight_decay),
        betas=recipe.betas,
        clip_grad=_or(options.clip_grad, recipe.clip_grad),
        evaluate_every=round(evaluate),
        checkpoint_every=options.checkpoint_steps,
    )


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
