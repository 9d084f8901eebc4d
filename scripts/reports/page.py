"""The HTML of a report: one file that carries its pictures and needs nothing else."""

import base64
import html
import json
import shlex
import statistics
from collections.abc import Sequence
from typing import Any

from .pictures import colour, learning_curves
from .runs import Run, comparable, differing, duration, settings, spread

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 0 auto; padding: 1.5rem; color: #1f2933; }
h3 { margin: 1.8rem 0 .4rem; border-bottom: 1px solid #d9e2ec; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .5rem 0; font-size: .88rem; }
th, td { padding: .28rem .8rem .28rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #d9e2ec; }
td { max-width: 34rem; overflow-wrap: anywhere; }
.number td:not(:first-child), .number th:not(:first-child) { text-align: right; white-space: nowrap; }
.note, .sd, figcaption { color: #52606d; } .met { color: #0a7c42; } .missed { color: #c81e1e; font-weight: 600; }
.dot { display: inline-block; width: .75em; height: .75em; border-radius: 50%; margin-right: .45em; }
img { max-width: 100%; } figure { margin: 0; }
.panels { display: grid; gap: 1.2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)); }
"""

# A cell of a table: text, or HTML made here.
Cell = str | tuple[str]


def page(runs: Sequence[Run], required: Sequence[dict[str, str]]) -> str:
    """The whole page; runs that have no scores in common are told about one after the other."""
    groups = comparable(runs)
    title = "Report: " + (runs[0].name if len(runs) == 1 else f"{len(runs)} runs")
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if required:
        rows = [[*list(row.values())[:-1], _mark(row["met"])] for row in required]
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
    sections = [
        ("Runs", [_overview(runs)]),
        ("Settings that differ", [_settings(runs)] if len(runs) > 1 else []),
        ("Curves", [_image(learning_curves(runs), "learning curves")]),
        ("Scores", _scores(runs)),
        ("Pictures", _panels(runs)),
        ("How they were made", [_versions(runs), *map(_command, runs)]),
    ]
    parts = []
    for title, found in sections:
        if any(found):
            parts += [f"<h3>{title}</h3>", *found]
    return parts


def _overview(runs: list[Run]) -> str:
    """A line a run: what it reached and what it took."""
    head = ["run", "best score", "epochs", "steps", "time", "s a step", "waiting", "memory", "GPU memory", "started"]
    rows = []
    for number, run in enumerate(runs):
        last = run.history[-1] if run.history else {}
        rows.append(
            [
                _named(number, run),
                _best(run),
                f"{last['epoch']:.0f}" if last else "",
                f"{last['step']:.0f}" if last else "",
                duration(last["seconds"]) if last else "",
                _over(run, "seconds_per_step", statistics.median, "{:.3g}"),
                _over(run, "data_wait", statistics.fmean, "{:.1%}"),
                _over(run, "memory_gib", max, "{:.1f} GiB"),
                _over(run, "gpu_memory_gib", max, "{:.1f} GiB"),
                run.record.get("started", "")[:16].replace("T", " "),
            ]
        )
    kept = [n for n in range(len(head)) if n == 0 or any(row[n] for row in rows)]
    table = _table([head[n] for n in kept], [[row[n] for n in kept] for row in rows], "number")
    hypotheses = {run.name: run.configuration.get("hypothesis") for run in runs}
    if len(runs) > 1 and len(set(hypotheses.values())) == 1:  # it belongs to the defaults, and tells nothing here
        return table
    notes = [
        _note(f"<b>{html.escape(name)}</b>: {html.escape(str(text))}") for name, text in hypotheses.items() if text
    ]
    return table + "".join(notes)


def _best(run: Run) -> str:
    name = run.key_metric
    best = run.best_row()
    return "" if best is None else f"{best[name]:.3f} {name.replace('_', ' ')} (epoch {best['epoch']:.0f})"


def _over(run: Run, column: str, summary: Any, form: str) -> str:
    values = run.measured(column)
    return form.format(summary(values)) if values else ""


def _settings(runs: list[Run]) -> str:
    known = [run for run in runs if run.configuration]
    rows = differing([settings(run.configuration) for run in known])
    if len(known) < 2:
        return ""
    if not rows:
        return _note("None: these runs have the same settings.")
    numbers = [runs.index(run) for run in known]
    head: list[Cell] = ["setting", *(_named(number, runs[number]) for number in numbers)]
    return _table(head, [[(f"<code>{html.escape(key)}</code>",), *map(_value, row)] for key, row in rows.items()])


def _value(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value)


def _versions(runs: list[Run]) -> str:
    known = [run for run in runs if run.record]
    if not known:
        return ""
    columns = [
        {"commit": _commit(run), "device": run.record.get("device"), "ranks": run.record.get("ranks")}
        | run.record.get("versions", {})
        | {f"{name} volumes": len(cases) for name, cases in run.record.get("cases", {}).items()}
        for run in known
    ]
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [[key, *(_value(column.get(key)) for column in columns)] for key in keys]
    return _table(["", *(_named(runs.index(run), run) for run in known)], rows)


def _commit(run: Run) -> str | None:
    text = run.record.get("commit")
    return None if text is None else text[:12] + ("+changes" if text.endswith("+changes") else "")


def _command(run: Run) -> str:
    words = run.record.get("command")
    return "" if not words else _note(f"{html.escape(run.name)}: <code>{html.escape(shlex.join(words))}</code>")


def _scores(runs: list[Run]) -> list[str]:
    scored = [(number, run) for number, run in enumerate(runs) if run.cases]
    if not scored:
        return []
    names = dict.fromkeys(name for _, run in scored for name in run.scores())
    head: list[Cell] = ["score", *(_named(number, run) for number, run in scored)]
    rows = [[name.replace("_", " "), *(_spread(run.scores().get(name, [])) for _, run in scored)] for name in names]
    note = (
        "Mean ± standard deviation, lowest to highest and number of volumes for which the score is defined;"
        " of a training: its last validation."
    )
    if len({frozenset(run.cases) for _, run in scored}) > 1:
        note += " <b>Not all were scored on the same volumes.</b>"
    return [_table(head, rows, "number"), _note(note), *(_cases(run, len(runs) == 1) for _, run in scored)]


def _spread(values: list[float]) -> Cell:
    if not values:
        return "–"
    found = {name: f"{value:.3f}" for name, value in spread(values).items()}
    rest = f"± {found['sd']} ({found['lowest']} to {found['highest']}, n {len(values)})"
    return (f"<b>{found['mean']}</b> <span class=sd>{rest}</span>",)


def _cases(run: Run, opened: bool) -> str:
    """A row a volume, folded away where there are several runs."""
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
        shown = [(number, run) for number, run in enumerate(runs) if case in run.panels]
        figures = [
            f"<figure>{_image(run.panels[case].read_bytes(), f'{run.name}: {case}')}"
            f"<figcaption>{_named(number, run)[0]}</figcaption></figure>"
            for number, run in shown
        ]
        parts.append(f'<div class="panels">{"".join(figures)}</div>')
    return parts


def _named(number: int, run: Run) -> tuple[str]:
    """The run's name beside its colour in the curves."""
    return (f'<span class="dot" style="background:{colour(number)}"></span>{html.escape(run.name)}',)


def _mark(met: str) -> tuple[str]:
    return (f'<span class="{met}">{met}</span>',)


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
