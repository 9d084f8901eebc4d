"""The code in a bundle's configurations: ``$`` expressions and ``_target_`` names, and which of it is expected.

This is no sandbox: the Python files of a bundle are code as well. It tells whether reading the configurations alone
is enough to know what they do.
"""

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

ALLOWED = (
    *("print", "len", "int", "float", "str", "bool", "list", "dict", "tuple", "range", "min", "max", "sum", "round"),
    *("os.environ", "os.path.join", "os.path.basename", "time.strftime", "monai.utils.set_determinism"),
    *("torch.device", "torch.float16", "torch.float32", "torch.bfloat16"),
    *(f"torch.cuda.{name}" for name in ("is_available", "set_device", "device_count", "is_bf16_supported")),
    *(
        f"torch.distributed.{name}"
        for name in ("get_rank", "get_world_size", "init_process_group", "destroy_process_group", "is_initialized")
    ),
)
"""What an expression may call or read, beside what ``@`` refers to."""

MODULES = ("os", "time", "monai", "torch")
COMPONENTS = tuple(
    f"monai.{name}."
    for name in ("data", "engines", "handlers", "inferers", "losses", "metrics", "networks", "optimizers", "transforms")
)
"""Where MONAI has what configurations are made of; elsewhere it can call anything by its name."""
TARGETS = ("scripts.", "torch.nn.", "torch.optim.", "ignite.", *COMPONENTS)
_REFERENCE = re.compile(r"@+\w*(?:(?:#|::)\w+)*")
_NODES = (
    *(ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Attribute, ast.Subscript, ast.Slice, ast.Call, ast.keyword),
    *(ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.List, ast.Tuple, ast.Dict),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)


def strings(config: Any, place: str = "") -> Iterator[tuple[str, str, str]]:
    """All strings of a configuration: where (``train#trainer``), under which key, and the string."""
    if isinstance(config, dict | list):
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            if isinstance(value, str):
                yield place, str(key), value
            else:
                yield from strings(value, f"{place}#{key}" if place else str(key))


def unexpected(key: str, text: str, package: Path) -> str | None:
    """What of a configuration's string is more than one expects; None if nothing is.

    Args:
        key: it stands under.
        text: the string.
        package: the folder ``scripts`` of the bundle.
    """
    if key == "_target_":
        return None if _is_known_target(text, package) else f"_target_ {text}"
    if text.startswith("%") and re.search(r"[/\\]|\.(json|ya?ml)\b", text):
        return f"{text}, a reference to a file"
    if not text.startswith("$"):
        return None
    code = text[1:].strip()
    if code in {f"import {module}" for module in MODULES}:
        return None
    try:
        tree = ast.parse(_REFERENCE.sub("_reference", code), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text
    return None if _is_plain(tree) else text


def _is_known_target(name: str, package: Path) -> bool:
    if not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", name):
        return False
    if name.startswith("scripts."):
        module = package.joinpath(*name.split(".")[1:-1])
        return module.with_suffix(".py").is_file() or (module / "__init__.py").is_file()
    return name.startswith(TARGETS) if "." in name else _is_component(name)


def _is_component(name: str) -> bool:
    """Whether MONAI finds a name without dots among its components; it takes others from Python itself."""
    found = _locator().get_component_module_name(name) or []
    return any(f"{module}.".startswith(COMPONENTS) for module in ([found] if isinstance(found, str) else found))


@lru_cache(1)
def _locator() -> Any:
    from monai.bundle.config_item import ComponentLocator  # slow to load: not for --help

    return ComponentLocator()


def _is_plain(tree: ast.AST) -> bool:
    within = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            return False
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            return False
        # the outermost attribute of a chain says all of it
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in within and not _is_allowed(node):
            return False
    return True


def _is_allowed(node: ast.AST) -> bool:
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id == "_reference":
        return True  # an attribute of a reference or of an expression, which is looked at by itself
    dotted = ".".join([node.id, *names])
    return any(dotted == allowed or dotted.startswith(f"{allowed}.") for allowed in ALLOWED)
