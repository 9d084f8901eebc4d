"""A tiny bundle and small options, for tests of whole scrolls. Needs nothing of the extra scroll."""

import json
from pathlib import Path

import torch

ROI, STRIDE = (8, 12, 12), (4, 9, 9)
SHAPE = (28, 32, 26)
SMALL = {"chunk": 8, "shard": 16}
CONFIG = {
    "bundle_root": ".",
    "checkpoint": "$@bundle_root + '/models/model.pt'",
    "network_def": {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 2, "kernel_size": 3, "padding": 1},
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": -1, "b_max": 1},
        ],
    },
    "inferer": {
        "_target_": "custom.inferers.SlidingWindow",
        "roi_size": ROI,
        "overlap": [0.5, 0.25, 0.25],
        "activation": "softmax",
        "precision": "float32",
    },
}


def write_bundle(folder: Path, **changes) -> Path:
    """A bundle's folder: one convolution that tells where its window ends."""
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 2, 3, padding=1)
    network.weight.data *= 8
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(CONFIG | changes))
    (folder / "configs" / "metadata.json").write_text('{"version": "1.2.3"}')
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def write_version_2(path: Path, values, chunk: int) -> None:
    """Write values (z, y, x) as OME-Zarr 0.4 of one level, in nested folders."""
    import zarr

    group = zarr.create_group(str(path), zarr_format=2)
    group.create_array("0", data=values, chunks=(chunk,) * 3, chunk_key_encoding={"name": "v2", "separator": "/"})
    axes = [{"name": name, "type": "space"} for name in "zyx"]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0] * 3}]}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [level]}]


def grouped(**options) -> dict:
    """Arguments of predict_scroll, out of single options."""
    from custom.scroll.costs import Layout

    pieces = {key: options.pop(key) for key in ("region", "block", "chunk", "shard") if key in options}
    return {**options, "layout": Layout(**pieces)}


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
