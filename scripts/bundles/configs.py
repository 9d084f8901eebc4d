"""Export of a bundle's configurations."""

import json
import re
import shutil
from itertools import product
from pathlib import Path
from typing import Any

from custom.errors import DataError
from custom.system.files import write_json

Config = dict[str, Any]


def read_json(path: Path) -> Config:
    """Return a JSON object.

    Raises:
        DataError: the file is missing or does not contain one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError.of(path, "no such file", "a JSON file") from None
    except (ValueError, OSError, RecursionError) as error:
        raise DataError.of(path, f"{type(error).__name__}: {error}", "a JSON file") from None
    if not isinstance(content, dict):
        raise DataError.of(path, type(content).__name__, "a JSON object")
    return content


def export_configs(source: Path, folder: Path, variant: Path | None = None) -> Config:
    """Copy ``source`` (a bundle's configs) to ``folder``; returns the metadata.

    Args:
        source: folder of configurations.
        folder: folder to write to.
        variant: an override file to merge into ``train.json`` and, for entries that it has, into ``inference.json``;
            the metadata then describe the channels and input sizes of its network.
    """
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(".*"))
    metadata = read_json(folder / "metadata.json")
    if variant is not None:
        for name in ("train", "inference"):
            _apply(read_json(variant), folder / f"{name}.json", whole=name == "train")
        _set_channels(metadata, read_json(folder / "inference.json")["network_def"])
        _set_sizes(metadata, folder / "inference.json")
        write_json(folder / "metadata.json", metadata, indent=4)
    return metadata


def check_version(metadata: Config, path: Path) -> str:
    """Return the bundle's version, which must be the newest in its changelog.

    Raises:
        DataError: it is not.
    """
    version, changelog = str(metadata.get("version")), metadata.get("changelog")
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise DataError.of(path, f"version {version}", "three numbers, such as 0.1.0")
    if not isinstance(changelog, dict) or version not in changelog:
        raise DataError.of(path, f"version {version} without an entry in its changelog", "one that says what is new")
    newest = max(changelog, key=lambda entry: [int(part) if part.isdigit() else -1 for part in entry.split(".")])
    if newest != version:
        raise DataError.of(path, f"version {version} and a changelog up to {newest}", "the changelog's newest version")
    return version


def _apply(changes: Config, path: Path, *, whole: bool) -> None:
    from monai.bundle import ConfigParser  # slow to load: not for --help

    config = read_json(path)
    parser = ConfigParser(config)
    for key, value in changes.items():
        if whole or key.split("#")[0] in config:
            parser[key] = value
    write_json(path, _without_unread(parser.get(), read_json(path)), indent=4)


def _without_unread(config: Config, before: Config) -> Config:
    """Leave out the options that the variant leaves unread, which a run would refuse."""
    from custom.configuration.references import References

    read_before = References(before)
    while True:
        references = References(config)
        kept = {key: value for key, value in config.items() if references.reach(key) or not read_before.reach(key)}
        if len(kept) == len(config):
            return config
        config = kept


def _set_channels(metadata: Config, network: Config) -> None:
    """Set the network's input and output channels in the metadata, as far as its arguments define them."""
    network = network.get("network", network)  # of an ensemble, its members'
    formats = metadata["network_data_format"]
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    for channels, tensor, meanings in (
        (network.get("in_channels"), image, ["image"]),
        (network.get("out_channels"), pred, list(pred["channel_def"].values())),
    ):
        if isinstance(channels, int) and channels != tensor["num_channels"]:
            tensor["num_channels"] = channels
            tensor["channel_def"] = {str(i): meanings[min(i, len(meanings) - 1)] for i in range(channels)}


def _set_sizes(metadata: Config, inference: Path) -> None:
    """Set the sizes of which the network takes multiples in the metadata: those given, or twice or four times those."""
    import torch  # slow to load: not for --help
    from monai.bundle import ConfigParser

    image, pred = (
        metadata["network_data_format"][side][name] for side, name in (("inputs", "image"), ("outputs", "pred"))
    )
    if not all(re.fullmatch(r"\d+\*n", str(size)) for size in image["spatial_shape"]):
        return
    given = [int(size.partition("*")[0]) for size in image["spatial_shape"]]
    network = ConfigParser(read_json(inference)).get_parsed_content("network_def").eval()

    def takes(*sizes: int) -> bool:
        try:
            with torch.no_grad():
                answer = network(torch.zeros(1, image["num_channels"], *sizes))
        except (RuntimeError, ValueError):  # unsuitable sizes raise within the network
            return False
        return tuple(answer.shape[2:]) == sizes

    # a volume if the network takes no slices
    for axes, factor in product((given, [given[0] // 2, *given]) if len(given) == 2 else (given,), (1, 2, 4)):
        sizes = [factor * size for size in axes]
        # once: normalisation needs several positions; three times: not a multiple of the next factor
        if takes(*sizes) and takes(*(3 * size for size in sizes)):
            image["spatial_shape"] = pred["spatial_shape"] = [f"{size}*n" for size in sizes]
            return
    raise DataError.of(inference, "a network that takes none of the sizes in metadata.json", "one that does")
