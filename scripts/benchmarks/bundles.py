"""Training of both bundles with their real configurations, as ``run plan`` measures it on phantoms."""

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from . import phantoms
from .measure import Row, attempt, show_seconds

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
SURFACE, LIVER = "vesuvius_surface_3d", "liver_tumor_2d"
SEED = {SURFACE: "about 11 s (the seed, A100)", LIVER: "about 2 s (the seed, P100)"}
GOALS = {SURFACE: {"step": "<= 0.25", "memory": "<= 20"}, LIVER: {}}
"""On a GPU, at the real size."""


@dataclass(frozen=True)
class Sizes:
    """How much work is measured: options of the bundles, and the sizes of the phantoms."""

    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    scroll: int = 192
    ct: int = 512
    slices: int = 48
    n_train: int = 5


ON_CPU = Sizes(
    options={
        SURFACE: {"batch_size": 1, "patch_size": [24, 48, 48], "stride": [12, 36, 36], "num_workers": 0},
        LIVER: {"batch_size": 2, "slice_size": [256, 256], "num_workers": 0},
    },
    scroll=96,
    ct=256,
    slices=16,
)
"""Time goes by the voxel, and a CPU has not the memory for more."""


def run(device: str, sizes: Sizes | None = None) -> list[Row]:
    """Seconds a step, voxels a second, memory, and what the run would take."""
    sizes = sizes or (Sizes() if device.startswith("cuda") else ON_CPU)
    return attempt((name, lambda name=name: _planned(name, device, sizes)) for name in (SURFACE, LIVER))


def _planned(bundle: str, device: str, sizes: Sizes) -> list[Row]:
    size = sizes.scroll if bundle == SURFACE else sizes.ct
    with TemporaryDirectory() as folder:
        data = phantoms.make(
            bundle, Path(folder, "data"), n_train=sizes.n_train, n_test=1, size=size, slices=sizes.slices
        )
        folders = {f"{kind}_dir": str(Path(folder, kind)) for kind in ("cache", "model", "output")}
        options = {"dataset_dir": str(data.training), "device": f"$torch.device('{device}')", **folders}
        root = BUNDLES / bundle
        flow = ConfigWorkflow(
            str(root / "configs" / "train.json"),
            workflow_type="train",
            bundle_root=str(root),
            **options,
            **sizes.options.get(bundle, {}),
        )
        flow.initialize()
        try:
            return _rows(bundle, flow, device.startswith("cuda") and bundle not in sizes.options)
        finally:
            set_determinism(None)


def _rows(bundle: str, flow: ConfigWorkflow, at_real_size: bool) -> list[Row]:
    parser = flow.parser
    numbers = parser.get_parsed_content("planner").run()
    shape = parser.get_parsed_content("train#trainer").state.batch["image"].shape
    step, goals = numbers["seconds_per_step"], GOALS[bundle] if at_real_size else {}
    where = f"{bundle}, {' x '.join(map(str, shape))}, {parser.get_parsed_content('precision')}"
    voxels = prod(shape[2:]) * shape[0]
    memory = numbers.get("gpu_memory_gib")
    epochs, steps = (parser.get_parsed_content(key) for key in ("epochs", "steps_per_epoch"))
    return [
        Row(f"{where}: a step, data included", show_seconds(step), SEED[bundle], step, goals.get("step", "")),
        Row("its voxels a second", f"{voxels / step / 1e6:.3g} million", "", None, ""),
        Row("its share of waiting for data", f"{numbers['data_wait']:.1%}", "", numbers["data_wait"], ""),
        Row("its main memory", f"{numbers['memory_gib']:.2f} GiB", "", None, ""),
        *([] if memory is None else [Row("its GPU memory", f"{memory:.2f} GiB", "", memory, goals.get("memory", ""))]),
        Row("a validation", show_seconds(numbers["validation_s"]), "", None, ""),
        Row(f"{epochs} epochs of {steps} steps", f"{numbers['run_h']:.3g} h", "", None, ""),
    ]
