"""Several sections in one call, whatever becomes of each."""

import json
import sys
from types import SimpleNamespace

import pytest

from scripts import benchmark as script
from scripts.benchmarks.measure import Row


@pytest.fixture
def sections(monkeypatch):
    """Make sections from functions of the device; they are all there are, in alphabetical order."""

    def make(**runs):
        monkeypatch.setattr(script, "SECTIONS", sorted(runs))
        monkeypatch.setattr(script, "ON_A_DEVICE", tuple(sorted(runs)))
        for name, run in runs.items():
            module = SimpleNamespace(run=run, __doc__=f"About {name}.")
            monkeypatch.setitem(sys.modules, f"scripts.benchmarks.{name}", module)

    monkeypatch.setattr(script, "machine", lambda device: "A Card, 16 GB")
    return make


def met(device):
    return [Row(f"on {device}", "1 s", "2 s", 0.5, "<= 1")]


def broken(device):
    raise RuntimeError("no kernel image")


def read(folder):
    return (folder / "a-card-16-gb.md").read_text(), json.loads((folder / "a-card-16-gb.json").read_text())


def test_without_a_section_all_are_run_and_a_page_is_written(sections, tmp_path):
    sections(first=met, second=met)
    script.benchmark(device="cpu", output=str(tmp_path))
    text, content = read(tmp_path)
    assert text.startswith("# A Card, 16 GB\n\nMade by `python scripts/benchmark.py first,second --device cpu` on ")
    for part in ("## first\n\nAbout first.\n", "## second\n", "| on cpu | 1 s | 2 s | 0.5 | <= 1 | met |"):
        assert part in text
    assert list(content["sections"]) == ["first", "second"] and content["machine"] == "A Card, 16 GB"
    assert content["sections"]["first"]["rows"][0]["met"] is True
    assert "torch" in content["versions"]


def test_a_section_that_fails_is_told_and_the_next_one_is_run(sections, tmp_path):
    sections(first=broken, second=met)
    with pytest.raises(SystemExit, match="a part failed"):
        script.benchmark(output=str(tmp_path))
    text, _ = read(tmp_path)
    assert "| first | failed | RuntimeError: no kernel image |  |  | missed |" in text
    assert "| on cpu |" in text


def test_what_was_measured_before_an_interruption_is_kept(sections, tmp_path):
    def interrupted(device):
        raise KeyboardInterrupt

    sections(first=met, second=interrupted)
    with pytest.raises(KeyboardInterrupt):
        script.benchmark(output=str(tmp_path))
    assert list(read(tmp_path)[1]["sections"]) == ["first"]


def test_some_sections_by_name(sections, tmp_path):
    sections(first=broken, second=met, third=met)
    script.benchmark(("second", "third"), output=str(tmp_path))
    assert list(read(tmp_path)[1]["sections"]) == ["second", "third"]


def test_all_that_depend_on_the_device_exist():
    assert set(script.ON_A_DEVICE) < set(script.SECTIONS)
    assert "measure" not in script.SECTIONS
