"""Import of models trained by nnU-Net, and comparison with nnU-Net."""
