"""Memory, from allocations of known size."""

import subprocess
import sys
from mmap import PAGESIZE, mmap
from pathlib import Path

import numpy as np
import pytest

from custom.system import memory
from custom.system.memory import free_bytes, peak_bytes, resident_bytes, usable_cores

MIB = 2**20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@LINUX
def test_memory_of_this_process():
    """Straight from the system: what an allocator hands out may be memory that it kept."""
    before = resident_bytes()
    with mmap(-1, 64 * MIB) as held:
        for page in range(0, 64 * MIB, PAGESIZE):
            held[page] = 1
        assert 60 * MIB < resident_bytes() - before < 80 * MIB


@LINUX
def test_memory_of_workers_counts():
    before = resident_bytes()
    code = "data = bytearray(b'1') * 100 * 2**20; print('ready', flush=True); input()"
    worker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert worker.stdout.readline() == b"ready\n"
    assert resident_bytes() - before > 95 * MIB
    worker.communicate(b"\n")


@LINUX
def test_mapped_files_do_not_count(tmp_path):
    np.save(tmp_path / "big.npy", np.ones(64 * MIB, np.uint8))
    before = resident_bytes()
    mapped = np.load(tmp_path / "big.npy", mmap_mode="r")
    assert int(mapped.sum(dtype=np.int64)) == 64 * MIB  # all of it was read
    assert resident_bytes() - before < 8 * MIB


@LINUX
def test_the_peak_is_this_programs_own():
    """What was freed counts; what the process that started it holds does not."""
    held = np.ones(400 * MIB, np.uint8)
    code = """
import sys
from custom.system.memory import peak_bytes
before = peak_bytes()
data = bytearray(b'1') * 100 * 2**20
del data
print(before, peak_bytes())
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={"PYTHONPATH": str(root)},
    )
    before, after = map(int, done.stdout.split())
    assert before < 400 * MIB <= held.nbytes <= peak_bytes()
    assert 95 * MIB < after - before < 105 * MIB


@LINUX
def test_free_memory_is_within_the_machine_and_the_limit_of_the_container(monkeypatch, tmp_path):
    assert 0 < free_bytes() < 2**50
    texts = {"meminfo": "MemTotal: 9 kB\nMemAvailable: 8 kB\n", "memory.max": "7000\n", "memory.current": "3000\n"}
    texts["memory.stat"] = "anon 1800\nfile 1200\nshmem 200\ninactive_file 900\nactive_file 100\n"
    monkeypatch.setattr(Path, "read_text", lambda path: texts[path.name])
    assert free_bytes() == 5000  # files in memory give way
    texts["memory.max"] = "max\n"
    assert free_bytes() == 8192
    texts["meminfo"] = ""
    assert free_bytes() is None


@pytest.mark.parametrize(("limit", "expected"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1)])
def test_cores_within_a_containers_limit(monkeypatch, tmp_path, limit, expected):
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr(memory, "_CONTROL_GROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    assert usable_cores() == expected


def test_cores_within_the_limit_of_an_older_container(monkeypatch, tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    monkeypatch.setattr(memory, "_CONTROL_GROUP", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    assert usable_cores() == 3
