"""Process of :mod:`~custom.competition.timed_inference` that predicts cases on request, each within its share of time.

From standard input it reads a line of JSON with its settings, then one for each request (a case to predict, or cases
whose predictions to check). It answers each with a line of JSON on standard output, including this package's warnings;
everything printed goes to standard error.
"""

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..configuration import check_options, settings_with_effect
from ..data.cases import Case
from ..errors import find_data_error
from ..handlers.load_weights import load_weights
from ..inferers.views import ViewMean
from ..system.memory import usable_cores


class OutOfTimeError(RuntimeError):
    """The deadline passed during prediction."""


class TimedPredictor:
    """Predicts single cases with a bundle's ``inference.json``, with as many views as time allows.

    The configured test-time augmentation is applied to whole volumes: the volume without augmentation comes first, and
    further views are added to the mean as long as another one is expected to fit into the share of time.

    Raises:
        DataError: there are no weights, or those of another network; an unused option.
    """

    def __init__(
        self,
        *,
        bundle_root: str,
        configs: Sequence[str],
        options: dict[str, Any],
        device: torch.device,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parser = ConfigParser()
        parser.read_config([str(path) for path in configs])
        for key, value in {"bundle_root": str(bundle_root), "inferer#progress": False, **options}.items():
            parser[key] = value
        parser["device"] = device
        check_options(parser, strict=True)
        self.network = parser.get_parsed_content("network").eval()
        load_weights(parser.get_parsed_content("checkpoint"), self.network, settings_with_effect(parser))
        self.network.register_forward_pre_hook(self._check_time)
        self.preprocessing = parser.get_parsed_content("preprocessing")
        self.postprocessing = parser.get_parsed_content("postprocessing")
        self.record = parser.get_parsed_content("record")
        self.record.settings["views"] = "of the whole volume"  # the bundle's own flip window by window
        self.inferer = parser.get_parsed_content("inferer")
        self.views = self.inferer.views[:1]
        if not getattr(self.inferer, "like_nnunet", False):  # which averages the logits of views, window by window
            self.views, self.inferer.views = self.inferer.views, self.inferer.views[:1]
        self.clock = clock
        self._deadline = float("inf")
        self._after = 0.0  # seconds of post-processing, per voxel

    def keep(self, cases: Sequence[Case]) -> dict[str, Any]:
        """Check existing predictions, and delete those of other images, weights or settings.

        Returns:
            ``kept``, the ids of the cases that are predicted with all views.
        """
        kept = []
        for case in cases:
            there = any(path.exists() for path in self.record.saver.paths(case["image"], case["id"]))
            current = there and self.record.prepare(case["image"], case["id"]) is None
            if current and self.record.noted(case["image"], case["id"]).get("views") == len(self.views):
                kept.append(case["id"])
        return {"kept": kept}

    @torch.no_grad()
    def predict(self, case: Case, *, share: float, limit: float) -> dict[str, Any]:
        """Predict and write one case.

        Args:
            share: seconds for all views together; does not apply to the first view.
            limit: seconds after which the network is stopped; complete views are used.

        Returns:
            ``views``, the number of averaged views, 0 if nothing was written for lack of time, and ``seconds``.
        """
        started = self.clock()
        self.record.prepare(case["image"], case.get("id"))
        item = self.preprocessing(dict(case))
        image = item["image"][None]
        reserved = self._after * image[0, 0].numel()
        self._deadline = started + limit - reserved
        mean, views, longest = ViewMean(), 0, 0.0
        for view in self.views:
            begun = self.clock()
            if views and begun - started + longest + reserved > share:
                break
            try:
                values = view.back(self.inferer(view.of(image), self.network))
            except OutOfTimeError:
                break
            mean.add(view, values)
            views += 1
            longest = max(longest, self.clock() - begun)
        if not views:
            return {"views": 0, "seconds": self.clock() - started}
        item["pred"] = mean.result()[0]
        begun = self.clock()
        self.postprocessing(item)
        self.record.complete(case["image"], case.get("id"), views=views)
        self._after = max(self._after, (self.clock() - begun) / image[0, 0].numel())
        return {"views": views, "seconds": self.clock() - started}

    def _check_time(self, *_: Any) -> None:
        if self.clock() > self._deadline:
            raise OutOfTimeError


def choose_device() -> tuple[torch.device, str]:
    """Return the first GPU that works with this torch, or else the CPU; and its description.

    A GPU may be unusable: builds of torch for CUDA 12.8 do not support a P100, which only a computation reveals
    (https://github.com/Kaggle/docker-python/issues/1546).
    """
    cpu = f"CPU ({usable_cores()} cores)"
    if not torch.cuda.is_available():
        return torch.device("cpu"), cpu
    device = torch.device("cuda")
    name = torch.cuda.get_device_name(device)
    try:
        torch.nn.functional.conv2d(torch.ones(1, 1, 8, 8, device=device), torch.ones(1, 1, 3, 3, device=device)).cpu()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return torch.device("cpu"), f"{cpu}; torch {torch.__version__} cannot use the {name}: {reason}"
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return device, f"{name} ({memory:.0f} GiB)"


class _Warnings(logging.Handler):
    """Collects this package's warnings for the requesting process, and prints them here."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        logging.getLogger(__package__.partition(".")[0]).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        print(self.messages[-1], file=sys.stderr)

    def take(self) -> list[str]:
        taken, self.messages = self.messages, []
        return taken


def main() -> None:
    """Answer requests until standard input ends."""
    warnings = _Warnings()
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    predictor: TimedPredictor | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if predictor is None:
                device, words = choose_device()
                predictor = TimedPredictor(**request, device=device)
                answer = {"device": words, "gpu": device.type != "cpu", "views": len(predictor.views)}
            else:
                answer = (predictor.keep if "cases" in request else predictor.predict)(**request)
        except Exception as error:  # must not affect other cases
            traceback.print_exc()
            found = find_data_error(error)
            answer = {"error": str(found or f"{type(error).__name__}: {error}")}
        channel.write(json.dumps({**answer, "warnings": warnings.take()}) + "\n")


if __name__ == "__main__":
    main()
