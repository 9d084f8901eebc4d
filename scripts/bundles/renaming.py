"""Renames the package ``custom`` to ``scripts`` in an exported bundle.

The model zoo calls a bundle's package ``scripts``, and MONAI Label unloads this name when it switches bundles. Imports
within the package are relative and need no change. Rewritten are code in configurations, documents, docstrings and
comments.
"""

import io
import json
import re
import tokenize
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


def renamed_module(text: str) -> str:
    """Rename the package in docstrings and in comments on their own line."""
    lines = text.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        prose = token.type == tokenize.COMMENT or (token.type == tokenize.STRING and '"""' in token.string[:4])
        if prose and not token.line[: token.start[1]].strip():
            for number in range(token.start[0] - 1, token.end[0]):
                lines[number] = renamed_text(lines[number])
    return "".join(lines)


def renamed_text(text: str) -> str:
    """Rename ``custom.data...`` to ``scripts.data...`` in prose or in one expression."""
    return re.sub(NAMED, lambda found: PACKAGE + found[0].removeprefix(SOURCE.name), text)
