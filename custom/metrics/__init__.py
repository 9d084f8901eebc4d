"""Scores per volume."""
