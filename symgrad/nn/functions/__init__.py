"""The functions behind ``symgrad.nn.functional``, by family."""
