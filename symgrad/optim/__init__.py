"""Optimisers."""

from symgrad.optim.sgd import SGD

__all__ = ["SGD"]
