"""Parts of scripts/soak.py: extreme volumes, augmentation step by step, training."""
