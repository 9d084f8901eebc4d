"""Scores per volume in MONAI's evaluators."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import CumulativeIterationMetric

from ..configuration import without_effect
from ..errors import DataError
from ..system.files import dispensable
from .case_items import Item
from .case_workers import CaseWorkers


@without_effect("output_dir", "workers", "timeout_s")
class CaseMetrics(IgniteMetricHandler):
    """Post-processes each volume and scores it, in worker processes while the network predicts the next volumes.

    The metric keeps a row of scores for each volume, as those of :mod:`custom.metrics` do; it compares the evaluator's
    ``pred`` with ``label``. After all volumes, the evaluator's metrics hold the key score (``metric.aggregate()``)
    under the handler's name, and the means of all others (``metric.means()``).

    The evaluator's own output stays as the network predicted it. Handlers that need the post-processed volume add a
    function to ``engine.state.case_steps`` when they are attached; see :class:`custom.handlers.Panels`.

    Example: ``"key_metric": {"mean_dice": {"_target_": "custom.handlers.CaseMetrics", "metric": "@validate#metric",
    "postprocessing": "@validate#postprocessing"}}``

    Args:
        postprocessing: a transform of the items; not also an argument of the evaluator.
        output_dir: folder in which ``metric.write()`` writes its tables after each evaluation; None writes none.
        workers, timeout_s: see :class:`.case_workers.CaseWorkers`.

    Raises:
        DataError: a volume cannot be scored, its worker was killed, or it takes longer than ``timeout_s``; the handler
            has the name of another score than the metric's ``key``, under which tables would show the wrong one.
        CaseError: an unexpected error, with the name of the case.
    """

    def __init__(
        self,
        *,
        metric: CumulativeIterationMetric,
        postprocessing: Callable[[Item], Item] | None = None,
        output_dir: str | None = None,
        workers: int | None = None,
        timeout_s: float = 3600.0,
    ) -> None:
        super().__init__(metric_fn=metric, output_transform=from_engine(["pred", "label"]), save_details=False)
        self.output_dir = output_dir
        self.workers = CaseWorkers(postprocessing, workers=workers, timeout_s=timeout_s)
        self.metric: Any = metric
        self._volumes = 0

    def attach(self, engine: Engine, name: str) -> None:  # type: ignore[override]
        key = getattr(self.metric, "key", name)
        if name != key and name in self.metric.keys:
            raise DataError.of(f"key_metric#{name}", f"a metric whose key score is {key}", f"the name {key}")
        super().attach(engine, name)
        engine.state.case_steps = []
        self.workers.prepare(getattr(engine.state, "device", None) or torch.device("cpu"))
        engine.add_event_handler(Events.TERMINATE, lambda _: self.workers.close())

    def started(self, engine: Engine) -> None:
        super().started(engine)
        self.workers.close()  # of one that was cut off
        self._volumes = 0

    @torch.no_grad()
    def iteration_completed(self, engine: Engine) -> None:
        batch, output = engine.state.batch, engine.state.output
        described = isinstance(batch, list) and all(isinstance(item, dict) for item in batch)
        for given, predicted in zip(batch if described else [{}] * len(output), output, strict=True):
            item = {**predicted, **given}  # given tensors, since these were not copied to the device
            name = self.metric.name_of(item["pred"], item["label"], self._volumes)
            steps = [plan(name, item, self._volumes) for plan in engine.state.case_steps]
            work = [partial(_measure, self._empty_metric(), name), *(step for step in steps if step is not None)]
            self.workers.submit(name, item, work, item["pred"].device)
            self._volumes += 1
            self._collect()

    def completed(self, engine: Engine, name: str) -> None:
        self._collect(wait=True)
        self.workers.close()
        super().completed(engine, name)
        engine.state.metrics.update({key: value for key, value in self.metric.means().items() if key != name})
        if self.output_dir is not None:
            with dispensable(self.output_dir):
                self.metric.write(self.output_dir)

    def _collect(self, *, wait: bool = False) -> None:
        for name, results in self.workers.finished(wait=wait):
            self.metric.add(name, results()[0])

    def _empty_metric(self) -> Any:
        metric = copy.copy(self.metric)
        metric.reset()
        return metric


def _measure(metric: Any, name: str, item: Item) -> Mapping[str, float]:
    return metric.measure(item["pred"], item["label"], name)
