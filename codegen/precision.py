"""How exact the convolutions of a program are.

``"default"`` admits every algorithm whose largest error, relative to the largest result,
stays within about ten roundings of the dtype.  ``"high"`` keeps to direct sums and to
F(2 x 2, 3 x 3), which are as exact as PyTorch's.
"""

from __future__ import annotations

import os

PRECISIONS = ("default", "high")
_chosen: list[str] = []
"""What was set, if anything was."""


def checked(precision: str, who: str) -> str:
    """``precision`` itself; raises ``ValueError`` unless it is one of ``PRECISIONS``."""
    if precision not in PRECISIONS:
        names = " or ".join(map(repr, PRECISIONS))
        raise ValueError(f"{who}: a precision is {names}, got {precision!r}")
    return precision


def get_conv_precision() -> str:
    """What was set last, else ``SYMGRAD_CONV_PRECISION``, else ``"default"``."""
    if _chosen:
        return _chosen[0]
    name = "SYMGRAD_CONV_PRECISION"
    return checked(os.environ.get(name, "") or PRECISIONS[0], name)


def set_conv_precision(precision: str) -> None:
    """Sets the precision of the convolutions in programs compiled from now on."""
    _chosen[:] = [checked(precision, "set_conv_precision")]
