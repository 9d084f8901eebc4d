"""What nnU-Net's plans and dataset.json decide about a prediction; what is not supported is refused by name."""

import re
from dataclasses import dataclass
from typing import Any

from custom.errors import DataError

from .model import Model

ARCHITECTURES = ("PlainConvUNet", "ResidualEncoderUNet")
READERS = {
    "SimpleITKIO": "file",
    "NibabelIO": "file",
    "Tiff3DIO": "file",
    "SimpleTiffIO": "file",
    "NibabelIOWithReorient": "RAS",
}
"""nnU-Net's readers, and the order of the axes in which they return a volume."""
TRAINERS = re.compile(
    r"nnUNetTrainer(_\d+epochs?|_warmup|Benchmark_5epochs(_noDataLoading)?|DA5(ord0|Segord0|_10epochs)?|NoDA"
    r"|_DASegOrd0(_NoMirroring)?|_noDummy2DDA|NoMirroring|_onlyMirror01(_\w+)?|_\d+epochs_NoMirroring|CosAnneal"
    r"|(Vanilla)?Adam\w*|Adan\w*|Dice\w*Loss\w*|Topk10Loss\w*|CELoss(_5epochs)?|NoDeepSupervision"
    r"|_probabilisticOversampling(_\d+)?|SkeletonRecall|MedialSurfaceRecall)?"
)
"""Trainers whose network and prediction are those of the plans, of nnU-Net 2.8 and of the surface competition."""
CONFIGURATION = {
    "data_identifier", "preprocessor_name", "batch_size", "patch_size", "median_image_size_in_voxels", "spacing",
    "normalization_schemes", "use_mask_for_norm", "resampling_fn_data", "resampling_fn_seg", "batch_dice",
    "resampling_fn_probabilities", "resampling_fn_data_kwargs", "resampling_fn_seg_kwargs", "architecture",
    "resampling_fn_probabilities_kwargs", "next_stage", "previous_stage", "inherits_from",
}  # fmt: skip
NEEDED = {
    "patch_size", "batch_size", "spacing", "normalization_schemes", "use_mask_for_norm", "architecture",
    "resampling_fn_data", "resampling_fn_probabilities",
}  # fmt: skip
PLANS = {
    "dataset_name", "plans_name", "original_median_spacing_after_transp", "original_median_shape_after_transp",
    "image_reader_writer", "transpose_forward", "transpose_backward", "configurations", "experiment_planner_used",
    "label_manager", "foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality",
}  # fmt: skip
OLD = {
    "UNet_class_name", "UNet_base_num_features", "n_conv_per_stage_encoder", "n_conv_per_stage_decoder",
    "num_pool_per_axis", "pool_op_kernel_sizes", "conv_kernel_sizes", "unet_max_num_features",
}  # fmt: skip
"""Fields that described the network before nnU-Net 2.4."""
NEEDED_PLANS = {"image_reader_writer", "transpose_forward", "configurations"}
DEFAULT_RESAMPLING = "resample_data_or_seg_to_shape"


@dataclass(frozen=True)
class Labels:
    """Meaning of the network's output.

    Attributes:
        activation: ``softmax`` over labels 0, 1, ..., or ``sigmoid`` of regions.
        heads: number of channels.
        order: the label of each region, later ones win; None for a softmax.
        regions: the labels in each region.
    """

    activation: str
    heads: int
    order: list[int] | None
    regions: list[list[int]] | None = None


@dataclass(frozen=True)
class Settings:
    """Everything that decides a prediction."""

    network: str
    architecture: dict[str, Any]
    patch_size: list[int]
    batch_size: int
    spacing: list[float]
    transpose: list[int]
    orientation: str
    normalization: dict[str, Any]
    order: int
    logits_order: int
    separate_z: bool | None
    mirroring: tuple[int, ...]
    labels: Labels


def settings_of(model: Model, *, trust_trainer: bool = False) -> Settings:
    """Return the settings of a model.

    Args:
        model: the model.
        trust_trainer: whether to accept a trainer that is not known to predict with the network of the plans.

    Raises:
        DataError: a field is unknown, or has a value that is not supported; named in one line.
    """
    check = _Refusal(f"{model.path}: {model.configuration}")
    check.known("plans", model.plans, PLANS)
    for name, content, needed in (
        ("plans.json", model.plans, NEEDED_PLANS),
        ("dataset.json", model.dataset, {"labels"}),
    ):
        if missing := needed - content.keys():
            check.refuse(name, f"no {', '.join(sorted(missing))}", "a complete one")
    if not (trust_trainer or TRAINERS.fullmatch(model.trainer)):
        check.refuse("trainer", model.trainer, "a known one, or --trust_trainer True if it predicts like nnUNetTrainer")
    check.one_of("label_manager", model.plans.get("label_manager", "LabelManager"), ["LabelManager"])
    reader = check.one_of("image_reader_writer", model.plans["image_reader_writer"], list(READERS))
    plan = _with_architecture(_configuration(model.plans, model.configuration, check))
    check.known("configuration", plan, CONFIGURATION)
    if plan.get("previous_stage"):
        check.refuse("previous_stage", plan["previous_stage"], "a model that is no cascade")
    check.one_of("preprocessor_name", plan.get("preprocessor_name", "DefaultPreprocessor"), ["DefaultPreprocessor"])
    if missing := NEEDED - plan.keys():
        check.refuse("configuration", f"no {', '.join(sorted(missing))}", "a complete one")
    network, architecture = _architecture(plan["architecture"], check)
    data, logits = (_resampling(plan, name, check) for name in ("data", "probabilities"))
    if data["force_separate_z"] != logits["force_separate_z"]:
        check.refuse("force_separate_z", "different for data and probabilities", "the same")
    channels = model.dataset.get("channel_names", model.dataset.get("modality", {}))
    if len(channels) != 1:
        check.refuse("channel_names", ", ".join(map(str, channels.values())), "a single channel")
    return Settings(
        network=network,
        architecture=architecture,
        patch_size=list(plan["patch_size"]),
        batch_size=int(plan["batch_size"]),
        spacing=[float(length) for length in plan["spacing"]],
        transpose=list(model.plans["transpose_forward"]),
        orientation=READERS[reader],
        normalization=_normalization(model.plans, plan),
        order=data["order"],
        logits_order=logits["order"],
        separate_z=data["force_separate_z"],
        mirroring=model.mirroring,
        labels=labels_of(model.dataset, check),
    )


class _Refusal:
    """Raises errors that name the model."""

    def __init__(self, place: str) -> None:
        self.place = place

    def refuse(self, name: str, found: object, expected: str) -> None:
        raise DataError.of(self.place, f"{name}: {found}", expected)

    def known(self, name: str, entries: dict[str, Any], known: set[str]) -> None:
        if unknown := sorted(entries.keys() - known):
            self.refuse(name, ", ".join(unknown), "the fields of nnU-Net 2.8 only: these might change the prediction")

    def one_of(self, name: str, value: Any, known: list[Any]) -> Any:
        if value not in known:
            self.refuse(name, value, " or ".join(map(str, known)))
        return value


def labels_of(dataset: dict[str, Any], check: _Refusal) -> Labels:
    """Return the meaning of the output, from ``dataset.json``; the ignore label is none of it."""
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    regions = [value for value in labels.values() if value not in (0, [0])]
    if any(isinstance(value, list) and len(value) > 1 for value in regions):
        order = dataset.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(regions):
            check.refuse("regions_class_order", order, f"{len(regions)} labels, one a region")
        listed = [value if isinstance(value, list) else [value] for value in regions]
        return Labels("sigmoid", len(regions), [int(label) for label in order], listed)
    values = sorted(int(value[0] if isinstance(value, list) else value) for value in labels.values())
    if values != list(range(len(values))):
        check.refuse("labels", values, "0, 1, 2, ...")
    return Labels("softmax", len(values), None)


def _configuration(plans: dict[str, Any], name: str, check: _Refusal, children: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a configuration, completed from those it inherits from."""
    if name not in plans["configurations"] or name in children:
        check.refuse("configuration", name, f"one of {', '.join(plans['configurations'])}, without circles")
    plan = plans["configurations"][name]
    parent = plan.get("inherits_from")
    return {**_configuration(plans, parent, check, (*children, name)), **plan} if parent else plan


def _with_architecture(plan: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of nnU-Net before 2.4 with its network described as today."""
    if "architecture" in plan or not plan.keys() >= OLD:
        return plan
    dims, stages = len(plan["patch_size"]), len(plan["n_conv_per_stage_encoder"])
    base, largest = plan["UNet_base_num_features"], plan["unet_max_num_features"]
    name = plan["UNet_class_name"]
    arguments = {
        "n_stages": stages,
        "features_per_stage": [min(base * 2**stage, largest) for stage in range(stages)],
        "conv_op": f"torch.nn.Conv{dims}d",
        "kernel_sizes": plan["conv_kernel_sizes"],
        "strides": plan["pool_op_kernel_sizes"],
        "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage": plan["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": plan["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": f"torch.nn.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
    }
    kept = {key: value for key, value in plan.items() if key not in OLD}
    return kept | {"architecture": {"network_class_name": f"unet.{name}", "arch_kwargs": arguments}}


def _architecture(found: dict[str, Any], check: _Refusal) -> tuple[str, dict[str, Any]]:
    name = check.one_of("architecture", found["network_class_name"].rpartition(".")[2], list(ARCHITECTURES))
    arguments = {key: value for key, value in found["arch_kwargs"].items() if key != "deep_supervision"}
    return name, {key: value for key, value in arguments.items() if value is not None}


def _resampling(plan: dict[str, Any], kind: str, check: _Refusal) -> dict[str, Any]:
    name, options = plan[f"resampling_fn_{kind}"], dict(plan.get(f"resampling_fn_{kind}_kwargs") or {})
    check.one_of(f"resampling_fn_{kind}", name, [DEFAULT_RESAMPLING])
    options = {"order": 3, "order_z": 0, "force_separate_z": False, "is_seg": False, **options}
    for key, value in options.items():
        if key in ("order_z", "is_seg") and value not in (0, False):
            check.refuse(f"resampling_fn_{kind}_kwargs: {key}", value, "0 or false")
        if key not in ("order", "order_z", "force_separate_z", "is_seg"):
            check.refuse(f"resampling_fn_{kind}_kwargs", key, "order, order_z, force_separate_z and is_seg")
    return options


def _normalization(plans: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    scheme, use_mask = plan["normalization_schemes"][0], plan["use_mask_for_norm"][0]
    names = ("foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality")
    properties = next((plans[name]["0"] for name in names if name in plans), {})
    used = ("mean", "std", "percentile_00_5", "percentile_99_5")
    found = {"scheme": scheme, "use_mask": use_mask} if use_mask else {"scheme": scheme}
    if scheme == "CTNormalization":
        found["properties"] = {name: properties[name] for name in used if name in properties}
    return found
