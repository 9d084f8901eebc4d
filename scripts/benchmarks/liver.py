"""The liver bundle's version V2: volumes predicted beside MONAI's slice inferer.

Decides that volumes are predicted by an inferer of our own. What a training takes on the data and the card at hand:
``python -m monai.bundle run plan``.
"""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.inferers import SliceInferer

from scripts.phantoms import write_abdomens

from custom.data import PatchDataset, StreamLoader, VolumeCache
from custom.inferers import SliceVolumeInferer
from custom.inferers.common import autocast_to
from custom.transforms import LabelToRegionsd

from .measure import FULL, LIVER, Row, dice, interleaved, read_config, share_outside, show_seconds, taught


@dataclass(frozen=True)
class Sizes:
    """Amounts of work; tests use smaller ones."""

    size: int = 512
    slices: int = 8
    batch: int = 4
    repeats: int = 3
    crop: int = 128
    crops: int = 8
    warm_up_steps: int = 200


def run(device: str, sizes: Sizes = Sizes()) -> list[Row]:  # noqa: B008
    """Time of a whole volume, its masks, and the fraction of time outside of the network."""
    with TemporaryDirectory() as folder:
        data = write_abdomens(Path(folder, "data"), n_train=4, n_test=1, size=sizes.size, slices=sizes.slices)
        parser = read_config(LIVER, "train", *FULL[LIVER])
        options = {"dataset_dir": str(data), "cache_dir": str(Path(folder, "cache")), "n_folds": 4, "num_workers": 0}
        parser.update({**options, "device": device})
        return _inference(parser, device, sizes)


def _inference(parser: ConfigParser, device: str, sizes: Sizes) -> list[Row]:
    volumes = parser.get_parsed_content("train#dataset").volumes
    network = _trained(parser.get_parsed_content("network_def"), volumes, device, sizes)
    (item,) = parser.get_parsed_content("validate#dataset")
    image = item["image"][None].to(device)

    ours = SliceVolumeInferer(sw_batch_size=sizes.batch, divisor=32)
    theirs = SliceInferer(roi_size=image.shape[3:], sw_batch_size=sizes.batch, spatial_dim=0)
    on_gpu, outputs = device.startswith("cuda"), {}

    def predict_ours() -> None:
        outputs["ours"] = ours(image, network)

    @torch.no_grad()
    def predict_theirs() -> None:
        with autocast_to("auto" if on_gpu else "float32", torch.device(device)):
            outputs["theirs"] = theirs(image, network).float().sigmoid()

    equal = SliceVolumeInferer(sw_batch_size=sizes.batch, divisor=32, precision="float32")
    works = [predict_ours, predict_theirs] if on_gpu else [predict_ours, predict_theirs, lambda: equal(image, network)]
    times = interleaved(works, repeats=sizes.repeats, device=device)
    what = f"{sizes.slices} slices of {sizes.size}x{sizes.size}, batch {sizes.batch}"
    goal = "" if on_gpu else ">= 1.5"
    rows = [Row(f"whole volume, {what}", *map(show_seconds, times[:2]), times[1] / times[0], goal)]
    if not on_gpu:  # MONAI's ran in the same precision there
        seconds = (times[2], times[1])
        rows.insert(0, Row(f"{rows[0].what}, both in float32", *map(show_seconds, seconds), times[1] / times[2], ""))
    found, expected = (outputs[name] >= 0.5 for name in ("ours", "theirs"))
    rows += [
        Row(f"Dice of the two, {region}", f"{int(a.sum())} voxels", f"{int(b.sum())} voxels", dice(a, b), ">= 0.999")
        for region, a, b in zip(("liver", "tumour"), found[0], expected[0], strict=True)
        if region == "liver" or b.any()
    ]
    share = share_outside(lambda timed: ours(image, timed), network, device)
    return [*rows, Row("share of the inferer's time outside the network", f"{share:.1%}", "", share, "<= 0.05")]


def _trained(network: torch.nn.Module, volumes: VolumeCache, device: str, sizes: Sizes) -> torch.nn.Module:
    """Return the network after training on crops, since an untrained one has many voxels near the threshold."""
    crop = (1, sizes.crop, sizes.crop)
    patches = PatchDataset(data=volumes, patch_size=crop, seed=0, foreground_share=0.7, transform=_windowed)
    loss = read_config(LIVER, "train").get_parsed_content("loss")
    with closing(iter(StreamLoader(dataset=patches, batch_size=sizes.crops))) as batches:
        slices = ([batch[key][:, :, 0].to(device) for key in ("image", "label")] for batch in batches)
        return taught(network.to(device), loss, slices, sizes.warm_up_steps)


def _windowed(item: dict[str, Any]) -> dict[str, Any]:
    """HU of [-100, 200] as [0, 1], the label as regions."""
    item = LabelToRegionsd("label")(item)
    return {"image": ((item["image"].float() + 100) / 300).clamp(0, 1), "label": item["label"]}
