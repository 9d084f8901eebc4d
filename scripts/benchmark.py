"""Speed and memory, ours beside what is replaced, as ratios taken in one run."""

import importlib
import pkgutil
import sys
from json import dumps
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from custom.files import write_whole
from scripts import benchmarks
from scripts.benchmarks.measure import Row, machine

SECTIONS = sorted(m.name for m in pkgutil.iter_modules(benchmarks.__path__) if m.name != "measure")


def benchmark(section: str, device: str = "cpu", json: str | None = None) -> None:
    """Run one section and print its table: what, ours, theirs, ratio, goal.

    Exits with 1 if a goal is missed.

    Example: python scripts/benchmark.py data --json data.json

    Args:
        section: name of a file in scripts/benchmarks: data, ...
        device: cpu or cuda.
        json: a file to write the table to as well.
    """
    if section not in SECTIONS:
        sys.exit(f"error: found the section {section!r}, expected one of {', '.join(SECTIONS)}")
    rows = importlib.import_module(f"scripts.benchmarks.{section}").run(device)
    where = machine(device)
    print(f"\n{section} on {where}\n\n{as_markdown(rows)}")
    if json:
        content = {"section": section, "device": device, "machine": where, "rows": [row.as_dict() for row in rows]}
        write_whole(json, lambda file: file.write_text(dumps(content, indent=2) + "\n"))
    if any(row.met is False for row in rows):
        sys.exit("error: a goal was missed, see the table")


def as_markdown(rows: list[Row]) -> str:
    """The table as it stands in the documents."""
    marks = {None: "", True: "met", False: "missed"}
    lines = ["| what | ours | theirs | ratio | goal | |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        lines.append(f"| {row.what} | {row.ours} | {row.theirs} | {ratio} | {row.goal} | {marks[row.met]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    import fire

    fire.Fire(benchmark)
