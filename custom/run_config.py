"""The configuration that a component was made from, as plain values."""

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monai.bundle import ConfigParser, ConfigWorkflow

NOT_OF_PREDICTIONS = (
    *("bundle_root", "dataset_dir", "cache_dir", "model_dir", "checkpoint", "output_dir", "cases"),  # where things are
    *("device", "evaluator#device", "dataloader", "num_workers", "threads", "providers"),  # how fast it goes
    *("batch_size", "slice_batch_size", "window_batch_size", "inferer#batch_size", "inferer#progress"),
    *("overwrite", "record", "settings", "hypothesis", "run_name"),
    *("imports", "initialize", "finalize", "run", "inferring"),
    *("save_execute_config", "tracking_uri", "experiment_name", "is_not_rank0"),  # set by MONAI's --tracking
)
"""Ids of a configuration that do not change a prediction beyond rounding."""


def running_parser() -> "ConfigParser | None":
    """The parser that is making the calling component; None outside of a bundle."""
    return _caller("ConfigParser")


def running_workflow() -> "ConfigWorkflow | None":
    """The workflow whose step makes the calling component; None where an application uses the parser by itself."""
    return _caller("ConfigWorkflow")


def _caller(name: str) -> Any:
    """The nearest caller that is an object of a class of ``monai.bundle``.

    MONAI hands components their arguments and nothing else, and what expressions see has no way to the parser, so it is
    looked for among the callers.
    """
    bundle = sys.modules.get("monai.bundle")  # not imported means not running
    frame = sys._getframe(2)
    while bundle is not None and frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, getattr(bundle, name)):
            return owner
        frame = frame.f_back
    return None


def plain_config(parser: "ConfigParser | None") -> dict[str, Any]:
    """The merged configuration with all overrides, as it can be run again.

    Its entries at the top (the knobs) are values where they are plain: what ``$`` expressions among them made is
    fixed. Only those that have been used so far are known, so this is best asked when training starts.
    """
    if parser is None:
        return {}
    made = parser.ref_resolver.resolved_content
    return {
        key: made[key] if key in made and is_plain(made[key]) else value
        for key, value in parser.get().items()
        if not key.startswith("_")
    }


def prediction_settings() -> dict[str, Any]:
    """All of an inference's configuration that can change what is predicted, by id; for a configuration to name.

    Left out is what :data:`NOT_OF_PREDICTIONS` lists. The weights and the images count by their content, see
    :class:`custom.data.predictions.PredictionRecord`.

    Raises:
        ValueError: it is not a configuration that asks.
    """
    parser = running_parser()
    if parser is None:
        raise ValueError("the settings of a prediction are those of a configuration; outside of one there are none")
    leaves = without_trackers(flatten(plain_config(parser)))
    return {key: value for key, value in leaves.items() if not _is_below(key, NOT_OF_PREDICTIONS)}


def _is_below(key: str, ids: Iterable[str]) -> bool:
    return any(key == id_ or key.startswith(f"{id_}#") for id_ in ids)


def without_trackers(leaves: dict[str, Any]) -> dict[str, Any]:
    """Entries of a configuration without the handlers that MONAI's --tracking appends to its lists."""
    trackers = tuple(key.removesuffix("_target_") for key, value in leaves.items() if value == "MLFlowHandler")
    return {key: value for key, value in leaves.items() if not key.startswith(trackers)} if trackers else leaves


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], shown: int = 5) -> str:
    """``threshold: 0.5, now 0.9``: the entries that are not the same, the first of them with both values."""
    keys = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    text = "; ".join(f"{key}: {_show(saved, key)}, now {_show(now, key)}" for key in keys[:shown])
    return text + (f" and {len(keys) - shown} more" if len(keys) > shown else "")


def _show(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return "absent"
    text = repr(settings[key])
    return text if len(text) <= 60 else f"{text[:57]}..."


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by their id: ``{"network_def#init_filters": 40, ...}``."""
    if not isinstance(config, dict | list) or not config:
        return {prefix: config}
    items = config.items() if isinstance(config, dict) else enumerate(config)
    leaves: dict[str, Any] = {}
    for key, value in items:
        leaves.update(flatten(value, f"{prefix}#{key}" if prefix else str(key)))
    return leaves


def is_plain(value: Any) -> bool:
    """Whether JSON holds the value without loss."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)
