"""The parts of scripts/soak.py: odd volumes, the augmentation chain step by step, a training."""
