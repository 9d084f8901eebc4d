"""Benchmarks of speed and memory, compared with alternatives as ratios within one run."""

import importlib
import pkgutil
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts import benchmarks
from scripts.benchmarks.measure import Row, attempt, machine
from scripts.command_line import command_line

from custom.handlers.run_record import commit, versions
from custom.system.files import write_json, write_whole

PAGES = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
SECTIONS = sorted({m.name for m in pkgutil.iter_modules(benchmarks.__path__)} - {"measure"})
ON_A_DEVICE = ("training", "inference", "liver", "train", "losses")
"""Sections that depend on the device, most important first."""


def benchmark(
    section: str | Sequence[str] | None = None,
    device: str = "cpu",
    json: str | None = None,
    output: str = str(PAGES),
) -> None:
    """Run one section and print its table (what, ours, theirs, ratio, goal), or run several and write a page.

    Without a section, or with several, the page <output>/<name of the machine>.md and a .json beside it are written
    after each section, so that an interruption loses no finished section. An error in one part becomes a row of the
    table, and the other parts still run.

    Exits with 1 if a goal is missed or a part failed.

    Example: python scripts/benchmark.py --device cuda

    Args:
        section: name of a file in scripts/benchmarks, or several: losses,train. Default: all that depend on the device.
        device: cpu or cuda.
        json: a file to which the table of a single section is also written.
        output: folder of the page about several sections.
    """
    names = [section] if isinstance(section, str) else section or [name for name in ON_A_DEVICE if name in SECTIONS]
    if unknown := [name for name in names if name not in SECTIONS]:
        sys.exit(f"error: found the section {unknown[0]!r}, expected one of {', '.join(SECTIONS)}")
    where = machine(device)
    found: dict[str, Any] = {}
    for name in names:
        started = time.monotonic()
        rows = attempt([(name, lambda name=name: _run(name, device))])
        found[name] = {"seconds": round(time.monotonic() - started, 1), "rows": rows}
        print(f"\n{name} on {where}\n\n{as_markdown(rows)}", flush=True)
        if not isinstance(section, str):
            _write_page(found, where, device, Path(output))
    if json and isinstance(section, str):
        rows = [row.as_dict() for row in found[section]["rows"]]
        write_json(json, {"section": section, "device": device, "machine": where, "rows": rows}, indent=2)
    if any(row.met is False for part in found.values() for row in part["rows"]):
        sys.exit("error: a goal was missed or a part failed, see the table")


def _run(name: str, device: str) -> list[Row]:
    """Run a section, with the same random weights whichever sections ran before."""
    import torch  # slow to import, not needed for --help

    torch.manual_seed(0)
    return importlib.import_module(f"scripts.benchmarks.{name}").run(device)


def _write_page(found: dict[str, Any], where: str, device: str, folder: Path) -> None:
    """Write all results so far, as Markdown and JSON."""
    about = {"machine": where, "device": device, "date": time.strftime("%Y-%m-%d"), "commit": commit()}
    about |= {"versions": versions()}
    name = re.sub(r"[^a-z0-9]+", "-", where.lower()).strip("-")
    used = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
    command = f"python scripts/benchmark.py {','.join(found)} --device {device}"
    parts = [f"# {where}", f"Made by `{command}` on {about['date']}, commit {about['commit']}; {used}."]
    for section, part in found.items():
        about_it = getattr(sys.modules.get(f"scripts.benchmarks.{section}"), "__doc__", None) or ""
        parts += [f"## {section}", about_it.strip(), as_markdown(part["rows"]), f"{part['seconds']:.0f} s."]
    text = "\n\n".join(filter(None, parts)) + "\n"
    sections = {key: {**part, "rows": [row.as_dict() for row in part["rows"]]} for key, part in found.items()}
    write_whole(folder / f"{name}.md", lambda file: file.write_text(text, encoding="utf-8"))
    write_json(folder / f"{name}.json", {**about, "sections": sections}, indent=2)
    print(f"\nPage: {folder / name}.md", flush=True)


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the table in the form used in the documents."""
    marks = {None: "", True: "met", False: "missed"}
    lines = ["| what | ours | theirs | ratio | goal | |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
        lines.append(f"| {row.what} | {row.ours} | {row.theirs} | {ratio} | {row.goal} | {marks[row.met]} |")
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(benchmark, "benchmark.py")
