"""Use exported bundles as others' programs do, in a process that knows nothing of the repository.

    python consumers_driver.py OUTPUT.json BUNDLE_FOLDER=IMAGE ...

What it does stands for the programs named in the functions: it reads the same files and keys in the same order.
"""

import json
import logging
import os
import sys
from pathlib import Path

import itk
import nibabel
import numpy as np
import torch
from monai.bundle import ConfigParser, create_workflow, load
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged

PACKAGE = "scripts"


def forget_package():
    for name in [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]


def parser_of(bundle, *configs):
    parser = ConfigParser()
    parser.read_meta(json.loads((bundle / "configs" / "metadata.json").read_text()))
    parser.read_config([str(bundle / "configs" / f"{config}.json") for config in configs])
    return parser


def read(path):
    """Array and affine, by the libraries themselves."""
    if path.suffix == ".tif":
        return itk.array_from_image(itk.imread(str(path))), np.eye(4)
    image = nibabel.load(path)
    return np.asarray(image.dataobj), image.affine


def counts(prediction):
    values, number = np.unique(np.asarray(prediction), return_counts=True)
    return {str(int(value)): int(n) for value, n in zip(values, number, strict=True)}


def monai_load(bundle, image):
    """``monai.bundle.load``: network and weights, and TorchScript with its configuration."""
    network = load(bundle.name, bundle_dir=str(bundle.parent), workflow_type="inference", device="cpu").eval()
    found = {"network": type(network).__name__}
    if not (bundle / "models" / "model.ts").is_file():
        return found
    script, metadata, extra = load(
        bundle.name, bundle_dir=str(bundle.parent), load_ts_module=True, config_files=("inference.json",), device="cpu"
    )
    image_format = metadata["network_data_format"]["inputs"]["image"]
    x = torch.rand(1, image_format["num_channels"], *[64] * len(image_format["spatial_shape"]))
    with torch.no_grad():
        difference = (network(x) - script(x)).abs().max().item()
    return {**found, "difference": difference, "extra": sorted(extra)}


def monai_workflow(bundle, image):
    """``monai.bundle.create_workflow``: training as declared, inference run."""
    folder = bundle.parent / f"{bundle.name}_out"
    train = create_workflow(
        config_file=str(bundle / "configs" / "train.json"), workflow_type="train", bundle_root=str(bundle)
    )
    infer = create_workflow(
        config_file=str(bundle / "configs" / "inference.json"),
        workflow_type="infer",
        bundle_root=str(bundle),
        dataset_dir=str(image),
        output_dir=str(folder),
    )
    missing = {"train": train.check_properties(), "infer": infer.check_properties()}
    infer.run()
    (written,) = (path for path in folder.iterdir() if path.suffix != ".json")
    return {"missing": missing, "file": written.name, "labels": counts(read(written)[0])}


def monai_label(bundle, image):
    """MONAI Label 0.8, ``BundleInferTask``: transforms apart, one after the other, the package's modules reloaded."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    (key_image, _), (key_pred, output) = (next(iter(metadata[side].items())) for side in ("inputs", "outputs"))
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.json"))
    parser.config.update({"bundle_root": str(bundle), "device": "cpu", "output_dir": f"{bundle}_label"})

    def part(key):
        sys.path.insert(0, str(bundle))
        forget_package()
        try:
            return parser.get_parsed_content(key, instantiate=True)
        finally:
            sys.path.remove(str(bundle))

    network = part("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", map_location="cpu", weights_only=True))
    network.eval()
    before = part("preprocessing")
    loaders = [t for t in before.transforms if isinstance(t, LoadImaged)]
    for loader in loaders:
        loader._loader.image_only = False
    data = {key_image: str(image), "device": "cpu"}
    for transform in before.transforms:
        data = transform(data)
    inferer = part("inferer")
    with torch.no_grad():
        data[key_pred] = inferer(data[key_image][None], network)[0]
    for transform in part("postprocessing").transforms:
        data = transform(data)
    names = [name.lower() for name in output["channel_def"].values() if name.lower() != "background"]
    return {
        "loaders": len(loaders),
        "names": names,
        "shape": list(data[key_pred].shape),
        "labels": counts(data[key_pred]),
    }


def monai_deploy(bundle, image):
    """MONAI Deploy App SDK 4.0, ``MonaiBundleInferenceOperator``: an image from memory, which has no file's name."""
    sys.path.insert(0, str(bundle))
    forget_package()
    parser = parser_of(bundle, "inference", "inference_deploy")
    parser.parse()
    formats = parser["_meta_"]["network_data_format"]
    ((name, entry),) = formats["inputs"].items()
    device = parser.get_parsed_content("device")
    inferer = parser.get_parsed_content("inferer")
    compose = {}
    for key in ("preprocessing", "postprocessing"):
        compose[key] = parser.get_parsed_content(key)
        assert isinstance(compose[key], Compose)
        kept = [t for t in compose[key].transforms if not {"LoadImage", "SaveImage"} & {type(t).__name__[:9]}]
        compose[key].transforms = tuple(kept)
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", map_location=device), strict=True)
    network.eval()

    array, affine = read(image)
    meta = {"affine": affine, "original_affine": affine, "original_channel_dim": "no_channel"}
    data = {name: MetaTensor.ensure_torch_and_prune_meta(torch.as_tensor(array.astype("float32")), meta)}
    data = compose["preprocessing"](data)
    with torch.no_grad():
        output = next(iter(inferer(inputs=data[name][None].to(device), network=network)))
    ((out, _),) = formats["outputs"].items()
    result = compose["postprocessing"]({out: output, **data})
    return {"type": entry["type"], "shape": list(result[out].shape), "labels": counts(result[out].cpu())}


def main(output, *cases):
    logging.disable(logging.INFO)
    found = {}
    for case in cases:
        bundle, image = map(Path, case.split("="))
        sys.path.insert(0, str(bundle))
        forget_package()
        os.chdir(bundle)
        found[bundle.name] = {}
        for use in (monai_load, monai_workflow):
            found[bundle.name][use.__name__] = use(bundle, image)
        os.chdir(bundle.parent)
        sys.path[:] = [entry for entry in sys.path if entry != str(bundle)]
    for case in [*cases, cases[0]]:  # and the first again, after another bundle's package of the same name
        bundle, image = map(Path, case.split("="))
        found[bundle.name]["monai_label"] = monai_label(bundle, image)
    for case in cases:
        bundle, image = map(Path, case.split("="))
        found[bundle.name]["monai_deploy"] = monai_deploy(bundle, image)
        sys.path[:] = [entry for entry in sys.path if entry != str(bundle)]
    Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
