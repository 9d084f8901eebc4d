"""Makes ``--tracking mlflow`` of MONAI's runner work with trainers that do not decollate their outputs."""

from collections.abc import Mapping
from typing import Any

from monai.handlers import MLFlowHandler


def support_mlflow() -> None:
    """Let MONAI's handler log the loss of a trainer with ``decollate: false``, which arrives as a tuple of one.

    The runner makes that handler itself, so no configuration can give it another transform of the output.
    """
    log = MLFlowHandler._log_metrics

    def log_single(self: MLFlowHandler, metrics: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
        single = {name: float(value[0]) if isinstance(value, tuple) else value for name, value in metrics.items()}
        log(self, single, *args, **kwargs)

    MLFlowHandler._log_metrics = log_single
