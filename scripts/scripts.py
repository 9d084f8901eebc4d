"""The package ``scripts`` for ``python scripts/score.py``, which looks for modules in this folder only.

Every script imports it first, which makes the repository's packages importable without an installation. If the
repository's root is on Python's path, the folder itself is the package and this file is not used.
"""

import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent

__path__ = [str(_FOLDER)]
sys.path.insert(0, str(_FOLDER.parent))
