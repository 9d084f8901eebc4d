"""Calls MONAI's bundle commands, in a process in which only the bundle's package is called ``scripts``.

    python probe.py CALLS

CALLS is a JSON object: function of ``monai.bundle`` and its arguments, by the name of a check. Prints one JSON list per
line: name of the check, whether it passed, and details.
"""

import json
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def call(function: str, arguments: dict[str, Any]) -> str:
    """Call a function; a returned workflow is run, and must have all properties that MONAI's workflows require."""
    import monai.bundle  # its log goes to the stdout at import

    workflow = getattr(monai.bundle, function)(**arguments)
    if workflow is None:
        return f"{function} works"
    workflow.run()
    workflow.finalize()
    if missing := workflow.check_properties():
        raise KeyError(f"no {', '.join(missing)}, which MONAI requires")
    return "on phantoms, from a foreign folder, without a PYTHONPATH"


def main(calls: dict[str, tuple[str, dict[str, Any]]]) -> None:
    """Print a line for each check; output of the bundle's code goes to stderr."""
    lines, sys.stdout = sys.stdout, sys.stderr
    # without this file's folder, and without the repository, added by an editable installation
    sys.path[:] = [entry for entry in sys.path[1:] if Path(entry).resolve() != REPOSITORY]
    for name, (function, arguments) in calls.items():
        try:
            passed, found = True, call(function, arguments)
        except (Exception, SystemExit) as error:  # the bundle's code may raise anything
            while error.__cause__:  # MONAI wraps errors
                error = error.__cause__
            passed, found = False, f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        print(json.dumps([name, passed, found]), file=lines, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
