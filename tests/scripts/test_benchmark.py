"""The benchmark's frame on made-up rows, and its sections at sizes where timings say nothing."""

import json
import sys
from types import SimpleNamespace

import pytest

from scripts import benchmark as script
from scripts.benchmarks import data
from scripts.benchmarks.measure import Row, not_measured

FAST = Row("reading", "1 ms", "7 ms", 7.0, ">= 5")
SLOW = Row("stepping", "1.2 s", "1 s", 1.2, "<= 1.05")
NOWHERE = not_measured("flying", "needs wings", ">= 2")


@pytest.fixture
def section(monkeypatch):
    """Make a section that gives rows."""

    def make(*rows):
        monkeypatch.setattr(script, "SECTIONS", ["made_up"])
        monkeypatch.setitem(sys.modules, "scripts.benchmarks.made_up", SimpleNamespace(run=lambda device: list(rows)))

    return make


def test_prints_the_table_and_writes_the_same_as_json(section, capsys, tmp_path):
    section(FAST, NOWHERE)
    script.benchmark("made_up", json=str(tmp_path / "here" / "rows.json"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("made_up on ")
    assert lines[3:] == [
        "| what | ours | theirs | ratio | goal | |",
        "| --- | --- | --- | --- | --- | --- |",
        "| reading | 1 ms | 7 ms | 7 | >= 5 | met |",
        "| flying | not measured | needs wings |  | >= 2 |  |",
    ]
    content = json.loads((tmp_path / "here" / "rows.json").read_text())
    assert (content["section"], content["device"]) == ("made_up", "cpu")
    assert content["rows"] == [
        {"what": "reading", "ours": "1 ms", "theirs": "7 ms", "ratio": 7.0, "goal": ">= 5", "met": True},
        {
            **{"what": "flying", "ours": "not measured", "theirs": "needs wings"},
            **{"ratio": None, "goal": ">= 2", "met": None},
        },
    ]


def test_a_missed_goal_is_said_written_and_the_exit_code(section, capsys, tmp_path):
    section(FAST, SLOW)
    with pytest.raises(SystemExit) as stop:
        script.benchmark("made_up", json=str(tmp_path / "rows.json"))
    assert stop.value.code  # a message: the interpreter prints it and exits with 1
    assert "| stepping | 1.2 s | 1 s | 1.2 | <= 1.05 | missed |" in capsys.readouterr().out
    assert [row["met"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]] == [True, False]


def test_an_unknown_section_is_refused_with_those_there_are():
    with pytest.raises(SystemExit, match=r"'date', expected one of .*data"):
        script.benchmark("date")


TINY = data.Sizes(scroll=32, patch=(16, 24, 24), ct=64, slices=16, repeats=1)


@pytest.mark.slow
def test_data_measures_every_row():
    rows = data.run("cpu", TINY)
    goals = [row.goal for row in rows]
    assert goals == [">= 100", ">= 100", ">= 3"]
    assert all(row.ratio > 0 for row in rows)
