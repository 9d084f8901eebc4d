"""Export a bundle that does not depend on this repository: a folder, a zip file and their checksums."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from scripts.bundles.archive import write_sums, zip_folder
from scripts.bundles.configs import check_version, export_configs, read_json
from scripts.command_line import command_line

from custom.errors import DataError
from custom.system.identity import sha256

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
LARGE = 25 * 10**6
"""Files above this size in bytes have to be listed in large_files.yml for the model zoo."""
RUNS = ("models/checkpoints", "models/model_final.pt", "eval", "cache")
"""What training and inference write into a bundle's folder."""


def export_bundle(
    name: str,
    output: str = "dist",
    weights: str | None = None,
    variant: str | None = None,
    torchscript: bool = False,
    onnx: bool = False,
    large_files_url: str | None = None,
) -> Path:
    """Write <output>/<name>/, <output>/<name>_v<version>.zip and <output>/SHA256SUMS.

    The bundle contains its licence, documents, configurations and weights, and the parts of the package custom that it
    needs, as its own package scripts. The same sources and weights yield the same zip file, byte for byte.

    Example: python scripts/export_bundle.py liver_tumor_2d --output dist --weights models/model.pt --torchscript True

    Args:
        name: name of the bundle, a folder in bundles/.
        output: output folder.
        weights: model.pt, model_final.pt, or a checkpoint of a run, whose averaged weights (EMA) are exported. Default:
            the bundle's models/model.pt; if it does not exist, the bundle is exported without weights, for training.
        variant: the override file that the weights were trained with: its name in the bundle's configs, or a path. It
            is merged into the exported train.json and inference.json.
        torchscript: also write models/model.ts.
        onnx: also write models/model.onnx.
        large_files_url: base URL at which you will publish files above 25 MB. They are listed with their checksums in
            large_files.yml (<large_files_url>/models/model.pt), and remain in the folder and the zip file.

    Raises:
        DataError: something is missing or inconsistent; nothing is written.
    """
    source, folder = BUNDLES / str(name), Path(str(output)) / str(name)
    if not (source / "configs" / "metadata.json").is_file():
        names = sorted(path.parents[1].name for path in BUNDLES.glob("*/configs/metadata.json"))
        raise DataError.of(f"bundle {name}", "no such folder in bundles/", " or ".join(names))
    if folder.exists() and not (folder / "configs" / "metadata.json").is_file():
        raise DataError.of(folder, "a folder that is not a bundle", "an earlier export, or no such folder")
    if kept := _not_to_be_lost(folder, source):
        raise DataError.of(folder, kept, "an unmodified earlier export, or another --output")
    own = source / "models" / "model.pt"
    file = own if own.is_file() else None
    if weights is not None:
        file = Path(str(weights))
    if file is None and (torchscript or onnx):
        raise DataError.of(f"bundle {name}", "no weights", "--weights, which model.ts and model.onnx are made from")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export_", dir=folder.parent) as building:
        made = Path(building) / folder.name
        version = _fill(made, source, file, _variant_file(source, variant))
        if torchscript or onnx:
            from scripts.bundles.exports import export_onnx, export_torchscript

            for export in [export_torchscript] * bool(torchscript) + [export_onnx] * bool(onnx):
                export(made)
        if large_files_url:
            _list_large_files(made, str(large_files_url))
        archive = zip_folder(made, folder.parent / f"{folder.name}_v{version}.zip")
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    write_sums(folder.parent, [archive, folder])
    return archive


def _not_to_be_lost(folder: Path, source: Path) -> str | None:
    """What an export into the folder would delete although it cannot be exported again."""
    if folder.resolve() == source.resolve():
        return "the bundle itself"
    return next((f"{name}, which exports do not contain" for name in RUNS if (folder / name).exists()), None)


def _variant_file(source: Path, variant: str | None) -> Path | None:
    if variant is None:
        return None
    if Path(str(variant)).is_file():
        return Path(str(variant))
    file = source / "configs" / f"{variant}.json"
    if not file.is_file():
        raise DataError.of(f"variant {variant}", "no such file", f"the name of a configuration in {file.parent}")
    return file


def _fill(bundle: Path, source: Path, weights: Path | None, variant: Path | None) -> str:
    """Write everything except TorchScript and ONNX; returns the version."""
    from scripts.bundles.documents import keep_within  # slow to load from here on: not for --help
    from scripts.bundles.vendoring import vendor_for

    metadata = export_configs(source / "configs", bundle / "configs", variant)
    version = check_version(metadata, source / "configs" / "metadata.json")
    if weights is not None:
        _copy_weights(weights, bundle)
    shutil.copyfile(source / "LICENSE", bundle / "LICENSE")
    shutil.copytree(source / "docs", bundle / "docs", ignore=shutil.ignore_patterns(".*"))
    vendor_for(bundle)
    keep_within(bundle)
    return version


def _copy_weights(path: Path, bundle: Path) -> None:
    """Write a flat state dict; equal weights give identical bytes."""
    import torch
    from monai.bundle import ConfigParser

    from scripts.bundles.weights import read_weights

    from custom.configuration import Configuration
    from custom.handlers.load_weights import different_settings
    from custom.system.state_dict import misfit

    state = read_weights(path)
    parser = ConfigParser(read_json(bundle / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def")
    if wrong := misfit(state, network.state_dict()):
        expected = f"those of network_def, {type(network).__name__}; use --variant for the file they were trained with"
        raise DataError.of(path, f"weights of another network ({wrong})", expected)
    if text := different_settings(path, Configuration(parser).effective()):
        raise DataError.of(path, f"weights trained with other settings ({text})", "--variant, a file that sets them")
    (bundle / "models").mkdir()
    state = {key: value.detach().contiguous().clone() for key, value in state.items()}
    torch.save(state, bundle / "models" / "model.pt")


def _list_large_files(bundle: Path, url: str) -> None:
    """Write the list for ``python -m monai.bundle download_large_files``."""
    lines = ["large_files:"]
    for path in sorted(path for path in bundle.rglob("*") if path.is_file() and path.stat().st_size > LARGE):
        name = path.relative_to(bundle).as_posix()
        values = {"path": name, "url": f"{url.rstrip('/')}/{name}", "hash_val": sha256(path), "hash_type": "sha256"}
        lines += [f"{'- ' if key == 'path' else '  '}{key}: {json.dumps(value)}" for key, value in values.items()]
    if len(lines) > 1:
        (bundle / "large_files.yml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Run the command line."""
    archive = command_line(export_bundle, "export_bundle.py")
    if isinstance(archive, Path):
        bundle = archive.parent / archive.name.rpartition("_v")[0]
        if not (bundle / "models" / "model.pt").is_file():
            print("warning: exported without weights (no --weights, no models/model.pt in the bundle)", file=sys.stderr)
        print(f"{archive} ({archive.stat().st_size / 1e6:.1f} MB), unpacked in {bundle}")


if __name__ == "__main__":
    main()
