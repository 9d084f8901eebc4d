"""Renames the package ``custom`` to ``scripts`` in an exported bundle.

The model zoo calls a bundle's package ``scripts``, and MONAI Label unloads this name when it switches bundles. Imports
within the package are relative and need no change.
"""

import json
import re
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "custom"
PACKAGE = "scripts"

_TOPS = sorted(path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file())
NAMED = rf"(?<![\w./@#%-]){SOURCE.name}\.(?:{'|'.join(_TOPS)})\b"
"""The package followed by one of its modules; not a folder, a MONAI reference or an attribute with that name."""
_ALONE = rf"(?<=\bfind_spec\(['\"]){SOURCE.name}(?=['\"]\))|(?<=\bimport ){SOURCE.name}\b|(?<=\bfrom ){SOURCE.name}\b"
_STRING = re.compile(r'(?P<string>"(?:[^"\\]|\\.)*")(?P<colon>\s*:)?')


def renamed_config(text: str) -> str:
    """Rename the package in a configuration's ``_target_`` values and ``$`` expressions, keeping the layout."""
    key = ""

    def rename(found: re.Match) -> str:
        nonlocal key
        value = json.loads(found["string"])
        if found["colon"]:
            key = value
        elif value.startswith("$") or key.endswith("_target_"):
            new = re.sub(_ALONE, PACKAGE, renamed_text(value))
            return found[0] if new == value else json.dumps(new, ensure_ascii=False)
        return found[0]

    return _STRING.sub(rename, text)


def renamed_text(text: str) -> str:
    """Rename ``custom.data...`` to ``scripts.data...`` in prose, a module or one expression."""
    return re.sub(NAMED, lambda found: PACKAGE + found[0].removeprefix(SOURCE.name), text)
