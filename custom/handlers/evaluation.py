"""The handlers of a validation or evaluation."""

from typing import Any

import torch
from monai.handlers import StatsHandler

from ..configuration import without_effect
from ..system.distributed import rank
from .group import HandlerGroup
from .load_weights import LoadWeights
from .panels import Panels
from .progress import ProgressBar
from .save_weights import SaveBestWeights


@without_effect("output_dir", "load_from", "save_to", "title", "progress", "stats", "panels")
class EvaluationHandlers(HandlerGroup):
    """What a validation or evaluation loads, shows and keeps.

    ============  =======================================================================================
    load_weights  :class:`LoadWeights`, if there is a ``load_from``
    progress      :class:`ProgressBar`
    stats         MONAI's ``StatsHandler``: one line with the scores
    panels        :class:`Panels`: pictures of the first volumes
    save_weights  :class:`SaveBestWeights`, if there is a ``save_to``
    ============  =======================================================================================

    Of several ranks only the first shows and draws.

    Args:
        network: what is evaluated.
        output_dir: the run's folder.
        load_from: file or files of the weights to evaluate; None evaluates the network as it is.
        save_to: where its weights are written after each validation that is the best so far; None writes none.
        ignored_label: label value that counts neither as right nor as wrong.
        title: of the progress bar.
        changes: see :class:`HandlerGroup`.
    """

    def __init__(
        self,
        *,
        network: torch.nn.Module,
        output_dir: str,
        load_from: str | list[str] | None = None,
        save_to: str | None = None,
        ignored_label: int | None = None,
        title: str = "validation",
        **changes: Any,
    ) -> None:
        first = rank() == 0
        handlers = {
            "load_weights": LoadWeights(path=load_from, network=network) if load_from else None,
            "progress": ProgressBar(desc=title) if first else None,
            "stats": StatsHandler(iteration_log=False) if first else None,
            "panels": Panels(output_dir=output_dir, ignored=ignored_label) if first else None,
            "save_weights": SaveBestWeights(path=save_to, network=network) if save_to else None,
        }
        super().__init__(handlers, changes)
