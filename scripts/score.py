"""Score predicted volumes against labels, as the competitions do."""

import math
import os
from typing import Any

from scripts.command_line import command_line

from custom.system.files import write_json


def vesuvius(predictions: str, labels: str, json: str | None = None, processes: int | None = None) -> None:
    """Official score of the Vesuvius surface detection: TopoScore, SurfaceDice@2 and VOI of two folders of TIFFs.

    Prints a table by volume, by scroll (if train.csv is in or beside the folder of labels) and in total. Every label
    needs a prediction.

    Example: python scripts/score.py vesuvius eval/predictions data/train_labels --json scores.json

    Args:
        predictions: folder of <id>.tif, 0 background, anything else surface.
        labels: folder of <id>.tif, 0 background, 1 surface, 2 ignored.
        json: also write {"cases": {id: {"score", "toposcore", "surface_dice", "voi_score"}}, "mean": {...}} here.
        processes: octants scored in parallel; by default as many as cores and free memory allow.
    """
    from custom.metrics.vesuvius_metric import score_folders

    _show(*score_folders(str(predictions), str(labels), processes=processes), json)


def liver(predictions: str, labels: str, json: str | None = None) -> None:
    """Dice, VOE, RVD, ASSD, HD95 of liver and tumour per volume, and lesions found, of two folders of volumes.

    Example: python scripts/score.py liver eval/predictions data/labels --json scores.json

    Args:
        predictions: folder of volumes, 0 background, 1 liver, 2 tumour.
        labels: folder of volumes; a pair has equal names or LiTS names (volume-7 with segmentation-7).
        json: also write {"cases": {id: {"liver", "tumor", "lesions"}}, "mean": {...}, "global": {...}} here.
    """
    from custom.metrics.liver import score_folders

    _show(*score_folders(str(predictions), str(labels)), json)


def _show(scores: dict[str, Any], table: str, path: str | os.PathLike | None) -> None:
    print(table)
    if path is not None:
        write_json(str(path), _without_nan(scores), indent=2)
        print(f"Scores: {path}")


def _without_nan(value: Any) -> Any:
    """Replace undefined scores by null, since JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    command_line({"vesuvius": vesuvius, "liver": liver}, "score.py")
