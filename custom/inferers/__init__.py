"""How a network sees a volume that is larger than its input."""
