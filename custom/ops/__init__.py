"""Pure functions on arrays and tensors; nothing here imports the rest of the package."""
