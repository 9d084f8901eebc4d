"""Command lines with python-fire, which by itself would call a function before checking for unknown options."""

import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fire

from custom.configuration.kinds import fits, hints, words
from custom.errors import nearest

Function = Callable[..., Any]


class _Call:
    """A function with its arguments, called only after the whole command line has been parsed."""

    __slots__ = ("_work",)

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work


def command_line(component: Function | Mapping[str, Function], name: str) -> Any:
    """Call a function, or one of several by name, with the command line's arguments; returns its result.

    Exits with a non-zero code, before anything is done, for an unknown option, a missing or extra argument, or a value
    that does not match its annotation.

    Args:
        component: the function, or functions by the name of their command.
        name: of the script, for ``--help``.
    """
    arguments = sys.argv[1:]
    if "--" in arguments:  # followed by fire's own flags
        arguments = arguments[: arguments.index("--")]
    function = _chosen(component, arguments) if isinstance(component, Mapping) else component
    if function is not None:
        _refuse_unknown(arguments, function)
    if isinstance(component, Mapping):
        deferred = {command: _deferred(each) for command, each in component.items()}
    else:
        deferred = _deferred(component)
    call = fire.Fire(deferred, name=name, serialize=lambda _: None)  # results are not printed
    return call._work() if isinstance(call, _Call) else None


def _chosen(commands: Mapping[str, Function], arguments: Sequence[str]) -> Function | None:
    command = next((argument for argument in arguments if not argument.startswith("-")), None)
    if command is None:
        if {"--help", "-h"} & {*arguments, *sys.argv[1:]}:
            return None
        sys.exit(f"error: found no command, expected one of {', '.join(commands)}; --help shows how")
    if command not in commands:
        expected = nearest(command, commands) or f"one of {', '.join(commands)}"
        sys.exit(f"error: {command}: found no such command, expected {expected}")
    return commands[command]


def _refuse_unknown(arguments: Sequence[str], function: Function) -> None:
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]
    for argument in arguments:
        if not re.match(r"--[A-Za-z]", argument):
            continue
        name = argument[2:].partition("=")[0].replace("-", "_")
        if name not in (*names, *(f"no{known}" for known in names), "help"):
            expected = nearest(name, names)
            expected = f"--{expected}" if expected else f"one of {', '.join(f'--{known}' for known in names)}"
            sys.exit(f"error: --{name}: found no such option, expected {expected}")


def _deferred(function: Function) -> Function:
    @functools.wraps(function)
    def check(*args: Any, **kwargs: Any) -> _Call:
        annotated = hints(function)
        for name, value in inspect.signature(function).bind(*args, **kwargs).arguments.items():
            hint = annotated.get(name)
            # fire parses a name such as 2024 as a number, and one with commas as a tuple
            if not isinstance(value, tuple) and not (fits(value, hint) or fits(str(value), hint)):
                sys.exit(f"error: --{name}: found {value!r}, expected {words(hint)}")
        return _Call(functools.partial(function, *args, **kwargs))

    return check
