"""Parts of scripts/report.py: reading runs, pictures, the page."""
