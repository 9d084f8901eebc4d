"""The package's name changes where it is a name, and nowhere else."""

import ast
import json

import pytest

from scripts.bundles.renaming import SOURCE, renamed_config, renamed_text


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("_target_", "custom.data.find_cases", "scripts.data.find_cases"),
        ("a#_target_", "custom.data.find_cases", "scripts.data.find_cases"),
        ("_target_", "customary.data.find_cases", None),
        ("_target_", "monai.custom.data", None),
        (
            "x",
            "$custom.ops.boxes.f(@custom#data, @a.custom.data)",
            "$scripts.ops.boxes.f(@custom#data, @a.custom.data)",
        ),
        ("x", "$import custom.data", "$import scripts.data"),
        ("x", "$import custom", "$import scripts"),
        ("x", "$from custom import options", "$from scripts import options"),
        ("x", "$not importlib.util.find_spec('custom')", "$not importlib.util.find_spec('scripts')"),
        ("x", '$importlib.util.find_spec("custom")', '$importlib.util.find_spec("scripts")'),
        ("x", "$importlib.import_module('custom.data')", "$importlib.import_module('scripts.data')"),
        ("x", "$'/data/custom.data/' + 'custom'", None),
        ("x", "$@custom + %custom#data", None),
        ("x", "custom.data.find_cases", None),
        ("x", "the custom.data of ours", None),
        ("x", "$'\u00e9\\t' + str(custom.data)", "$'\u00e9\\t' + str(scripts.data)"),
        ("custom.data", "$x", None),
    ],
)
def test_code_of_a_configuration(key, value, expected):
    text = json.dumps({"list": ["custom.data", {key: value}], "custom": {"_target_": 'a"b'}}, indent=3)
    after = {key: value if expected is None else expected}
    assert json.loads(renamed_config(text)) == {"list": ["custom.data", after], "custom": {"_target_": 'a"b'}}
    if expected is None:
        assert renamed_config(text) == text


def test_the_layout_of_a_configuration_stays():
    text = '{\n  "a": [1, 2,   3], "_target_" :\n"custom.data.A"}'
    assert renamed_config(text) == text.replace("custom", "scripts")


def test_prose():
    text = '"custom.data.find_cases" from custom.losses import x; my.custom.data, /custom.data, custom.made'
    assert renamed_text(text) == (
        '"scripts.data.find_cases" from scripts.losses import x; my.custom.data, /custom.data, custom.made'
    )


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_no_code_of_the_package_names_it(path):
    """It would not find itself in a bundle; its imports are relative."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert all(alias.name.partition(".")[0] != SOURCE.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level or node.module.partition(".")[0] != SOURCE.name
