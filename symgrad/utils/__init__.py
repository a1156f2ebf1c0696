"""What training needs besides networks: ``symgrad.utils.data``."""

from symgrad.utils import data

__all__ = ["data"]
