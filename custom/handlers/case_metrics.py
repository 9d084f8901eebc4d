"""Scores per volume in MONAI's evaluators."""

from typing import Any

from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import CumulativeIterationMetric

from ..configuration import without_effect
from ..system.files import dispensable


@without_effect("output_dir")
class CaseMetrics(IgniteMetricHandler):
    """Attaches a metric that keeps a row of scores for each volume, such as those of :mod:`custom.metrics`.

    It compares the evaluator's ``pred`` with ``label``. After all volumes, the evaluator's metrics hold the key score
    (``metric.aggregate()``) under the handler's name, and the means of all others (``metric.means()``).

    Example: ``"key_metric": {"mean_dice": {"_target_": "custom.handlers.CaseMetrics", "metric": "@validate#metric"}}``

    Args:
        metric: the metric.
        output_dir: folder in which ``metric.write()`` writes its tables after each evaluation; None writes none.
    """

    def __init__(self, *, metric: CumulativeIterationMetric, output_dir: str | None = None) -> None:
        super().__init__(metric_fn=metric, output_transform=from_engine(["pred", "label"]), save_details=False)
        self.output_dir = output_dir

    def completed(self, engine: Engine, name: str) -> None:
        """Store the scores in ``engine.state.metrics``, and write the tables."""
        super().completed(engine, name)
        metric: Any = self.metric_fn
        engine.state.metrics.update({key: value for key, value in metric.means().items() if key != name})
        if self.output_dir is not None:
            with dispensable(self.output_dir):
                metric.write(self.output_dir)
