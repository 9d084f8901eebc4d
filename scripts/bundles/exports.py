"""TorchScript and ONNX beside the weights, by MONAI's own commands, run as a user runs them."""

from pathlib import Path

import torch

from custom.errors import DataError
from custom.files import write_whole

from .process import last_line, run_python


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
    options = {
        "filepath": path.relative_to(bundle),
        "ckpt_file": "models/model.pt",
        "meta_file": "configs/metadata.json",
        "config_file": "configs/inference.json",
    }
    arguments = [f"--{key}={value}" for key, value in options.items()]
    done = run_python(["-m", "monai.bundle", command, "network_def", *arguments], bundle)
    if done.returncode or not path.is_file():
        raise DataError.of(f"{bundle.name}: {command}", last_line(done), "a network that it can export")
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
