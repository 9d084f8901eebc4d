import logging
import os
import sys

import numpy as np
import pytest

from custom.ops import betti_counts
from custom.ops.betti import INSTALL, betti_available
from custom.ops.betti_counts import affordable_processes, match_counts, match_counts_of_all

pytestmark = pytest.mark.skipif(not betti_available(), reason=INSTALL)


@pytest.fixture
def pairs():
    generator = np.random.default_rng(0)
    return [(generator.random((9, 7, 5)) < 0.4, generator.random((9, 7, 5)) < 0.4) for _ in range(3)]


@pytest.fixture
def no_short_ways(monkeypatch):
    """Every pair goes to a process."""
    monkeypatch.setattr(betti_counts, "_counts_in_place", lambda prediction, label: None)


def fake_python(tmp_path, monkeypatch, script):
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(betti_counts.sys, "executable", str(path))


@pytest.mark.parametrize("processes", [1, 2])
def test_processes_count_the_same(pairs, processes, no_short_ways):
    done = []
    counts = match_counts_of_all(pairs, processes, done=lambda: done.append(1))
    assert [c.tolist() for c in counts] == [match_counts(*pair).tolist() for pair in pairs]
    assert len(done) == len(pairs)


def test_short_ways_count_the_same(monkeypatch):
    """Where nothing or everything matches no matching is run, and small pairs do not leave the process."""
    monkeypatch.setattr(betti_counts.subprocess, "Popen", None)
    generator = np.random.default_rng(0)
    mask = generator.random((6, 6, 6)) < 0.4
    pairs = [(mask, mask), (mask, mask & False), (mask & False, mask), (mask, ~mask), (mask, mask | True)]
    assert [c.tolist() for c in match_counts_of_all(pairs)] == [match_counts(*pair).tolist() for pair in pairs]


def test_plain_answers_need_no_matching(monkeypatch):
    monkeypatch.setattr(betti_counts, "match_counts", None)
    mask = np.random.default_rng(0).random((6, 6, 6)) < 0.4
    (same,), (none,) = match_counts_of_all([(mask, mask)]), match_counts_of_all([(mask, mask & False)])
    assert (same[:, 0] == same[:, 1]).all() and (same[:, 1] == same[:, 2]).all() and same.any()
    assert not none[:, 0].any() and none[:, 1].tolist() == same[:, 1].tolist() and not none[:, 2].any()


def test_a_killed_process_is_tried_again_alone(pairs, no_short_ways, tmp_path, monkeypatch, caplog):
    marker = tmp_path / "died"
    script = f'if [ ! -e {marker} ]; then touch {marker}; kill -9 $$; fi; exec {sys.executable} "$@"'
    fake_python(tmp_path, monkeypatch, script)
    counts = match_counts_of_all(pairs, 1)
    assert [c.tolist() for c in counts] == [match_counts(*pair).tolist() for pair in pairs]
    assert "killed" in caplog.text


def test_a_process_that_is_always_killed_is_a_memory_error(pairs, no_short_ways, tmp_path, monkeypatch):
    fake_python(tmp_path, monkeypatch, "kill -9 $$")
    with pytest.raises(MemoryError, match=r"\(9, 7, 5\)"):
        match_counts_of_all(pairs, 2)


def test_a_process_that_fails_is_an_error(pairs, no_short_ways, tmp_path, monkeypatch):
    fake_python(tmp_path, monkeypatch, "exit 3")
    with pytest.raises(RuntimeError, match="failed"):
        match_counts_of_all(pairs, 2)


def test_processes_are_limited_by_memory_and_said_so(monkeypatch, caplog):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    each = 100**3 * betti_counts.BYTES_PER_VOXEL
    for free, expected in ((8.5 * each, 8), (3.5 * each, 3), (0.1 * each, 1), (None, 8)):
        monkeypatch.setattr(betti_counts, "free_bytes", lambda free=free: free)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert affordable_processes(100**3) == expected
        assert bool(caplog.records) == (expected < 8)


def test_the_processes_of_torchrun_share_cores_and_memory(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    each = 100**3 * betti_counts.BYTES_PER_VOXEL
    for free, expected in ((100 * each, 2), (7 * each, 1)):
        monkeypatch.setattr(betti_counts, "free_bytes", lambda free=free: free)
        assert affordable_processes(100**3) == expected
