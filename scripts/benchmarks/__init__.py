"""Sections of scripts/benchmark.py, one a file; each has ``run(device) -> list[Row]``."""
