"""The handlers of a training, in two groups: around each step, and around the run."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine
from torch.optim.lr_scheduler import LRScheduler

from ..configuration import Configuration, without_effect
from ..data.remote import is_url
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


@without_effect("output_dir", "resources", "progress")
class StepHandlers(HandlerGroup):
    """What surrounds every training step; list it before the ``ValidationHandler``.

    =========  ===========================================================================================
    loader     starts the stream of batches at the trainer's iteration
    seed       :class:`SeedSteps`: what the network draws depends on seed, iteration and rank alone
    gradients  :class:`GradientGuard`: clips gradients, skips steps that are not finite
    schedule   :class:`StepSchedule`: steps the learning-rate schedule
    resources  :class:`Resources`: seconds per step, share of waiting for data, memory
    progress   :class:`ProgressBar`, on the first rank
    =========  ===========================================================================================

    Args:
        loader: the trainer's :class:`custom.data.StreamLoader`.
        network: the network that is trained.
        optimizer: its optimizer.
        lr_scheduler: from :func:`custom.training.lr_schedules.build_schedule`, or any of torch's.
        output_dir: the run's folder.
        evaluator: the validation engine, for a schedule that depends on its metric.
        max_gradient_norm: the L2 norm of all gradients together above which they are clipped; None clips nothing.
        seed: of the run.
        changes: see :class:`HandlerGroup`.
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
        **changes: Any,
    ) -> None:
        handlers = {
            "loader": loader,
            "seed": SeedSteps(seed=seed),
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
    """What records a run, stops it in time and continues it; list it last.

    =============  ==========================================================================================
    remote_copy    :class:`RemoteCopy`: uploads weights, checkpoints and results if ``output_dir`` is a URL
    history        :class:`History`: ``metrics.csv`` and ``curves.png``
    tensorboard    :class:`TensorBoard`, on the first rank
    final_weights  :class:`SaveFinalWeights`: ``model_final.pt`` when the training is complete
    budget         :class:`Budget`: stops in time or on SIGTERM, and prints the command that continues the run
    checkpoints    :class:`Checkpoints`: the whole state of the run
    record         :class:`RunRecord`: ``run.json``, what the run was made of
    =============  ==========================================================================================

    Args:
        model_dir: folder of the weights and, in ``checkpoints``, of the state.
        results_dir: local folder of tables and pictures.
        output_dir: as the user gave it: that folder, or a URL to upload to.
        evaluator: the validation engine, whose network is saved at the end.
        datasets: those of training and validation, whose cases and volumes the run is made from.
        objects: what has a ``state_dict``, by name, see :class:`Checkpoints`; ``optimizer`` and ``loss`` are also read
            for the curves.
        configuration: of the run; a run with another one does not continue it.
        resume: whether to continue the run in ``model_dir``.
        changed_data: whether to continue it although volumes have changed since.
        overwrite: whether to replace a run in ``model_dir`` that is not continued.
        budget_hours: from the start of the process; None sets no limit.
        checkpoint_minutes: between two checkpoints.
        changes: see :class:`HandlerGroup`.
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
            "budget": Budget(checkpoints=self.checkpoints, hours=budget_hours, evaluator=evaluator),
            "checkpoints": self.checkpoints,
            "record": RunRecord(folders=list(folders.values()), cases=cases, configuration=configuration),
        }
        super().__init__(handlers, changes)
