"""Handlers for training, in two groups: for each step, and for the whole run."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch.optim.lr_scheduler import LRScheduler

from ..configuration import Configuration, without_effect
from ..data.remote import is_url
from ..errors import DataError
from ..system.distributed import rank
from .budget import Budget
from .checkpoints import Checkpoints
from .gradients import GradientGuard
from .group import HandlerGroup
from .history import History
from .progress import ProgressBar
from .remote_copy import RemoteCopy
from .resources import Resources
from .run_record import RunRecord
from .save_weights import SaveFinalWeights
from .seed import SeedSteps
from .step_schedule import StepSchedule
from .tensorboard import TensorBoard

logger = logging.getLogger(__name__)


@without_effect("output_dir", "resources", "progress")
class StepHandlers(HandlerGroup):
    """The handlers of every training step, in this order; list the group before the ``ValidationHandler``.

    ==========  ==========================================================================================
    loader      starts the stream of batches at the trainer's iteration
    seed_steps  :class:`SeedSteps`: random numbers depend on seed, iteration and rank alone
    gradients   :class:`GradientGuard`: clips gradients, skips steps that are not finite
    schedule    :class:`StepSchedule`: steps the learning-rate schedule
    resources   :class:`Resources`: time per step, waiting for data, memory
    progress    :class:`ProgressBar`, on rank 0
    ==========  ==========================================================================================

    Example: ``{"_target_": "custom.handlers.StepHandlers", "loader": "@train#dataloader", "network": "@network",
    "optimizer": "@optimizer", "lr_scheduler": "@lr_scheduler", "output_dir": "@results_dir"}``

    Args:
        loader: the trainer's :class:`custom.data.StreamLoader`.
        lr_scheduler: from :func:`custom.training.lr_schedules.build_schedule`, or any torch scheduler.
        changes: handlers to switch off or replace, see :class:`HandlerGroup`.
    """

    def __init__(
        self,
        *,
        loader: Any,
        network: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: LRScheduler,
        output_dir: str,
        evaluator: Engine | None = None,
        max_gradient_norm: float | None = None,
        seed: int = 0,
        deterministic: bool = False,
        **changes: Any,
    ) -> None:
        handlers = {
            "loader": loader,
            "seed_steps": SeedSteps(seed=seed, deterministic=deterministic),
            "gradients": GradientGuard(
                optimizer=optimizer, network=network, output_dir=output_dir, max_norm=max_gradient_norm
            ),
            "schedule": StepSchedule(scheduler=lr_scheduler, evaluator=evaluator),
            "resources": Resources(),
            "progress": ProgressBar(desc="training") if rank() == 0 else None,
        }
        super().__init__(handlers, changes)


@without_effect(
    *("model_dir", "results_dir", "output_dir", "datasets", "resume", "changed_data", "overwrite", "budget_hours"),
    *("checkpoint_minutes", "remote_copy", "tensorboard", "budget", "checkpoints", "record"),
)
class RunHandlers(HandlerGroup):
    """The handlers that record, stop and resume a run, in this order; list the group last.

    =============  ==========================================================================================
    remote_copy    :class:`RemoteCopy`: uploads weights, checkpoints and results if ``output_dir`` is a URL
    history        :class:`History`: ``metrics.csv`` and ``curves.png``
    tensorboard    :class:`TensorBoard`, on rank 0
    final_weights  :class:`SaveFinalWeights`: ``model_final.pt`` when training is complete
    budget         :class:`Budget`: stops in time or on SIGTERM, and prints the command that continues the run
    checkpoints    :class:`Checkpoints`: the whole state of the run
    record         :class:`RunRecord`: ``run.json``, configuration, cases and versions
    =============  ==========================================================================================

    Example: ``{"_target_": "custom.handlers.RunHandlers", "model_dir": "@model_dir", "results_dir": "@results_dir",
    "output_dir": "@output_dir", "evaluator": "@validate#evaluator", "datasets": ["@train#dataset",
    "@validate#dataset"], "objects": {"network": "@network", "optimizer": "@optimizer"}}``

    Args:
        model_dir: folder of the weights; checkpoints are in ``checkpoints`` below it.
        results_dir: local folder of tables and pictures.
        datasets: the datasets of training and validation, in this order.
        objects: objects with a ``state_dict``, by name, see :class:`Checkpoints`; ``optimizer`` (required) and ``loss``
            are also logged.
        changes: handlers to switch off or replace, see :class:`HandlerGroup`.

    Raises:
        DataError: ``resume`` without the handler ``checkpoints``: the run would start again at step 0.
    """

    def __init__(
        self,
        *,
        model_dir: str,
        results_dir: str,
        output_dir: str,
        evaluator: Any,
        datasets: Sequence[Any],
        objects: Mapping[str, Any],
        configuration: Configuration | None = None,
        resume: bool = False,
        changed_data: bool = False,
        overwrite: bool = False,
        budget_hours: float | None = None,
        checkpoint_minutes: float = 10.0,
        **changes: Any,
    ) -> None:
        curves = {"output_dir": results_dir, "optimizer": objects["optimizer"], "evaluator": evaluator}
        folders = {"models": model_dir, "results": results_dir}
        cases = {name: dataset.data for name, dataset in zip(("training", "validation"), datasets, strict=True)}
        history = History(**curves)
        self.budget_hours = budget_hours
        self.evaluator = evaluator
        self.checkpoints = Checkpoints(
            folder=f"{model_dir}/checkpoints",
            objects={**objects, "history": history},
            evaluator=evaluator,
            resume=resume,
            changed_data=changed_data,
            overwrite=overwrite,
            minutes=checkpoint_minutes,
            cases=cases["training"],
            volumes=[dataset.volumes for dataset in datasets],
            results=results_dir,
            configuration=configuration,
        )
        handlers = {
            "remote_copy": RemoteCopy(folders=folders, url=output_dir if is_url(output_dir) else None),
            "history": history,
            "tensorboard": TensorBoard(**curves, loss=objects.get("loss")) if rank() == 0 else None,
            "final_weights": SaveFinalWeights(path=f"{model_dir}/model_final.pt", network=evaluator.network),
            "budget": Budget(
                checkpoints=self.checkpoints if changes.get("checkpoints", True) else None,
                hours=budget_hours,
                evaluator=evaluator,
            ),
            "checkpoints": self.checkpoints,
            "record": RunRecord(folders=list(folders.values()), cases=cases, configuration=configuration),
        }
        super().__init__(handlers, changes)
        if resume and "checkpoints" not in self.handlers:
            raise DataError.of("resume", "True, with the handler checkpoints switched off", "False, or checkpoints")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self._warn_without_score)
        super().attach(engine)

    def _warn_without_score(self, engine: Engine) -> None:
        if self.evaluator.state.best_metric_epoch < 0 and rank() == 0:
            logger.warning("no validation gave a score: only the last weights are saved, in model_final.pt")
