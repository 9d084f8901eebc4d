"""The parts of scripts/report.py: what runs left, its pictures, its page."""
