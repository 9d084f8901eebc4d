"""Parts of ``scripts/make_kaggle_notebook.py``; the notebooks' cells are in ``notebooks/``."""
