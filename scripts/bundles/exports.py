"""TorchScript and ONNX exports of the weights, using MONAI's commands."""

from pathlib import Path

import torch

from custom.errors import DataError
from custom.system.files import write_whole

from .process import last_line, run_python


def export_torchscript(bundle: Path) -> Path:
    """Write ``models/model.ts``: the network with its weights, including ``inference.json`` and the metadata."""
    path = bundle / "models" / "model.ts"
    options = {
        "filepath": "models/model.ts",
        "ckpt_file": "models/model.pt",
        "meta_file": "configs/metadata.json",
        "config_file": "configs/inference.json",
    }
    _export(bundle, path, "ckpt_export", "network_def", *(f"--{key}={value}" for key, value in options.items()))
    return write_whole(path, lambda file: _without_debug_records(path, file))


def export_onnx(bundle: Path) -> Path:
    """Write ``models/model.onnx`` according to ``configs/export_onnx.json``, with dynamic batch and sizes."""
    import onnx

    path = bundle / "models" / "model.onnx"
    _export(bundle, path, "onnx_export", "--args_file=configs/export_onnx.json")
    model = onnx.load(str(path))
    for node in model.graph.node:  # source locations on this machine
        node.ClearField("doc_string")
        del node.metadata_props[:]
    return write_whole(path, lambda file: onnx.save(model, str(file)))


def _export(bundle: Path, path: Path, *arguments: str) -> None:
    """Run a MONAI command in a bundle's folder, like a user."""
    done = run_python(["-m", "monai.bundle", *arguments], bundle)
    if done.returncode or not path.is_file():
        raise DataError.of(f"{bundle.name}: {arguments[0]}", last_line(done), "a network that it can export")


def _without_debug_records(source: Path, target: Path) -> None:
    """Copy a TorchScript file without the records of source lines on this machine."""
    reader = torch._C.PyTorchFileReader(str(source))
    writer = torch._C.PyTorchFileWriter(str(target))
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in ("version", ".data/version", ".data/serialization_id"):
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
