"""Pure functions on arrays and tensors, which import only top-level modules of this package."""
