"""Sections of scripts/benchmark.py, one per file; each has ``run(device) -> list[Row]``."""
