"""Import a model trained by nnU-Net: weights, and override files for a bundle."""

from pathlib import Path

from scripts.command_line import command_line

from custom.errors import DataError, find_data_error
from custom.system.files import write_json, write_whole


def import_nnunet(
    model: str,
    bundle: str,
    output: str,
    folds: str | None = None,
    checkpoint: str | None = None,
    trust_trainer: bool = False,
) -> Path:
    """Write model.pt, nnunet.json and, for a network that the bundle can train, nnunet_training.json.

    nnunet.json is an override file for inference.json and for train.json with evaluate.json; with it, predictions equal
    nnU-Net's. nnunet_training.json, after it, trains from the weights. What this project cannot reproduce is refused by
    name. No code in the files is executed.

    Example: python scripts/import_nnunet.py results/Dataset001_Scroll/nnUNetTrainer__nnUNetPlans__3d_fullres
    --bundle vesuvius_surface_3d --output imported

    Args:
        model: the folder of a trainer (with dataset.json, plans.json, fold_X), a zip file from
            nnUNetv2_export_model_to_zip, or a folder from Hugging Face.
        bundle: vesuvius_surface_3d or liver_tumor_2d.
        output: folder to write to.
        folds: which ones, separated by commas; by default all, whose logits are averaged.
        checkpoint: name of the checkpoints; by default checkpoint_final.pth, or else checkpoint_best.pth.
        trust_trainer: accept a trainer that is not known to predict with the network of the plans.

    Raises:
        DataError: files are missing or damaged, or hold something that is not supported; nothing is written.
    """
    from scripts.nnunet.override import LIVER, SURFACE  # slow to load from here on: not for --help

    if bundle not in (SURFACE, LIVER):
        raise DataError.of("bundle", str(bundle), f"{SURFACE} or {LIVER}")
    import torch

    from scripts.nnunet.model import read_model
    from scripts.nnunet.override import override_for, training_for
    from scripts.nnunet.settings import settings_of

    listed = None if folds is None else [str(fold) for fold in (folds if isinstance(folds, tuple) else [folds])]
    listed = listed and [part for fold in listed for part in fold.split(",")]
    read = read_model(Path(str(model)), listed, checkpoint)
    settings = settings_of(read, trust_trainer=trust_trainer)
    config = override_for(bundle, settings, len(read.weights))
    state = _checked(config, read.weights, read.path)
    folder = Path(str(output))
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "model.pt", lambda file: torch.save(state, file))
    write_json(folder / "nnunet.json", config, indent=4)
    training = training_for(bundle, settings, folder / "model.pt") if len(read.weights) == 1 else None
    (folder / "nnunet_training.json").unlink(missing_ok=True)
    if training is not None:
        write_json(folder / "nnunet_training.json", training, indent=4)
    return folder


def _checked(config: dict, weights: list[dict], path: Path) -> dict:
    """Return the state dict of the network, after everything was instantiated that the override file declares."""
    from monai.bundle import ConfigParser

    from custom.system.state_dict import misfit

    needed = {"sw_batch_size": 1, "precision": "float32", "stride": None, "threshold": 0.5}
    parser = ConfigParser({**needed, **config})
    try:
        network, *_ = [parser.get_parsed_content(key) for key in ("network_def", "normalize", "inferer")]
    except RuntimeError as error:  # MONAI's, around that of the component
        raise find_data_error(error) or error from None
    state = dict(weights[0])
    if len(weights) > 1:
        state = {f"members.{index}.{key}": value for index, fold in enumerate(weights) for key, value in fold.items()}
    if wrong := misfit(state, network.state_dict()):
        raise DataError.of(path, f"weights with {wrong}", "those of the architecture in the plans")
    return {key: value.contiguous() for key, value in state.items()}


def main() -> None:
    """Run the command line."""
    folder = command_line(import_nnunet, "import_nnunet.py")
    if isinstance(folder, Path):
        print(f"Written to {folder}:", *sorted(path.name for path in folder.iterdir()))


if __name__ == "__main__":
    main()
