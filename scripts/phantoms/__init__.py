"""Synthetic data in the layouts of the real datasets, for examples, tests and the quickstart."""

from .abdomen import Abdomen, abdomen_phantom
from .layouts import write_abdomens, write_scrolls
from .scroll import scroll_id, scroll_phantom

__all__ = ["Abdomen", "abdomen_phantom", "scroll_id", "scroll_phantom", "write_abdomens", "write_scrolls"]
