"""Write a page about one or several runs: settings, curves, scores, time, memory and pictures."""

import sys
from collections.abc import Sequence

from scripts.command_line import command_line
from scripts.reports.page import page
from scripts.reports.runs import Run, load_runs, spread

from custom.system.files import write_whole


def report(*runs: str, output: str = "report.html", goals: dict[str, float] | None = None) -> None:
    """Write one HTML page about a run or several runs side by side, and print the table of their scores.

    Reads a run's folder: run.json (settings, versions, commit), metrics.csv (curves, time, memory), cases.csv (scores
    per volume) and panels/ (pictures). The page contains its pictures and works offline. Runs without scores in common,
    such as those of the two bundles, are shown one after the other.

    Exits with 1 if a goal is missed or a folder contains no run.

    Example: python scripts/report.py bundles/liver_tumor_2d/eval/20260101_120000 --output report.html

    Args:
        runs: folders of runs, as given to --output_dir.
        output: the HTML file to write.
        goals: smallest mean that each named score must reach, for example "{'held_out/surface_dice': 0.8}"; without a
            run's name it applies to all runs.
    """
    if not runs:
        sys.exit("error: found no run folder on the command line, expected at least one")
    try:
        found = load_runs(runs)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    goals = dict(goals or {})
    scores = [row for run in found for row in _mean_scores(run, goals)]
    required = [row for row in scores if row["goal"]]
    text = page(found, required)
    write_whole(output, lambda file: file.write_text(text, encoding="utf-8"))
    _print_table(required or scores)
    print(f"Report: {output}")
    missed = [f"{row['run']} {row['score']}" for row in required if row["met"] != "met"]
    missed += [f"no score is called {name}" for name in goals if not any(_is_for(name, row) for row in scores)]
    if missed:
        sys.exit(f"error: goals were missed ({', '.join(missed)}): see the table")


def _mean_scores(run: Run, goals: dict[str, float]) -> list[dict[str, str]]:
    """A row per score: mean, lowest and highest over the volumes for which it is defined."""
    rows = []
    for score, values in run.scores().items():
        found = spread(values)
        row = {"run": run.name, "score": score}
        goal = next((least for name, least in goals.items() if _is_for(name, row)), None)
        rows.append(
            {
                **row,
                **{name: f"{found[name]:.3f}" for name in ("mean", "lowest", "highest")},
                "cases": str(len(values)),
                "goal": "" if goal is None else f"{goal:g}",
                "met": "" if goal is None else "met" if found["mean"] >= goal else "missed",
            }
        )
    return rows


def _is_for(goal: str, row: dict[str, str]) -> bool:
    """Whether a goal, named by a score or by a run and a score, applies to a row."""
    return f"/{row['run']}/{row['score']}".endswith(f"/{goal}")


def _print_table(rows: Sequence[dict[str, str]]) -> None:
    if not rows:
        return
    columns = list(rows[0])
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    for row in [{column: column for column in columns}, *rows]:
        print("  ".join(row[c].ljust(widths[c]) if c in ("run", "score") else row[c].rjust(widths[c]) for c in columns))


if __name__ == "__main__":
    import fire

    as_given = fire.decorators.SetParseFn(str)(report)  # a run's name, 20260101_120000, is a number to Python
    command_line(fire.decorators.SetParseFns(goals=fire.parser.DefaultParseValue)(as_given), "report.py")
