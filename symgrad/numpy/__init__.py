"""NumPy's functions, names and semantics, for plain arrays and for traced ones.

On plain arrays a function is NumPy's own.  On traced ones it emits IR; calling
``numpy`` itself does the same through NumPy's protocols.  ``SUPPORTED`` lists what can
be traced; every other name is NumPy's.
"""

from typing import Any

import numpy as _np

from symgrad.numpy import (  # noqa: F401  (they enter their functions in SUPPORTED)
    analysis,
    creation,
    elementwise,
    factors,
    indexing,
    joining,
    linalg,
    order,
    products,
    reductions,
)
from symgrad.numpy import shape as _shape  # noqa: F401
from symgrad.numpy.core import SUPPORTED

_FUNCTIONS = {name: f for name, f in SUPPORTED.items() if "." not in name}

__all__ = ["SUPPORTED", "linalg", *_FUNCTIONS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(_np, name)


def __dir__() -> list[str]:
    return sorted({*__all__, *dir(_np)})


globals().update(_FUNCTIONS)
