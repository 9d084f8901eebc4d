"""Makes ``--tracking mlflow`` of MONAI's runner work with trainers that do not decollate their outputs."""

from collections.abc import Mapping
from typing import Any

from monai.handlers import MLFlowHandler

_log = MLFlowHandler._log_metrics


def log_metrics(self: MLFlowHandler, metrics: Mapping[str, Any], *args: Any, **kwargs: Any) -> None:
    """Log metrics; the runner extracts the loss of a trainer with ``decollate: false`` as a tuple of one."""
    single = {name: float(value[0]) if isinstance(value, tuple) else value for name, value in metrics.items()}
    _log(self, single, *args, **kwargs)


# The runner makes the handler itself, so no configuration can give it another transform of the output.
MLFlowHandler._log_metrics = log_metrics
