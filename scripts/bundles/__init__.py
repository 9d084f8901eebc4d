"""Parts of ``scripts/export_bundle.py`` and ``scripts/verify_bundle.py``."""
