"""Scores per volume in MONAI's evaluators."""

from typing import Any

from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import CumulativeIterationMetric

from ..configuration import without_effect
from ..system.files import dispensable


@without_effect("output_dir")
class CaseMetrics(IgniteMetricHandler):
    """Attach a metric that keeps a row of scores for every volume, as those of :mod:`custom.metrics` do.

    In a config it stands under the name of its key score: ``"key_metric": {"mean_dice": {"_target_":
    "custom.handlers.CaseMetrics", ...}}``. After a pass over the volumes the evaluator's metrics hold the key score
    (``metric.aggregate()``) and the means of all others (``metric.means()``).

    Args:
        metric: the metric; its predictions and labels are the evaluator's ``pred`` and ``label``.
        output_dir: where ``metric.write()`` puts its tables, after each pass; ``None``: nowhere.
    """

    def __init__(self, *, metric: CumulativeIterationMetric, output_dir: str | None = None) -> None:
        super().__init__(metric_fn=metric, output_transform=from_engine(["pred", "label"]), save_details=False)
        self.output_dir = output_dir

    def completed(self, engine: Engine, name: str) -> None:
        """Put the scores where loggers, history and the choice of the best weights find them."""
        super().completed(engine, name)
        metric: Any = self.metric_fn
        engine.state.metrics.update({key: value for key, value in metric.means().items() if key != name})
        if self.output_dir is not None:
            with dispensable(self.output_dir):
                metric.write(self.output_dir)
