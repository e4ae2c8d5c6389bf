"""Our classes in mmengine's registries, under the scope `ssl_fast`.

    model = dict(type="ssl_fast.MAE", backbone=dict(type="VisibleViT", name="vit_small..."), ...)

A config of any library of mmengine's can name them so. What plain names inside of such a model
mean is in `ssl_fast.models.registry.Registry`. `disable()` leaves the scope there: nothing that
does not name it is any different.
"""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

from ...models import registry
from ...models.momentum import StepCounter

MODELS = Registry("model", parent=MMENGINE_MODELS, scope=registry.SCOPE)
HOOKS = Registry("hook", parent=MMENGINE_HOOKS, scope=registry.SCOPE)

# One table for both, so that what is registered with one later is in the other too.
MODELS._module_dict = registry.MODELS._classes


@HOOKS.register_module()
class StepCounterHook(Hook):
    """Tells our models before each iteration which step of the optimiser it is part of.

    Needed for momentum encoders that follow a schedule (BYOL, MoCo v3), and where gradients are
    accumulated: `custom_hooks=[dict(type="ssl_fast.StepCounterHook")]`.
    """

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Before the forward of iteration `runner.iter`."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        parts = getattr(runner.optim_wrapper, "_accumulative_counts", 1)
        for module in model.modules():
            if isinstance(module, StepCounter):
                module.tell(runner.iter // parts, -(-runner.max_iters // parts))
