"""One page about one or several runs: scores, learning curves, pictures."""

import base64
import csv
import html
import io
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from custom.files import write_whole
from custom.handlers.history import draw_curves

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1f2933; }
h1 { font-size: 1.7rem; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #d9e2ec; font-size: 1.3rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; }
.wide { overflow-x: auto; font-size: .85rem; }
th { border-bottom: 2px solid #9fb3c8; font-weight: 600; } tr:nth-child(even) td { background: #f5f7fa; }
th:first-child, td:first-child { text-align: left; } .met { color: #0a7c42; } .missed { color: #c81e1e; }
img { max-width: 100%; margin: .4rem 0; } .note { color: #627d98; }
"""


def report(*runs: str, output: str = "report.html", goals: dict[str, float] | None = None) -> None:
    """Write one HTML page for a run or for several, and print the table of their scores.

    Reads what a run leaves in its folder: metrics.csv (learning curves), cases.csv (a score per volume) and panels/
    (pictures). The page carries its pictures in itself.

    Exits with 1 if a goal is missed or a folder holds no run.

    Example: python scripts/report.py bundles/liver_tumor_2d/eval/20260101_120000 --output report.html

    Args:
        runs: folders of runs, as given to --output_dir.
        output: the HTML file to write.
        goals: smallest mean that each named score must reach, for example "{'held_out/surface_dice': 0.8}"; without a
            run's name it holds for all of them.
    """
    folders = [Path(run) for run in runs]
    if not folders:
        sys.exit("error: found no run folder on the command line, expected at least one")
    for folder in folders:
        if not any((folder / name).exists() for name in ("metrics.csv", "cases.csv")):
            sys.exit(f"error: {folder}: found neither metrics.csv nor cases.csv, expected the folder of a run")

    goals = dict(goals or {})
    names = _short_names(folders)
    scores = [row for folder, name in zip(folders, names, strict=True) for row in _mean_scores(folder, name, goals)]
    required = [row for row in scores if row["goal"]]
    page = _page(required, [_section(folder, name) for folder, name in zip(folders, names, strict=True)])
    write_whole(output, lambda file: file.write_text(page, encoding="utf-8"))
    _print_table(required or scores)
    print(f"Report: {output}")
    if sum(row["met"] == "met" for row in required) < max(len(goals), len(required)):
        sys.exit("error: a goal was missed, or its score was not found: see the table")


def _short_names(folders: list[Path]) -> list[str]:
    """Names without the part that all folders share."""
    paths = [os.path.abspath(folder) for folder in folders]
    shared = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [os.path.relpath(path, shared) for path in paths]


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _numbers(row: dict[str, str]) -> dict[str, float]:
    found = {}
    for name, text in row.items():
        try:
            found[name] = float(text)
        except ValueError:  # a name, or a score that is undefined for this case
            continue
    return found


def _mean_scores(folder: Path, run: str, goals: dict[str, float]) -> list[dict[str, str]]:
    """A row a score: its mean, lowest and highest over the cases in which it is defined."""
    cases = [_numbers({k: v for k, v in row.items() if k != "case"}) for row in _read_csv(folder / "cases.csv")]
    rows = []
    for score in dict.fromkeys(name for case in cases for name in case):
        values = [case[score] for case in cases if score in case]
        mean = sum(values) / len(values)
        goal = next((least for name, least in goals.items() if f"/{run}/{score}".endswith(f"/{name}")), None)
        rows.append(
            {
                "run": run,
                "score": score,
                "mean": f"{mean:.3f}",
                "lowest": f"{min(values):.3f}",
                "highest": f"{max(values):.3f}",
                "cases": str(len(values)),
                "goal": "" if goal is None else f"{goal:.2f}",
                "met": "" if goal is None else "met" if mean >= goal else "missed",
            }
        )
    return rows


def _print_table(rows: list[dict[str, str]]) -> None:
    if not rows:
        return
    columns = list(rows[0])
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    for row in [{column: column for column in columns}, *rows]:
        print("  ".join(row[c].ljust(widths[c]) if c in ("run", "score") else row[c].rjust(widths[c]) for c in columns))


def _page(required: list[dict[str, str]], sections: list[str]) -> str:
    parts = ["<h1>Report</h1>"]
    if required:
        parts.append(_table(required))
        parts.append('<p class="note">Mean, lowest and highest over the volumes for which a score is defined.</p>')
    body = "\n".join(parts + sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Report</title>'
        f"<style>{STYLE}</style></head><body>{body}</body></html>"
    )


def _section(folder: Path, name: str) -> str:
    parts = [f"<h2>{html.escape(name)}</h2>"]
    history = [_numbers(row) for row in _read_csv(folder / "metrics.csv")]
    if history:
        last = history[-1]
        parts.append(f"<p>{last['epoch']:.0f} epochs, {last['step']:.0f} steps, {last['seconds']:.0f} s.</p>")
        picture = io.BytesIO()
        draw_curves(history, picture)
        parts.append(_image(picture.getvalue(), f"learning curves of {name}"))
    cases = _read_csv(folder / "cases.csv")
    if cases:
        means = {row["score"]: row["mean"] for row in _mean_scores(folder, name, {})}
        rows = [{key: _short(value) for key, value in row.items()} for row in cases]
        parts.append(_table([*rows, {key: means.get(key, "") for key in rows[0]} | {"case": "mean"}]))
    panels = sorted((folder / "panels").glob("*.png"))
    parts += [_image(panel.read_bytes(), f"{name}: {panel.stem}") for panel in panels]
    return "\n".join(parts)


def _table(rows: list[dict[str, str]]) -> str:
    head = "".join(f"<th>{html.escape(column.replace('_', ' '))}</th>" for column in rows[0])
    body = "".join("<tr>" + "".join(_cell(value) for value in row.values()) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _cell(value: str) -> str:
    mark = f' class="{value}"' if value in ("met", "missed") else ""
    return f"<td{mark}>{html.escape(value)}</td>"


def _short(value: str) -> str:
    try:
        return f"{float(value):.3f}" if "." in value else value
    except ValueError:
        return value


def _image(png: bytes, text: str) -> str:
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


if __name__ == "__main__":
    import fire

    fire.Fire(report)
