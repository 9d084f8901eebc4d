"""Checks of a bundle's files without running any of its code."""

import ast
import json
import re
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from custom.errors import DataError
from custom.system.identity import sha256
from custom.system.state_dict import read_state_dict

from .archive import SUMS, files_of
from .configs import check_version, read_json

SCHEMA = Path(__file__).resolve().parents[1] / "schemas" / "metadata.json"
REQUIRED = (
    *("LICENSE", "configs/metadata.json", "configs/train.json", "configs/evaluate.json", "configs/inference.json"),
    *("configs/logging.conf", "docs/README.md", "models/model.pt"),
)
DISTRIBUTIONS = {"cc3d": "connected-components-3d", "ignite": "pytorch-ignite", "skimage": "scikit-image"}
"""Distribution names of packages whose import name differs."""
REACH_S = 5.0
"""Timeout in seconds for the official schema."""


@dataclass(frozen=True)
class Source:
    """A bundle to check.

    Attributes:
        folder: the bundle.
        sums: published checksums of its files by relative path; empty if there are none.
        offline: whether to skip the official schema.
    """

    folder: Path
    sums: dict[str, str]
    offline: bool = False

    @property
    def meta_file(self) -> Path:
        return self.folder / "configs" / "metadata.json"

    @property
    def metadata(self) -> dict[str, Any]:
        return read_json(self.meta_file)


def required_files(source: Source) -> str:
    """All files required by the model zoo exist, and none is a link."""
    missing = [name for name in REQUIRED if not (source.folder / name).is_file()]
    if missing:
        listed = {entry["path"] for entry in large_file_list(source.folder)} & set(missing)
        hint = f"; python -m monai.bundle download_large_files --bundle_path {source.folder}" if listed else ""
        raise DataError.of(source.folder, f"no {', '.join(missing)}", f"{len(REQUIRED)} files{hint}")
    links = [path.relative_to(source.folder).as_posix() for path in source.folder.rglob("*") if path.is_symlink()]
    if links:
        raise DataError.of(source.folder, f"the link {links[0]}", "files of its own: export it first")
    return f"{len(REQUIRED)} there, no links"


def checksums(source: Source) -> str:
    """Every file matches its published checksum."""
    _compare(source.folder, source.sums, SUMS)
    return f"{len(source.sums)} files as in {SUMS}" if source.sums else f"no {SUMS} beside it"


def large_files(source: Source) -> str:
    """The files listed in large_files.yml exist and match their checksums."""
    entries = large_file_list(source.folder)
    _compare(source.folder, {entry["path"]: entry["hash_val"] for entry in entries}, "large_files.yml")
    return f"{len(entries)} files as listed" if entries else "none listed"


def large_file_list(folder: Path) -> list[dict[str, str]]:
    """Return the entries of large_files.yml.

    Raises:
        DataError: an entry has a wrong type, or a path outside of the bundle.
    """
    path = folder / "large_files.yml"
    if not path.is_file():
        return []
    try:
        entries = ConfigParser.load_config_file(path)["large_files"]
        wrong = [entry for entry in entries if not _is_large_file(entry, folder.resolve())]
    except Exception as error:  # the parsers of YAML and MONAI raise various types
        raise DataError.of(path, f"{type(error).__name__} {error}".splitlines()[0], "a list of large files") from None
    if wrong:
        raise DataError.of(path, str(wrong[0]), "a path within the bundle, a URL of https:// and a hash_val of sha256")
    return entries


def _is_large_file(entry: dict[str, str], folder: Path) -> bool:
    inside = (folder / entry["path"]).resolve().is_relative_to(folder)
    hashed = entry["hash_type"] == "sha256" and re.fullmatch("[0-9a-f]{64}", entry["hash_val"])
    return bool(inside and hashed and entry["url"].startswith("https://"))


def _compare(folder: Path, sums: dict[str, str], where: str) -> None:
    """Compare files with their checksums.

    Raises:
        DataError: a file is missing, or differs from the checksum given by ``where``.
    """
    for name, value in sums.items():
        path = folder / name
        if not path.is_file():
            raise DataError.of(path, "no such file", f"the one that {where} names")
        if sha256(path) != value:
            raise DataError.of(path, "another content", f"the checksum in {where}")


def metadata(source: Source) -> str:
    """The metadata have all fields, of the right type, and describe the network's tensors."""
    content = source.metadata
    _validate(content, read_json(SCHEMA), source.meta_file)
    for tensors in content["network_data_format"].values():
        for name, tensor in tensors.items():
            if len(tensor.get("channel_def", {})) not in (0, tensor["num_channels"]):
                found = f"{len(tensor['channel_def'])} descriptions for {tensor['num_channels']} channels of {name}"
                raise DataError.of(source.meta_file, found, "one for each")
    return f"as {SCHEMA.name} of this project requires, the fields of {Path(content['schema']).stem}"


def official_schema(source: Source) -> str:
    """The metadata are valid by the schema they name, if it can be downloaded."""
    content = source.metadata
    if source.offline:
        return "not asked for"
    if not str(content["schema"]).startswith("https://"):
        raise DataError.of(source.meta_file, content["schema"], "https://... as schema")
    try:
        with urllib.request.urlopen(content["schema"], timeout=REACH_S) as answer:
            schema = json.loads(answer.read(2**20))
    except (OSError, ValueError, urllib.error.URLError) as error:
        return f"not reached ({getattr(error, 'reason', error)})"
    _validate(content, schema, source.meta_file)
    return content["schema"]


def version(source: Source) -> str:
    """The version is the newest in the changelog."""
    return check_version(source.metadata, source.meta_file)


def configurations(source: Source) -> str:
    """Every configuration is valid JSON. MONAI checks the entries that a workflow needs when it runs."""
    files = sorted((source.folder / "configs").glob("*.json"))
    for path in files:
        read_json(path)
    return f"{len(files)} JSON files"


def package(source: Source) -> str:
    """The bundle's Python imports only itself, the standard library and packages listed in the metadata."""
    content, files = source.metadata, [path for path in files_of(source.folder) if path.suffix == ".py"]
    listed = {"torch", "monai", "numpy", *content["required_packages_version"]}
    listed |= set(content.get("extra_packages_version", {}))
    for path in files:
        for line, name in _imports(path):
            if name not in sys.stdlib_module_names and DISTRIBUTIONS.get(name, name) not in listed:
                raise DataError.of(path, f"an import of {name} in line {line}", "relative ones, or of listed packages")
    return f"{len(files)} Python files, which import what the metadata list"


def weights(source: Source) -> str:
    """model.pt is a flat state dict, readable without executing code, and no larger in memory than on disk."""
    path = source.folder / "models" / "model.pt"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise DataError.of(path, "packed tensors", "plain ones, as torch.save writes them")
    state = read_state_dict(path)
    for name, value in state.items():
        if value.nbytes > path.stat().st_size:
            raise DataError.of(path, f"{name} of shape {tuple(value.shape)}", "tensors that are whole in the file")
        if value.is_floating_point() and not value.isfinite().all():
            raise DataError.of(path, f"values in {name} that are not finite", "finite ones")
    return f"{len(state)} tensors, {sum(value.numel() for value in state.values()) / 1e6:.1f} million values, flat"


CHECKS: dict[str, Callable[[Source], str]] = {
    "files": required_files,
    "checksums": checksums,
    "large files": large_files,
    "metadata": metadata,
    "official schema": official_schema,
    "version and changelog": version,
    "configurations": configurations,
    "package": package,
    "weights": weights,
}


def _imports(path: Path) -> Iterator[tuple[int, str]]:
    """Lines and top-level names of a Python file's absolute imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError.of(path, f"{type(error).__name__}: {error}", "Python") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, str(node.module).split(".")[0]
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)


def _validate(content: dict[str, Any], schema: dict[str, Any], path: Path) -> None:
    import jsonschema  # of the extra dev

    validator = jsonschema.validators.validator_for(schema)(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(content))
    if error is not None:
        raise DataError.of(path, f"{error.message} (in {error.json_path})", "what the schema requires")
