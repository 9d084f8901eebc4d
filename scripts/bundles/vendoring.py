"""Copies the parts of the package ``custom`` that a bundle needs into its package ``scripts``."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from custom.errors import DataError

from .renaming import NAMED, PACKAGE, SOURCE, renamed_config, renamed_text


def vendor_for(bundle: Path) -> None:
    """Copy everything that a bundle's configurations and documents name into its package, and rename it in these texts.

    Raises:
        DataError: a text names something that the package does not have.
    """
    closure = _Closure()
    texts = [path for path in sorted(bundle.rglob("*")) if path.suffix in (".json", ".md")]
    for path in texts:
        for target in sorted(_named(path.read_text(encoding="utf-8"))):
            if not closure.require(target.partition(".")[2]):
                raise DataError.of(path, target, f"what the package {SOURCE.name} has")
    closure.write(bundle / PACKAGE)
    for path in texts:
        renamed = renamed_config if path.suffix == ".json" else renamed_text
        path.write_text(renamed(path.read_text(encoding="utf-8")), encoding="utf-8")


def _named(text: str) -> set[str]:
    """Dotted names of the package and its contents: written in full, or imported."""
    names = set(re.findall(rf"{NAMED}(?:\.\w+)*", text))
    for package, imported in re.findall(rf"from ({NAMED}(?:\.\w+)*) import ([\w, ]+)", text):
        names |= {f"{package}.{name.strip()}" for name in imported.split(",")}
    return names


class _Closure:
    """The required modules and, of packages that only re-export names, the required names.

    Imports are followed through all modules, including imports in functions. An ``__init__.py`` that only re-exports
    names is reduced to those in use.

    Modules are named relative to the source: ``""`` is the package itself, ``data``, ``data.cache``.
    """

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.names: dict[str, set[str]] = {}
        self._add_module("")

    def require(self, name: str) -> bool:
        """Add a module or a name in a module; returns False if it does not exist."""
        module = name
        while not _path(module).is_file():
            module = module.rpartition(".")[0]
        rest = name[len(module) :].lstrip(".").split(".")[0]
        self._add_module(module)
        if rest and module in self.names:
            return rest in self._reexported(module) and self._add_name(module, rest)
        return not rest or rest in _defined(_tree(module))

    def write(self, folder: Path) -> None:
        """Copy the modules into a folder, renamed."""
        for module in sorted(self.modules):
            path = _path(module)
            text = self._trimmed(module) if module in self.names else path.read_text(encoding="utf-8")
            file = folder / path.relative_to(SOURCE)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(renamed_text(text), encoding="utf-8")

    def _trimmed(self, package: str) -> str:
        """Return the ``__init__.py`` of a package, reduced to the required names."""
        source, names = _path(package).read_text(encoding="utf-8"), self.names[package]
        parts = []
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.ImportFrom):
                kept = ", ".join(ast.unparse(alias) for alias in statement.names if _bound(alias) in names)
                if kept:
                    parts.append(f"from {'.' * statement.level}{statement.module or ''} import {kept}")
            elif isinstance(statement, ast.Assign):
                parts.append(f"\n__all__ = {sorted(names)!r}" if names else "")
            else:
                parts.append(f"{ast.get_source_segment(source, statement)}\n")
        return "\n".join(parts).rstrip() + "\n"

    def _add_module(self, module: str) -> None:
        if module in self.modules:
            return
        self.modules.add(module)
        if module:
            self._add_module(module.rpartition(".")[0])
        tree = _tree(module)
        if _only_reexports(module, tree):
            self.names[module] = set()
            return
        for name in _imports(module, tree):
            if not self.require(name):
                raise ValueError(f"{SOURCE.name}.{module} imports {SOURCE.name}.{name}, which is not there")

    def _add_name(self, package: str, name: str) -> bool:
        if name in self.names[package]:
            return True
        self.names[package].add(name)
        return self.require(self._reexported(package)[name])

    def _reexported(self, package: str) -> dict[str, str]:
        """Origins of the names that a package re-exports."""
        return {
            _bound(alias): f"{_origin(package, statement)}.{alias.name}".lstrip(".")
            for statement in _tree(package).body
            if isinstance(statement, ast.ImportFrom)
            for alias in statement.names
        }


def _path(module: str) -> Path:
    base = SOURCE.joinpath(*module.split(".")) if module else SOURCE
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))


def _only_reexports(module: str, tree: ast.Module) -> bool:
    """Whether a file is an ``__init__.py`` with only a docstring, relative imports and ``__all__``."""
    return _path(module).name == "__init__.py" and all(
        (isinstance(statement, ast.ImportFrom) and statement.level)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        or (isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__")
        for statement in tree.body
    )


def _imports(module: str, tree: ast.Module) -> Iterator[str]:
    """Names that a module imports from the package itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            for alias in node.names:
                yield f"{_origin(module, node)}.{alias.name}".lstrip(".")


def _origin(module: str, statement: ast.ImportFrom) -> str:
    """Module of a relative import."""
    up = statement.level - (_path(module).name == "__init__.py")
    parents = module.split(".")[: len(module.split(".")) - up] if up else [module]
    return ".".join(filter(None, [*parents, statement.module]))


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name


def _defined(tree: ast.Module) -> set[str]:
    """Top-level names of a module."""
    names = set()
    for statement in tree.body:
        for node in ast.walk(statement):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.ImportFrom | ast.Import):
                names.update(_bound(alias) for alias in node.names)
    return names
