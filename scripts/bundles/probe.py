"""Calls MONAI's commands for bundles, in a process in which nothing but the bundle is called ``scripts``.

    python probe.py CALLS

CALLS is a JSON object: the function of ``monai.bundle`` and its arguments, by the name of a check. Prints one JSON list
a line: name of the check, whether it passed, what was found.
"""

import json
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


def call(function: str, arguments: dict[str, Any]) -> str:
    """Call a function; a workflow that it gives back is run, and has to have all that MONAI's workflows require."""
    import monai.bundle  # whose log goes to what is stdout at its import

    workflow = getattr(monai.bundle, function)(**arguments)
    if workflow is None:
        return f"{function} works"
    workflow.run()
    workflow.finalize()
    if missing := workflow.check_properties():
        raise KeyError(f"no {', '.join(missing)}, which MONAI requires")
    return "on phantoms, from a foreign folder, without a PYTHONPATH"


def main(calls: dict[str, tuple[str, dict[str, Any]]]) -> None:
    """Print a line for each check; what the bundle's code prints goes to stderr."""
    lines, sys.stdout = sys.stdout, sys.stderr
    # without the folder of this file, and without the repository, which an editable installation has put here
    sys.path[:] = [entry for entry in sys.path[1:] if Path(entry).resolve() != REPOSITORY]
    for name, (function, arguments) in calls.items():
        try:
            passed, found = True, call(function, arguments)
        except (Exception, SystemExit) as error:  # whatever the bundle's code raises is what is wrong with it
            while error.__cause__:  # MONAI wraps what went wrong in what it was doing
                error = error.__cause__
            passed, found = False, f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
        print(json.dumps([name, passed, found]), file=lines, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
