"""The page about the liver's experiments: what each version changes, costs and scores, made from folders of runs."""

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from custom.files import write_whole
from custom.handlers.checkpoints import MAY_DIFFER
from scripts.reports.runs import duration, leaves, read_csv

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "liver_tumor_2d"
ABOUT = "about.txt"
COLOURS = {"liver": "#f4a261", "tumor": "#e63946"}

# Of the Kaggle competition "AIO2025 warm-up liver tumor segmentation", target ``mask > 0``.
PUBLISHED = {
    "v1_baseline": 0.9577,
    "v2": 0.9680,
    "v3_context": 0.9584,
    "v3_context+loss_tversky": 0.9679,
    "v4_resnet_elastic": 0.9520,
}

HEAD = """# Experiments

Versions of the model and losses, each an override file on `train.json`: what it is meant to do, what it changes, what
it costs and what it scores.

- **Dice** is that of a whole volume, and the figure is the mean over the volumes. A mean over slices flatters: about
  half of the slices of an abdominal CT hold no liver, and each of them counts as 1.
- **Liver** is the liver with its tumours, **tumour** the tumours alone. A tumour-free volume in which none is found has
  no tumour Dice and is left out of that mean; a false alarm in it counts as 0.
- **Lesion F1** counts tumours, found if a predicted one overlaps by an IoU of more than 0.5, in all volumes together.
- **Parameters** are those that a prediction depends on.
- The post-processing (`clean_liver`: largest liver, no holes, no specks, no tumours far from the liver) is on for every
  version; `--clean_liver False` switches it off.
"""

LITERATURE = """
## Published figures

| what | target | Dice |
| --- | --- | --- |
| V1: U-Net, EfficientNet-B0 | whole liver | .9577 |
| V2: U-Net++, EfficientNet-B4, stopped in epoch 8 of 15 for lack of time | whole liver | .9680 |
| V3: 2.5-D, EfficientNet-B0 | whole liver | .9584 |
| V3 with Tversky (.3, .7) | whole liver | .9679 |
| V4: ResNet34, elastic deformation, largest component | whole liver | .9520 |
| another entry, with a 3-D largest component | whole liver | .9717 |
| best on LiTS | liver / **tumour** | .963-.967 / .739 |
| nnU-Net on LiTS, 2-D / 3-D | mean of liver and tumour | .7395 / .7694 |
| 2-D networks on LiTS, usually | liver / **tumour** | .95-.97 / .50-.62 |

The first six are from the Kaggle competition "AIO2025 warm-up liver tumor segmentation". Its target was `mask > 0`,
tumours merged into the liver, so that a .968 there says nothing about tumours. All of these are of other volumes than
those above: they tell an order of magnitude, and no more.
"""


@dataclass(frozen=True)
class Run:
    """What one training left, and how its weights were scored."""

    folder: Path
    configuration: dict[str, Any]
    device: str
    step: int
    seconds: float
    scores: dict[str, Any]
    scored_on: str

    @property
    def name(self) -> str:
        return self.folder.name


def page(*runs: str, output: str = str(BUNDLE / "docs" / "experiments.md")) -> None:
    """Write the page and its pictures, and print the tables.

    A run is a folder with training/ (the output_dir of a training) and held_out/ (that of an evaluation on other
    volumes), or the output_dir of a training alone, whose validation scores are then taken. Runs in one folder are
    compared with one another; what is told about them there in about.txt (a title, then a text) is copied.

    Example: python scripts/experiments_page.py experiments/liver/*/

    Args:
        runs: folders of runs.
        output: the Markdown file; pictures go beside it.
    """
    if not runs:
        sys.exit("error: found no run folder on the command line, expected at least one")
    groups: dict[Path, list[Run]] = {}
    for folder in map(Path, map(str, runs)):
        groups.setdefault(folder.resolve().parent, []).append(load_run(folder.resolve()))
    path = Path(output)
    command = shlex.join(["python", "scripts/experiments_page.py", *map(str, runs)])
    parts = [HEAD + f"\nThis page is made by `{command}`.\n"]
    for folder, members in groups.items():
        print(f"\n{table(members)}")
        parts.append(_section(folder, members, path))
    text = "\n".join([*parts, LITERATURE.lstrip("\n")])
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))
    print(f"\nPage: {path}")


def load_run(folder: Path) -> Run:
    """Read a run's folder, or exit with one line that says what it lacks."""
    training = folder / "training" if (folder / "training").is_dir() else folder
    held_out = folder / "held_out"
    scored = held_out if (held_out / "scores.json").exists() else training
    for file in (training / "run.json", training / "metrics.csv", scored / "scores.json"):
        if not file.exists():
            sys.exit(f"error: {folder}: found no {file.relative_to(folder)}, expected the folder of a finished run")
    record = json.loads((training / "run.json").read_text(encoding="utf-8"))
    last = read_csv(training / "metrics.csv")[-1]
    return Run(
        folder,
        record["configuration"],
        record["device"],
        int(last["step"]),
        float(last["seconds"]),
        json.loads((scored / "scores.json").read_text(encoding="utf-8")),
        "held-out volumes" if scored == held_out else "the validation fold",
    )


def table(runs: list[Run]) -> str:
    """The runs' scores and costs in Markdown."""
    head = ["version", "liver Dice", "tumour Dice", "lesion F1", "parameters", "slices seen", "training", "published"]
    lines = [" | ".join(["", *head, ""]).strip(), "|" + " --- |" * len(head)]
    for run in runs:
        mean = run.scores["mean"]
        cells = [
            run.name,
            *(_number(mean[region]["dice"]) for region in ("liver", "tumor")),
            _number(mean["lesions"]["f1"]),
            f"{parameters(run.configuration['network_def']) / 1e6:.1f} M",
            f"{run.step * run.configuration['batch_size']:,}".replace(",", " "),
            duration(run.seconds),
            f"{PUBLISHED[run.name]:.4f}, whole liver" if run.name in PUBLISHED else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parameters(network_def: dict[str, Any]) -> int:
    """How many of a network's parameters its prediction depends on; classification heads of encoders do not count."""
    import torch
    from monai.bundle import ConfigParser

    network = ConfigParser({"network_def": network_def}).get_parsed_content("network_def").eval()
    network(torch.zeros(1, network_def["in_channels"], 64, 64)).sum().backward()
    return sum(p.numel() for p in network.parameters() if p.grad is not None)


def changes(configuration: dict[str, Any]) -> dict[str, Any]:
    """The knobs, and the settings of network and loss, that are not as in ``train.json``, by id."""
    default = json.loads((BUNDLE / "configs" / "train.json").read_text(encoding="utf-8"))
    hidden = {*MAY_DIFFER, "hypothesis", "precision", "max_cache_gb", "slice_batch_size"}
    knobs = [key for key, value in default.items() if not _has_components(value)]
    keys = [key for key in (*knobs, "network_def", "loss") if key in configuration and key not in hidden]
    found, usual = (leaves({key: config[key] for key in keys}) for config in (configuration, default))
    return {key: value for key, value in found.items() if key not in usual or usual[key] != value}


def _has_components(value: Any) -> bool:
    return isinstance(value, dict) and any(key.split("#")[-1] == "_target_" for key in leaves(value))


def _section(folder: Path, runs: list[Run], page_path: Path) -> str:
    about = folder / ABOUT
    title, _, text = (about.read_text(encoding="utf-8") if about.exists() else folder.name).partition("\n")
    changed = {run.name: changes(run.configuration) for run in runs}
    shared = {}
    if len(runs) > 1:
        first = changed[runs[0].name]
        shared = {key: value for key, value in first.items() if all(c.get(key) == value for c in changed.values())}
    parts = [f"## {title}", text.strip()]
    scored = " or ".join(dict.fromkeys(f"{len(run.scores['cases'])} {run.scored_on}" for run in runs))
    devices = ", ".join(dict.fromkeys(run.device for run in runs))
    parts.append(f"Scored on {scored}; trained on {devices}.")
    if shared:
        parts.append(f"Set for all: {_settings(shared)}.")
    parts.append(table(runs))
    picture = page_path.with_name(f"experiments_{folder.name}_dice.png")
    _draw_dice(runs, picture)
    parts.append(f"![Dice of the versions]({picture.name})")
    for run in runs:
        own = {key: value for key, value in changed[run.name].items() if key not in shared}
        parts.append(_describe(run, own))
    return "\n\n".join(filter(None, parts)) + "\n"


def _describe(run: Run, own: dict[str, Any]) -> str:
    mean = run.scores["mean"]
    per_volume = {
        region: [case[region]["dice"] for case in run.scores["cases"].values() if case[region]["dice"] is not None]
        for region in ("liver", "tumor")
    }
    spread = "; ".join(
        f"{'tumour' if region == 'tumor' else region} Dice {_number(mean[region]['dice'])}"
        + (f" ({_number(min(values))} to {_number(max(values))} over {len(values)} volumes)" if values else "")
        for region, values in per_volume.items()
    )
    lesions = ", ".join(f"{name} {_number(mean['lesions'][name])}" for name in ("precision", "recall", "f1"))
    return "\n".join(
        [
            f"### {run.name}\n",
            f"- **Hypothesis**: {run.configuration.get('hypothesis', 'none was given')}",
            f"- **Change**: {_settings(own) or 'none: `train.json` as it is'}",
            f"- **Cost**: {duration(run.seconds)} for {run.step} steps of {run.configuration['batch_size']} slices,"
            " validation included",
            f"- **Score**: {spread}; lesions: {lesions}",
        ]
    )


def _settings(values: dict[str, Any]) -> str:
    """One line of Markdown."""
    return ", ".join(f"`{key.removesuffix('#_target_')}` {json.dumps(value)}" for key, value in values.items())


def _draw_dice(runs: list[Run], path: Path) -> None:
    """A dot per volume and a line at the mean, liver and tumour side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.2 + 0.36 * len(runs)), layout="constrained")
    for axis, (region, colour) in zip(figure.subplots(1, 2, sharey=True), COLOURS.items(), strict=True):
        for row, run in enumerate(runs):
            values = [case[region]["dice"] for case in run.scores["cases"].values()]
            values = [value for value in values if value is not None]
            axis.plot(values, [row] * len(values), "o", color=colour, alpha=0.6, markeredgewidth=0)
            mean = run.scores["mean"][region]["dice"]
            if mean is not None:
                axis.plot([mean, mean], [row - 0.3, row + 0.3], color="black")
        axis.set(xlim=(-0.02, 1.02), xlabel=f"{region} Dice per volume".replace("tumor", "tumour"))
        axis.grid(alpha=0.3)
        axis.set_yticks(range(len(runs)), [run.name for run in runs])
    axis.invert_yaxis()
    write_whole(path, lambda file: figure.savefig(file, dpi=100))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    import fire

    fire.Fire(page)
