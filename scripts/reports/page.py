"""The HTML of a report: a single file that contains its pictures."""

import base64
import html
import json
import shlex
import statistics
from collections.abc import Sequence
from typing import Any

from .pictures import colour, learning_curves
from .runs import Run, comparable, differing, duration, spread

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 0 auto; padding: 1.5rem; color: #1f2933; }
h3 { margin: 1.8rem 0 .4rem; border-bottom: 1px solid #d9e2ec; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0; font-size: .88rem; }
th, td { padding: .28rem .8rem .28rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #d9e2ec; }
td { max-width: 34rem; overflow-wrap: anywhere; }
.number td:not(:first-child), .number th:not(:first-child) { text-align: right; white-space: nowrap; }
.note, figcaption { color: #52606d; } .met { color: #0a7c42; } .missed { color: #c81e1e; font-weight: 600; }
.dot { display: inline-block; width: .75em; height: .75em; border-radius: 50%; margin-right: .45em; }
img { max-width: 100%; } figure { margin: 0; }
.panels { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)); }
"""

MEASURED = {
    "seconds a step": ("seconds_per_step", statistics.median, "{:.3g}"),
    "share of waiting for data": ("data_wait", statistics.fmean, "{:.1%}"),
    "memory": ("memory_gib", max, "{:.1f} GiB"),
    "GPU memory": ("gpu_memory_gib", max, "{:.1f} GiB"),
}
"""Columns of the history, and how each is summarised."""

# A cell of a table: text, or HTML made here.
Cell = str | tuple[str]


def page(runs: Sequence[Run], required: Sequence[dict[str, str]]) -> str:
    """Return the whole page; runs without scores in common are shown one after the other."""
    groups = comparable(runs)
    title = "Report: " + (runs[0].name if len(runs) == 1 else f"{len(runs)} runs")
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if required:
        rows = [[*list(row.values())[:-1], (f'<span class="{row["met"]}">{row["met"]}</span>',)] for row in required]
        parts += [_table([key.replace("_", " ") for key in required[0]], rows, "number")]
        parts.append(_note("Mean, lowest and highest over the volumes for which a score is defined."))
    for members in groups:
        if len(groups) > 1:
            parts.append(f"<h2>{html.escape(' · '.join(run.name for run in members))}</h2>")
        parts += _group(members)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _group(runs: list[Run]) -> list[str]:
    """Sections about comparable runs, whose tables have a column per run."""
    sections = [
        ("Runs", [_columns(runs, [_facts(run) for run in runs]), _hypotheses(runs)]),
        ("Settings that differ", _settings(runs)),
        ("Curves", [_image(learning_curves(runs), "learning curves")]),
        ("Scores", _scores(runs)),
        ("Pictures", _panels(runs)),
    ]
    return [part for title, found in sections if any(found) for part in (f"<h3>{title}</h3>", *found)]


def _facts(run: Run) -> dict[str, str]:
    """Results, costs and settings of a run."""
    facts, record, best = {}, run.record, run.best_row()
    if best is not None:
        facts["best score"] = f"{best[run.key_metric]:.3f} {run.key_metric} (epoch {best['epoch']:.0f})"
    if run.history:
        last = run.history[-1]
        facts |= {"epochs": f"{last['epoch']:.0f}", "steps": f"{last['step']:.0f}", "time": duration(last["seconds"])}
    for title, (column, summary, form) in MEASURED.items():
        if values := run.measured(column):
            facts[title] = form.format(summary(values))
    if not record:
        return facts
    commit = record.get("commit") or ""
    facts["started"] = record.get("started", "")[:16].replace("T", " ")
    facts["commit"] = commit[:12] + ("+changes" if commit.endswith("+changes") else "")
    facts |= {"device": record.get("device", ""), "ranks": str(record.get("ranks", "")), **record.get("versions", {})}
    facts |= {f"{name} volumes": str(len(cases)) for name, cases in record.get("cases", {}).items()}
    return facts | {"command": shlex.join(record.get("command", []))}


def _hypotheses(runs: list[Run]) -> str:
    found = {run.name: run.configuration.get("hypothesis") for run in runs}
    if len(runs) > 1 and len(set(found.values())) == 1:  # it belongs to the defaults, and tells nothing here
        return ""
    return "".join(_note(f"<b>{html.escape(name)}</b>: {html.escape(text)}") for name, text in found.items() if text)


def _settings(runs: list[Run]) -> list[str]:
    known = [run.settings for run in runs]
    if sum(map(bool, known)) < 2:
        return []
    rows = differing([column for column in known if column])
    if not rows:
        return [_note("None: these runs have the same settings.")]
    return [_columns(runs, [{key: _value(column.get(key)) for key in rows} for column in known])]


def _value(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _scores(runs: list[Run]) -> list[str]:
    if not any(run.cases for run in runs):
        return []
    spreads = [{name.replace("_", " "): _spread(values) for name, values in run.scores().items()} for run in runs]
    note = (
        "Mean ± standard deviation, lowest to highest and number of volumes for which the score is defined;"
        " of a training: its last validation."
    )
    if len({frozenset(run.cases) for run in runs if run.cases}) > 1:
        note += " <b>Not all were scored on the same volumes.</b>"
    return [_columns(runs, spreads), _note(note), *(_cases(run, len(runs) == 1) for run in runs if run.cases)]


def _spread(values: list[float]) -> str:
    found = {name: f"{value:.3f}" for name, value in spread(values).items()}
    return f"{found['mean']} ± {found['sd']} ({found['lowest']} to {found['highest']}, n {len(values)})"


def _cases(run: Run, opened: bool) -> str:
    """A row per volume, collapsed if there are several runs."""
    names = list(run.scores())
    rows = [[case, *(_short(scores.get(name)) for name in names)] for case, scores in run.cases.items()]
    table = _table(["case", *(name.replace("_", " ") for name in names)], rows, "number")
    mark = " open" if opened else ""
    return f"<details{mark}><summary>Volume by volume: {html.escape(run.name)}</summary>{table}</details>"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value % 1 else f"{value:.0f}"


def _panels(runs: list[Run]) -> list[str]:
    """The same volume in all runs side by side."""
    parts = []
    for case in dict.fromkeys(case for run in runs for case in run.panels):
        figures = [
            f"<figure>{_image(run.panels[case].read_bytes(), f'{run.name}: {case}')}"
            f"<figcaption>{_named(runs, run)[0]}</figcaption></figure>"
            for run in runs
            if case in run.panels
        ]
        parts.append(f'<div class="panels">{"".join(figures)}</div>')
    return parts


def _columns(runs: list[Run], columns: Sequence[dict[str, str]]) -> str:
    """A table with a column for each run that has entries, and a row for each entry."""
    keys = dict.fromkeys(key for column in columns for key in column)
    shown = [(run, column) for run, column in zip(runs, columns, strict=True) if column]
    rows = [[key, *(column.get(key, "–") for _, column in shown)] for key in keys]
    return _table(["", *(_named(runs, run) for run, _ in shown)], rows)


def _named(runs: list[Run], run: Run) -> tuple[str]:
    """The run's name with its colour in the curves."""
    return (f'<span class="dot" style="background:{colour(runs.index(run))}"></span>{html.escape(run.name)}',)


def _note(text: str) -> str:
    return f'<p class="note">{text}</p>'


def _table(head: Sequence[Cell], rows: Sequence[Sequence[Cell]], kind: str = "") -> str:
    lines = [[f"<th>{_cell(cell)}</th>" for cell in head], *([f"<td>{_cell(c)}</td>" for c in row] for row in rows)]
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return f'<div class="wide"><table class="{kind}">{body}</table></div>'


def _cell(cell: Cell) -> str:
    return html.escape(cell) if isinstance(cell, str) else cell[0]


def _image(png: bytes | None, text: str) -> str:
    if png is None:
        return ""
    return f'<img alt="{html.escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
