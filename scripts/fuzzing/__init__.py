"""Damaged files of every format, read here and by independent readers."""
