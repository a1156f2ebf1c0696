"""Training on images: data sets, the compiled step, runs that resume, curves."""
