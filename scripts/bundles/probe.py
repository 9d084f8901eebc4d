"""Runs a bundle's workflows and compares its network's forms, where nothing else has the name ``scripts``.

    python probe.py BUNDLE WORKFLOWS

WORKFLOWS is a JSON object: the arguments of ``python -m monai.bundle run`` by the name of a check. Prints one JSON list
a line: name of the check, whether it passed, what was found.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

TOLERANCE = 1e-4
Check = Callable[[], str]


class Probe:
    """The checks of one bundle's network."""

    def __init__(self, bundle: Path) -> None:
        from monai.bundle import ConfigParser
        from monai.bundle.scripts import _get_fake_spatial_shape

        self.bundle = bundle
        self.config = str(bundle / "configs" / "inference.json")
        self.meta = str(bundle / "configs" / "metadata.json")
        self.weights = str(bundle / "models" / "model.pt")
        image = ConfigParser.load_config_file(self.meta)["network_data_format"]["inputs"]["image"]
        self.sizes = [(image["num_channels"], *_get_fake_spatial_shape(image["spatial_shape"], n=n)) for n in (1, 2)]

    def network_in_and_out(self) -> str:
        from monai.bundle import verify_net_in_out

        verify_net_in_out("network_def", meta_file=self.meta, config_file=self.config, n=1, p=1, any=32, device="cpu")
        return f"{' x '.join(map(str, self.sizes[0]))} in, channels and type as in metadata.json"

    def network_and_weights(self) -> str:
        self.network = self._network()
        state = torch.load(self.weights, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state, strict=True)
        return f"all {len(state)} tensors of model.pt fit network_def"

    def torchscript_export(self) -> str:
        from monai.bundle import ckpt_export

        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "model.ts"))
            ckpt_export(
                "network_def",
                filepath=path,
                ckpt_file=self.weights,
                meta_file=self.meta,
                config_file=self.config,
                bundle_root=str(self.bundle),
            )
            return f"ckpt_export works, {self._compare(torch.jit.load(path, map_location='cpu').eval())}"

    def torchscript_file(self) -> str:
        path = self.bundle / "models" / "model.ts"
        if not path.is_file():
            return "no models/model.ts"
        return f"models/model.ts, {self._compare(torch.jit.load(path, map_location='cpu').eval())}"

    def onnx_file(self) -> str:
        path = self.bundle / "models" / "model.onnx"
        if not path.is_file():
            return "no models/model.onnx"
        try:
            import onnxruntime
        except ImportError:
            return "models/model.onnx not compared: onnxruntime is not installed"
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def predict(image: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.run(None, {name: image.numpy()})[0])

        return f"models/model.onnx, {self._compare(predict)}"

    @property
    def checks(self) -> dict[str, Check]:
        """By name; each returns what it found, or raises."""
        return {
            "network in and out": self.network_in_and_out,
            "network and weights": self.network_and_weights,
            "TorchScript export": self.torchscript_export,
            "model.ts": self.torchscript_file,
            "model.onnx": self.onnx_file,
        }

    def _network(self) -> torch.nn.Module:
        from monai.bundle import ConfigParser

        return ConfigParser(ConfigParser.load_config_file(self.config)).get_parsed_content("network_def").eval()

    @torch.no_grad()
    def _compare(self, other: Callable[[torch.Tensor], torch.Tensor]) -> str:
        """How far another form of the network is from it, at two sizes."""
        largest = 0.0
        for channels, *shape in self.sizes:
            image = torch.rand(1, channels, *shape, generator=torch.Generator().manual_seed(0))
            expected, found = self.network(image), other(image)
            if found.shape != expected.shape:
                raise ValueError(f"shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
            torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
            largest = max(largest, float((found - expected).abs().max()))
        return f"equal to eager within {TOLERANCE:g} at two sizes (largest difference {largest:.1e})"


def run_workflow(arguments: dict[str, Any]) -> str:
    """Run a workflow of the bundle, whose package MONAI's runner has to find by itself."""
    from monai.bundle import run

    run(**arguments)
    return "on phantoms, from a foreign folder, without a PYTHONPATH"


def results(checks: dict[str, Check]) -> Iterator[tuple[str, bool, str]]:
    """The name of each check, whether it passed, and what was found."""
    for name, check in checks.items():
        try:
            yield name, True, check()
        except (Exception, SystemExit) as error:  # whatever the bundle's code raises is what is wrong with it
            while error.__cause__:  # MONAI wraps what went wrong in what it was doing
                error = error.__cause__
            yield name, False, f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


def main(bundle: Path, workflows: dict[str, dict[str, Any]]) -> None:
    """Print a line for each check; what the bundle's code prints goes to stderr."""
    lines, sys.stdout = sys.stdout, sys.stderr
    sys.path.pop(0)  # the folder of this file
    checks = {name: partial(run_workflow, arguments) for name, arguments in workflows.items()}
    for result in results(checks):
        print(json.dumps(result), file=lines, flush=True)
    sys.path.insert(0, str(bundle))
    for result in results(Probe(bundle).checks):
        print(json.dumps(result), file=lines, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), json.loads(sys.argv[2]))
