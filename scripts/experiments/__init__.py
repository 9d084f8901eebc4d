"""What the experiments' scripts share."""
