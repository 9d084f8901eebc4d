"""The package ``scripts`` as ``python scripts/score.py`` sees it, which looks for modules in this folder alone.

Importing it, as every script does first, makes the repository's packages importable without an installation. Where the
repository's root is on Python's path, the folder itself is the package and this file is not read.
"""

import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent

__path__ = [str(_FOLDER)]
sys.path.insert(0, str(_FOLDER.parent))
