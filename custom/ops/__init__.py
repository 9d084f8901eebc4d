"""Pure functions on arrays and tensors; of the rest of the package, only modules at its top are imported."""
