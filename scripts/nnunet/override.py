"""Override files with which a bundle predicts and trains like an imported model."""

from pathlib import Path
from typing import Any

from custom.errors import DataError

from .settings import Settings

Config = dict[str, Any]

FLIPS = ("depth", "vertical", "horizontal")
SURFACE, LIVER = "vesuvius_surface_3d", "liver_tumor_2d"


def override_for(bundle: str, settings: Settings, members: int) -> Config:
    """Return what to merge into a bundle's ``train.json`` and ``inference.json``.

    Args:
        bundle: name of the bundle.
        settings: of the model.
        members: number of folds; the network of several is an ensemble of them.

    Raises:
        DataError: the bundle cannot express the model.
    """
    network = {
        "_target_": f"custom.networks.{settings.network}",
        "in_channels": 1,
        "out_channels": settings.labels.heads,
        "architecture": settings.architecture,
        "deep_supervision": bundle == SURFACE,  # whose losses take it
    }
    if members > 1:
        network = {"_target_": "custom.networks.Ensemble", "network": network, "count": members, "activation": None}
    shared = {
        "tta": [FLIPS[-len(settings.patch_size) :][axis] for axis in settings.mirroring],
        "network_def": network,
        "normalize": {"_target_": "custom.transforms.NormalizeNnunetd", "keys": "image", **settings.normalization},
    }
    own = _surface(settings) if bundle == SURFACE else _liver(settings)
    if bundle == LIVER and members > 1:
        own["options"]["n_context"] = 0  # otherwise follows from the network's input channels, which an ensemble hides
    if len(settings.patch_size) == 3:  # as nnU-Net does: batches of such windows take memory and save no time
        own["options"]["sw_batch_size"] = 1
    return {**own.pop("options"), **shared, **own}


def _inferer(settings: Settings, **options: Any) -> Config:
    same = ("spacing", "transpose", "orientation", "order", "logits_order", "separate_z")
    return {
        "_target_": "custom.inferers.NnunetInferer",
        **{name: getattr(settings, name) for name in same},
        "activation": settings.labels.activation,
        "tta": "@tta",
        "sw_batch_size": "@sw_batch_size",
        "precision": "@precision",
        "progress": True,
        **options,
    }


def _window(settings: Settings) -> list[int]:
    """(D, H, W); windows of a 2-D network are one slice thick."""
    return [1] * (3 - len(settings.patch_size)) + settings.patch_size


def _surface(settings: Settings) -> Config:
    labels = settings.labels
    if labels.heads != (2 if labels.activation == "softmax" else 1):
        found = f"labels: {labels.heads} channels with {labels.activation}"
        raise DataError.of("the model", found, f"background and surface, for the bundle {SURFACE}")
    if set(settings.spacing) != {1.0}:
        raise DataError.of("the model", f"spacing: {settings.spacing}", "1, since TIFF and scrolls have no spacing")
    windows = {"roi_size": "@patch_size", "overlap": "@overlap", "stride": "@stride"}
    return {
        "options": {"patch_size": _window(settings), "overlap": [0.5, 0.5, 0.5]},
        "inferer": _inferer(settings, channels=[labels.heads - 1], **windows),
    }


def _liver(settings: Settings) -> Config:
    labels = settings.labels
    if labels.order is None:
        to_label = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
        largest = labels.heads - 1
    else:
        to_label = {"_target_": "custom.transforms.RegionsToLabeld", "keys": "pred", "labels": labels.order}
        to_label["thresholds"] = "@threshold"
        largest = max(labels.order)
    if largest > 2:
        raise DataError.of("the model", f"labels up to {largest}", f"liver 1 and tumor 2, for the bundle {LIVER}")
    return {
        "options": {"clean_liver": False, "regions": labels.regions or [[label] for label in range(labels.heads)]},
        "to_label": to_label,
        "inferer": _inferer(settings, roi_size=_window(settings), overlap=0.5),
    }


def training_for(bundle: str, settings: Settings, weights: Path) -> Config | None:
    """Return what training from the weights needs besides; None if the bundle cannot train the network.

    Normalisation must not depend on the whole volume. The surface bundle trains 3-D patches, the liver bundle slices,
    in the spacing that they have.
    """
    fixed = settings.normalization["scheme"] not in ("ZScoreNormalization", "RescaleTo01Normalization")
    surface, labels = bundle == SURFACE, settings.labels
    if not fixed or settings.transpose != [0, 1, 2] or len(settings.patch_size) != (3 if surface else 2):
        return None
    if surface and labels.heads != 2:
        return None
    own: Config = {} if surface else {"slice_size": settings.patch_size}
    if labels.order is None and not surface:
        own["loss"] = {"_target_": "DiceCELoss", "softmax": True, "include_background": False, "batch": True}
    elif not surface and labels.regions != [[1, 2], [2]]:
        return None
    return {
        "hypothesis": "Fine-tuning of a network trained by nnU-Net.",
        "batch_size": settings.batch_size,
        "learning_rate": 1e-4,
        **own,
        "initial_weights": str(weights.resolve()),
        "trained_layers": ["*"],
        "module": {
            "_target_": "custom.networks.start_from",
            "network": "$@network_def.to(@device)",
            "weights": "@initial_weights",
            "trained": "@trained_layers",
        },
    }
