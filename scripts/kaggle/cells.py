"""Notebooks made from Python files with cells that begin with ``# %%``.

The files import the package under its name in this repository; in a notebook it has that of the bundle's package.
"""

import re
from pathlib import Path
from typing import Any

from scripts.bundles.renaming import renamed_text

NOTEBOOKS = Path(__file__).parent / "notebooks"
_HEADER = re.compile(r"^# %%(?P<markdown> \[markdown\])?(?P<options>( \w+=\w+)*)$", re.MULTILINE)

Cell = dict[str, Any]


def read_cells(name: str, variant: str) -> list[Cell]:
    """Return the cells of ``notebooks/<name>.py``.

    A cell's header may have ``only=<variant>``, ``tags=<tag>``, or ``include=<name>``, which inserts the cells of
    another file. Text before the first header is ignored. Adjacent code cells are merged, except for parameters.
    """
    text = (NOTEBOOKS / f"{name}.py").read_text(encoding="utf-8")
    headers = list(_HEADER.finditer(text))
    ends = [*(header.start() for header in headers[1:]), len(text)]
    cells: list[Cell] = []
    for header, end in zip(headers, ends, strict=True):
        options = dict(option.split("=") for option in header["options"].split())
        if options.get("only", variant) != variant:
            continue
        if "include" in options:
            cells += read_cells(options["include"], variant)
            continue
        source = renamed_text(text[header.end() : end].strip("\n"))
        if header["markdown"]:
            cells.append({"cell_type": "markdown", "source": re.sub(r"^# ?", "", source, flags=re.MULTILINE)})
        elif cells and cells[-1] == {**cells[-1], "cell_type": "code", "tags": []} and "tags" not in options:
            cells[-1]["source"] += "\n\n" + source
        else:
            cells.append({"cell_type": "code", "source": source, "tags": options.get("tags", "").split()})
    return cells


def notebook(name: str, variant: str) -> dict[str, Any]:
    """Return a notebook in format 4.5, without outputs, as JSON data."""
    cells = [
        {
            "cell_type": cell["cell_type"],
            "id": f"{name}-{number}",
            "metadata": {"tags": cell["tags"]} if cell.get("tags") else {},
            "source": cell["source"].splitlines(keepends=True),
            **({} if cell["cell_type"] == "markdown" else {"execution_count": None, "outputs": []}),
        }
        for number, cell in enumerate(read_cells(name, variant))
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
