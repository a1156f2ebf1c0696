"""Training on images: data sets, checkpoints, curves."""
