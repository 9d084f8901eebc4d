"""Handlers for validation and evaluation, as one group."""

from typing import Any

import torch
from monai.handlers import StatsHandler

from ..configuration import Configuration, without_effect
from ..system.distributed import rank
from .group import HandlerGroup
from .load_weights import LoadWeights
from .panels import Panels
from .progress import ProgressBar
from .save_weights import SaveBestWeights


@without_effect("output_dir", "load_from", "save_to", "configuration", "title", "progress", "stats", "panels")
class EvaluationHandlers(HandlerGroup):
    """The handlers of a validation or evaluation, in this order.

    ============  =======================================================================================
    load_weights  :class:`LoadWeights`, if ``load_from`` is given
    progress      :class:`ProgressBar`
    stats         MONAI's ``StatsHandler``: one line with the scores
    panels        :class:`Panels`: pictures of the first volumes
    save_weights  :class:`SaveBestWeights`, if ``save_to`` is given
    ============  =======================================================================================

    With several ranks, only rank 0 prints and draws.

    Example: ``{"_target_": "custom.handlers.EvaluationHandlers", "network": "@network", "output_dir": "@results_dir",
    "load_from": "models/model.pt", "panels": false}``

    Args:
        load_from: file or files of the weights to evaluate; None evaluates the network as it is.
        configuration: of this run, to be compared with the training's; see :class:`LoadWeights`.
        save_to: file for the weights, written whenever the key metric improves; None writes none.
        ignored_label: label value that is never an error in the pictures.
        changes: handlers to switch off or replace, see :class:`HandlerGroup`.
    """

    def __init__(
        self,
        *,
        network: torch.nn.Module,
        output_dir: str,
        load_from: str | list[str] | None = None,
        save_to: str | None = None,
        configuration: Configuration | None = None,
        ignored_label: int | None = None,
        title: str = "validation",
        **changes: Any,
    ) -> None:
        first = rank() == 0
        load = None
        if load_from is not None:
            load = LoadWeights(path=load_from, network=network, configuration=configuration)
        handlers = {
            "load_weights": load,
            "progress": ProgressBar(desc=title) if first else None,
            "stats": StatsHandler(iteration_log=False) if first else None,
            "panels": Panels(output_dir=output_dir, ignored=ignored_label) if first else None,
            "save_weights": SaveBestWeights(path=save_to, network=network) if save_to else None,
        }
        super().__init__(handlers, changes)
