"""Kaggle competitions: predictions within a time limit, and verified submissions."""
