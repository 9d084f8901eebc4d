"""A script does nothing before it has understood the whole of its command line."""

import ast
import re
import sys
from pathlib import Path

import pytest

from scripts.command_line import command_line

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((REPOSITORY / "scripts").glob("*.py"))
SCRIPTS = [path for path in SCRIPTS if path.stem not in ("command_line", "scripts")]


@pytest.fixture
def run(monkeypatch):
    """Runs a function that notes its arguments; returns them."""

    def run(*arguments, commands=False):
        calls = []

        def work(
            input: str, *more: str, size: int = 1, dry: bool = False, kinds: dict[str, float] | None = None
        ) -> str:
            calls.append((input, more, size, dry, kinds))
            return "done"

        monkeypatch.setattr(sys, "argv", ["work.py", *arguments])
        try:
            assert command_line({"work": work, "other": run} if commands else work, "work.py") == "done"
        except SystemExit:
            assert calls == []
            raise
        return calls[0]

    return run


def test_it_is_called_with_what_is_given(run):
    assert run("a", "b", "--size=3", "--dry", "--kinds={x: 1}") == ("a", ("b",), 3, True, {"x": 1})
    assert run("--input", "a", "--size", "-3", "--nodry") == ("a", (), -3, False, None)
    assert run("2024", "-s", "3") == (2024, (), 3, False, None)  # a name that is a number to fire
    assert run("work", "a", "--size", "2", commands=True) == ("a", (), 2, False, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--sise", "3"], "error: --sise: found no such option, expected --size"),
        (["a", "--kind={x: 1}"], "error: --kind: found no such option, expected --kinds"),
        (["a", "--x-y"], "error: --x_y: found no such option, expected one of --input, --size, --dry, --kinds"),
        (["a", "--dry", "false"], "error: --dry: found 'false', expected True or False"),
        (["a", "--size", "big"], "error: --size: found 'big', expected a whole number"),
        (["a", "--size", "1.5"], "error: --size: found 1.5, expected a whole number"),
        (["a", "--size"], "error: --size: found True, expected a whole number"),
        (["a", "--kinds", "x"], "error: --kinds: found 'x', expected a dict"),
    ],
)
def test_what_is_mistyped_is_refused_before_the_call(run, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["wrk", "a"], "error: wrk: found no such command, expected work"),
        ([], "error: found no command, expected one of work, other; --help shows how"),
        (["work", "a", "--siz=2"], "error: --siz: found no such option, expected --size"),
    ],
)
def test_of_several_commands(run, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run(*arguments, commands=True)
    assert stop.value.code == message


def test_a_missing_argument_and_help_end_it_too(run, capsys):
    for arguments, code in ([], 2), (["--help"], 0), (["a", "--", "--trace"], 0):
        with pytest.raises(SystemExit) as stop:
            run(*arguments)
        assert stop.value.code == code
    assert "work.py" in capsys.readouterr().err


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_reads_its_command_line_here(path):
    text = path.read_text(encoding="utf-8")
    assert "command_line(" in text and "fire.Fire(" not in text


def options_of(script: Path) -> set[str]:
    files = [script, *(script.parent / "phantoms").glob("*.py")] if script.stem == "make_phantoms" else [script]
    nodes = [node for file in files for node in ast.parse(file.read_text()).body]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    return {argument.arg for node in functions for argument in (*node.args.args, *node.args.kwonlyargs)}


def test_every_documented_option_of_a_script_exists():
    documents = [path for path in REPOSITORY.rglob("*.md") if ".venv" not in path.parts]
    seen = 0
    for path in documents:
        text = path.read_text(encoding="utf-8")
        for name, rest in re.findall(r"python scripts/(\w+)\.py\b([^`\n]*)", text):
            for option in re.findall(r"--(\w+)", rest):
                assert option in options_of(REPOSITORY / "scripts" / f"{name}.py"), f"{path}: {name}.py --{option}"
                seen += 1
    assert seen > 10
