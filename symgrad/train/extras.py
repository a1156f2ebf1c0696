"""Packages that only training needs, imported when it does."""

from __future__ import annotations

import importlib
from typing import Any

from symgrad.ir.errors import UsageError


def optional(module: str) -> Any:
    """Import ``module`` of the extra ``train``; a missing one is an error with the remedy."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"training on images needs {error.name}: pip install 'symgrad[train]'"
        ) from error
