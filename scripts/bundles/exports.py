"""TorchScript and ONNX beside the weights, by MONAI's own commands, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from custom.errors import DataError
from custom.files import write_whole


def bundle_command(command: str, folder: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess:
    """``python -m monai.bundle COMMAND`` in a folder, without a PYTHONPATH and without leaving bytecode behind."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    # TorchScript writes attributes in the order of a set, which is another one for every seed of Python's hashes.
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"}
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", command, *arguments, *(f"--{key}={options[key]}" for key in options)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def export_torchscript(bundle: Path) -> Path:
    """Write ``models/model.ts``: the network with its weights, and ``inference.json`` and the metadata in it."""
    path = _export("ckpt_export", bundle, bundle / "models" / "model.ts")
    return write_whole(path, lambda file: _without_debug_records(path, file))


def export_onnx(bundle: Path) -> Path:
    """Write ``models/model.onnx``."""
    import onnx

    path = _export("onnx_export", bundle, bundle / "models" / "model.onnx")
    model = onnx.load(str(path))
    for node in model.graph.node:  # where in which file of this machine it came from
        node.ClearField("doc_string")
        del node.metadata_props[:]
    return write_whole(path, lambda file: onnx.save(model, str(file)))


def _export(command: str, bundle: Path, path: Path) -> Path:
    done = bundle_command(
        command,
        bundle,
        "network_def",
        filepath=path.relative_to(bundle),
        ckpt_file="models/model.pt",
        meta_file="configs/metadata.json",
        config_file="configs/inference.json",
    )
    if done.returncode or not path.is_file():
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise DataError.of(f"{bundle.name}: {command}", reason, "a network that it can export")
    return path


def _without_debug_records(source: Path, target: Path) -> None:
    """Copy a TorchScript file without the records that tell which line of which file on this machine made what."""
    reader = torch._C.PyTorchFileReader(str(source))
    writer = torch._C.PyTorchFileWriter(str(target))
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in ("version", ".data/version", ".data/serialization_id"):
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
