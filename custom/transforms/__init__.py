"""MONAI dictionary transforms: augmentation, targets, post-processing."""
