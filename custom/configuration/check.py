"""Detection of unused options and of values of a wrong type."""

import inspect
import itertools
import logging
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import DataError, nearest
from .declared import Declared, settings, values
from .kinds import fits, hint_of, hints, is_code, is_component, words
from .references import SEPARATOR, References, is_within, join, shown, target_of, walk
from .renamed import RENAMED

if TYPE_CHECKING:
    from monai.bundle import ConfigParser, ConfigWorkflow

_RUNS = ("imports", "initialize", "run", "finalize")
"""Entries that MONAI reads."""
_ALWAYS = {"_meta_", "_desc_", "bundle_root", "hypothesis"}
"""Entries that are allowed without a reference: metadata, comments, the bundle's folder, a text for reports."""
_PARTS = {"_target_", "_disabled_", "_requires_", "_desc_", "_mode_"}
"""Keys of a component that are not arguments."""
_AT_LEAST_ONE = ("epochs", "steps_per_epoch", "batch_size", "accumulation_steps", "val_interval", "sw_batch_size")
"""Options that expressions and MONAI's components use, which report other values by their own names, or not at all."""
logger = logging.getLogger(__name__)

Problem = tuple[str, str, str]
"""Id, what was found, and what was expected."""


def check_options(
    parser: "ConfigParser", workflow: "ConfigWorkflow | None" = None, *, strict: bool | None = None
) -> None:
    """Raise for a configuration with unused entries or values of a wrong type, in one line.

    MONAI accepts any key, so a misspelt option would silently have no effect. An entry is used if another one refers to
    it (``@id``, ``%id``) or if MONAI or the workflow reads it; an entry of a component, if it is an argument of it. A
    value is valid if it has the type of the bundle's default or of the argument's annotation. Entries of an override
    file in the bundle may be unused in some workflows (``quickstart.json`` serves all of them). An entry whose reader
    was replaced by an override gives a warning.

    Args:
        strict: whether unknown keys that do not resemble a known one also raise. By default only with a workflow, since
            applications that parse a configuration themselves may add keys.

    Raises:
        DataError: names the ids and the most similar known ones, or the expected values.
    """
    checked = _Checked(parser, workflow)
    strict = workflow is not None if strict is None else strict
    problems: dict[str, Problem] = {}
    for problem in (
        *checked.renamed(),
        *checked.dropped(),
        *checked.runs(),
        *checked.unread(strict),
        *checked.arguments(),
        *checked.kinds(),
        *checked.counts(),
        *checked.device(),
    ):
        problems.setdefault(problem[0], problem)
    if problems:
        lines = [f"{shown(id)}: found {found}, expected {expected}" for id, found, expected in problems.values()]
        raise DataError("; ".join(lines))


class _Checked:
    def __init__(self, parser: "ConfigParser", workflow: "ConfigWorkflow | None") -> None:
        self.parser, self.workflow = parser, workflow
        self.config: dict[str, Any] = parser.get()
        self.references = References(self.config)
        root = self.config.get("bundle_root")
        folders = [workflow.config_root_path] if workflow is not None else []
        folders += [Path(root, "configs")] if isinstance(root, str) and not root.startswith("$") else []
        self.declared = Declared(folder.resolve() for folder in folders)
        self.asked = {*_RUNS}
        if workflow is None:  # applications may read any of the ids of MONAI's workflows
            self.asked |= {id.split(SEPARATOR)[0] for id in _properties()}
        else:
            self.asked |= {workflow.init_id, workflow.run_id, workflow.final_id}

    def renamed(self) -> Iterator[Problem]:
        for old, new in RENAMED.items():
            id = old.replace("#", SEPARATOR)
            # an old name of one bundle may be a valid option of the other
            if id in self.parser and not self.references.reach(id) and not self.declared.readers(id):
                yield id, "the name that this option had in version 0.1.0", new

    def dropped(self) -> Iterator[Problem]:
        """Yield options of the command line with None, which MONAI drops: the default would stay in force."""
        for word, following in itertools.pairwise([*sys.argv, ""] if self.workflow is not None else []):
            name, _, value = word.partition("=")
            id = name.removeprefix("--").replace("#", SEPARATOR)
            if name.startswith("--") and (value or following) == "None" and id in self.parser and self.parser[id]:
                yield id, "None, which MONAI ignores", "'$None', or null in an override file"

    def counts(self) -> Iterator[Problem]:
        for id in _AT_LEAST_ONE:
            value = self.config.get(id)
            if isinstance(value, int) and value < 1:
                yield id, str(value), "1 or more"

    def runs(self) -> Iterator[Problem]:
        """Yield missing entries that are to be run; MONAI ignores a missing initialize and finalize."""
        if self.workflow is None:
            return
        programs = [key for key, value in self.config.items() if _is_program(value)]
        for id, default in (("init_id", "initialize"), ("run_id", None), ("final_id", "finalize")):
            name = getattr(self.workflow, id)
            if name not in self.parser and name != default:
                yield id, f"{name!r}, which is not there", nearest(name, programs) or f"one of {', '.join(programs)}"

    def unread(self, strict: bool) -> Iterator[Problem]:
        if not strict and not self.declared.files:
            return
        read = dict(self._entries())
        if all(read.values()):
            return
        known = [id for id, is_read in read.items() if is_read]
        known += [*self.references.targets, *self.declared.known, *_RUNS, *_arguments_of_monai()]
        names = list(map(shown, known))
        for id in (id for id, is_read in read.items() if not is_read):
            near, readers = nearest(shown(id), names), self.declared.readers(id)
            if readers:
                yield from self._unused(id, readers)
            elif strict or near:
                yield id, "an option that nothing reads", near or f"a known one, or a reference to it (@{id})"

    def _unused(self, id: str, readers: list[str]) -> Iterator[Problem]:
        """Check an entry that is read in another of the bundle's files, or whose reader was replaced by an override."""
        if self.declared.gives(id, self.parser):
            return
        if any(self.declared.is_part(name, self.parser) for name in readers):
            logger.warning("%s: nothing reads this option in this run", shown(id))
        else:
            yield id, "an option that nothing reads in this run", f"one that does ({readers[0]} has a use for it)"

    def arguments(self) -> Iterator[Problem]:
        for id, component, target in self._components:
            try:
                parameters = inspect.signature(target).parameters
            except (TypeError, ValueError):  # some C classes have no signature
                continue
            if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
                continue
            for key in sorted(component.keys() - parameters.keys() - _PARTS):
                found = f"no such argument of {component['_target_']}"
                near = nearest(key, [*parameters, *_PARTS])
                yield join(id, key), found, shown(join(id, near)) if near else f"one of {', '.join(parameters)}"

    def kinds(self) -> Iterator[Problem]:
        """Yield values of a wrong type, by the defaults and by the annotations of this package's components."""
        for id, value, defaults in values(self.config, self.declared):
            wanted = [hint_of(default, is_knob=id in self.config) for default in defaults]
            if None not in wanted and not any(fits(value, hint) for hint in wanted):
                yield id, quoted(value), _like(defaults[0])
        for id, component, target in self._components:
            if getattr(target, "__module__", "").split(".")[0] != __name__.split(".")[0]:
                continue
            annotated = hints(target)
            for key in sorted(component.keys() & annotated.keys()):
                source, value = self._source(join(id, key), component[key])
                if not fits(value, annotated[key]):
                    yield source, quoted(value), f"{words(annotated[key])} ({key} of {component['_target_']})"

    def device(self) -> Iterator[Problem]:
        name = self.config.get("device")
        if not isinstance(name, str) or is_code(name):
            return
        try:
            is_cuda = torch.device(name).type == "cuda"
        except RuntimeError:
            yield "device", repr(name), "a device as torch names it: cpu, cuda or cuda:0"
            return
        if is_cuda and not torch.cuda.is_available():
            yield "device", f"{name!r}, but torch finds no GPU", "cpu, or a build of torch that serves the GPU"

    def _entries(self) -> Iterator[tuple[str, bool]]:
        """Yield the ids of top-level entries and of entries of their groups, and whether they are read."""
        for key, value in self.config.items():
            if key in _ALWAYS:
                continue
            is_read = key in self.asked or self.references.reach(key) or self.references.is_copied(key)
            is_read = is_read or (_is_program(value) and not nearest(key, _RUNS, 0.75))
            yield key, is_read
            if is_read and self.references.reach(key):
                yield from self._group(key, value)

    def _group(self, id: str, value: Any) -> Iterator[tuple[str, bool]]:
        if not isinstance(value, Mapping) or is_component(value):
            return
        if not self.references.names(id):
            for key, item in value.items():
                inner = join(id, key)
                yield inner, self.references.reach(inner)
                if self.references.reach(inner):
                    yield from self._group(inner, item)
        elif settings(value):  # read as a whole by a component
            defaults = [default for default in self.declared.defaults(id) if isinstance(default, Mapping)]
            declared = {key for default in defaults for key in default}
            for key in value if defaults else ():
                yield join(id, key), key in declared or self._is_key_elsewhere(key, id)
            yield from ((join(id, key), True) for key in declared - value.keys())

    def _is_key_elsewhere(self, key: str, place: str) -> bool:
        """Whether another mapping has this key, such as the losses for a mapping of their weights."""
        others = (value for id, value in walk(self.config) if not is_within(id, place))
        return any(isinstance(value, Mapping | list) and key in value for value in others)

    @cached_property
    def _components(self) -> list[tuple[str, Mapping[str, Any], Any]]:
        """Id, entries, and class or function of each component that can be located."""
        components = ((id, value) for id, value in walk(self.config) if is_component(value))
        found = ((id, value, target_of(value, self.parser)) for id, value in components)
        return [(id, value, target) for id, value, target in found if target is not None]

    def _source(self, id: str, value: Any) -> tuple[str, Any]:
        while isinstance(value, str) and value.startswith("@") and value[1:] in self.parser:
            id, value = value[1:], self.parser[value[1:]]
        return id, value


def _is_program(value: Any) -> bool:
    expressions = [isinstance(item, str) and item.startswith("$") for item in value] if isinstance(value, list) else []
    return any(expressions) and all(
        is_expression or is_component(item) for is_expression, item in zip(expressions, value, strict=True)
    )


def _properties() -> set[str]:
    from monai.bundle.properties import InferProperties, TrainProperties

    return {str(entry["id"]) for entry in (*InferProperties.values(), *TrainProperties.values())}


def _arguments_of_monai() -> set[str]:
    """Options of MONAI's commands; keys that resemble them are misspelt options."""
    from monai.bundle import ConfigWorkflow, create_workflow, onnx_export, run

    functions = (run, create_workflow, ConfigWorkflow, onnx_export)
    return {name for function in functions for name in inspect.signature(function).parameters} - {"override", "kwargs"}


def _like(default: Any) -> str:
    if is_component(default):
        return f"a component such as {default['_target_']}"
    return words(type(default)) + ("" if isinstance(default, bool | Mapping) else f" such as {quoted(default)}")


def quoted(value: Any) -> str:
    """Return a value as shown in messages."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
