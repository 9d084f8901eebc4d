"""Common parts of the experiment scripts."""
