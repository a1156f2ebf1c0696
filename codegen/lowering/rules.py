"""The lowering rules, by op name, and the modules they are in.

A program's ops seldom belong to more than a few families, and to import all of them takes
longer than to compile a small program: a family is imported at the first of its ops.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeVar

from symgrad.ir.errors import NoKernelError

if TYPE_CHECKING:
    from symgrad.codegen.lowering.scope import Scope
    from symgrad.ir.graph import Op

FAMILIES: Mapping[str, str] = {
    "attention": "attention attention_grad",
    "conv": "conv conv_input_grad conv_weight_grad",
    "elementwise": "fused",
    "factor": "cholesky slogdet solve",
    "host": "eigh pinv qr svd",
    "index": "concatenate dynamic_slice dynamic_update_slice gather pad scatter scatter_add",
    "linalg": "dot_general",
    "running": "argmax argmin cumprod cumsum recurrence",
    "shape": (
        "barrier broadcast_to constant identity iota reshape reverse slice stop_gradient transpose"
    ),
    "sort": "argsort",
    "..branches": "when while_loop",
    "..loops": "scan",  # not of this package: it plans the memory of what it lowers
    "window": "window_max window_max_gather window_max_scatter window_sum window_sum_grad",
}
"""The ops of each module of this package that declares rules."""
_HOMES = {name: family for family, names in FAMILIES.items() for name in names.split()}

Rule = Callable[["Scope", "Op"], None]
_rules: dict[str, Rule] = {}
R = TypeVar("R", bound=Rule)


def lowers(*names: str) -> Callable[[R], R]:
    """Declares the lowering rule of some ops, which stand in ``FAMILIES``."""

    def declare(rule: R) -> R:
        _rules.update(dict.fromkeys(names, rule))
        return rule

    return declare


def rule_of(op: Op) -> Rule:
    """The rule of an op; raises ``NoKernelError`` where there is none."""
    if op.name not in _rules:
        if op.name not in _HOMES:
            raise NoKernelError(f"{op.name}: the code generator has no kernel for it", loc=op.loc)
        home = _HOMES[op.name]
        importlib.import_module(home if home.startswith(".") else f".{home}", __package__)
    return _rules[op.name]
