"""Soak test of both bundles: many training items and many steps."""

import sys
import tempfile
import time
from pathlib import Path

from scripts.command_line import command_line

BUNDLES = ("vesuvius_surface_3d", "liver_tumor_2d")


def soak(items: int = 10_000, steps: int = 2000, num_workers: int = 2, size: int = 48) -> None:
    """Run augmentation and training of both bundles' train.json on phantoms and on extreme volumes.

    The volumes are saturated, constant, empty, completely ignored, with a single labelled voxel, or thinner than a
    patch. After every transform of batches, values must be finite and within the input's range, and labels valid.
    Then train.json runs with all losses, handlers, validations and checkpoints, but with a network of one layer and
    small patches.

    Exits with 1 if there is any fault, after listing them.

    Example: OMP_NUM_THREADS=1 python scripts/soak.py --items 10000 --steps 2000

    Args:
        items: training items of each bundle.
        steps: optimizer steps of each bundle.
        num_workers: worker processes of the training's loader.
        size: edge of the cubes, rows and columns of the slices.
    """
    from scripts.soaking.chain import run_chain
    from scripts.soaking.dataset import write_dataset
    from scripts.soaking.training import run_training, workflow

    faults = []
    with tempfile.TemporaryDirectory() as temporary:
        for bundle in BUNDLES:
            started = time.monotonic()
            folder = Path(temporary, bundle)
            folder.mkdir()
            data = write_dataset(bundle, folder, size)
            options = {"steps": steps, "num_workers": num_workers}
            flow = workflow(bundle, data, folder, **options)
            shape = flow.parser["patch_size" if bundle == "vesuvius_surface_3d" else "slice_size"]
            parts = [flow.parser.get_parsed_content(f"train#{key}") for key in ("dataset", "batch_transforms")]
            found = run_chain(*parts, items, shape, bundle)
            print(f"{bundle}: {items} items, {len(found)} faults, {time.monotonic() - started:.0f} s", flush=True)
            found += run_training(workflow(bundle, data, folder, **options), folder)
            seconds = time.monotonic() - started
            print(f"{bundle}: {steps} steps, {len(found)} faults in all, {seconds:.0f} s", flush=True)
            faults += [f"{bundle}: {fault}" for fault in found]
    if faults:
        sys.exit("\n".join([*faults, f"error: found {len(faults)} faults, expected none"]))
    print("No faults.")


if __name__ == "__main__":
    command_line(soak, "soak.py")
