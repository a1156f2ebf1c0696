"""How an operation is declared: all its semantics in one place.

The type rule is a plain function whose positional parameters are the operands'
types and whose keyword-only parameters are the attributes: declaring the rule
declares the op.  NumPy reference, adjoint, batching rule and sample inputs for
the tests are attached to it.  An ``OpDef`` is callable: inside an open builder,
``sin(x)`` emits the op, which is how adjoint rules are written.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, TypeVar

import numpy as np
from symgrad.ir.errors import DTypeError, InternalError, ShapeError, UsageError
from symgrad.ir.graph import Region, Value, insertion
from symgrad.ir.record import record
from symgrad.ir.types import DType, TensorType

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])
TypeRule = Callable[..., TensorType | tuple[TensorType, ...]]


@record
class Sample:
    """Example operands for the table-driven tests: shapes, attributes, value ranges.

    ``domains`` gives a ``(low, high)`` range per operand; ``dtypes`` the dtype per
    operand where it is not the tested one (index operands, conditions).
    """

    shapes: tuple[tuple[int, ...], ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    domains: tuple[tuple[float, float], ...] = ()
    dtypes: tuple[DType | None, ...] = ()


class OpDef:
    """The definition of one operation."""

    def __init__(self, name: str, infer: TypeRule, *, elementwise: bool = False) -> None:
        self.name = name
        self.infer = infer
        self.elementwise = elementwise
        """Result element i depends on element i of each operand alone."""
        self.is_uniform = False
        """Whether operand types alone decide the result's: then the rule runs once for each."""
        self._uniform: dict[tuple[TensorType, ...], tuple[TensorType, ...]] = {}
        self.commutative = False
        self.kinds = ""
        """Dtype kinds the operands may have (see ``DType.kind``); "" where the rule decides."""
        self.sympy: str | None = None
        """Elementwise: the SymPy form, an expression in x, y, z."""
        self.evaluate_rule: Callable[..., Any] | None = None
        self.adjoint_rule: Callable[..., Sequence[Value | None]] | None = None
        self.batch_rule: Callable[..., Any] | None = None
        self.expand_rule: Callable[..., Any] | None = None
        self.fold_rule: Callable[..., Any] | None = None
        self.differentiable: tuple[bool, ...] | bool = True
        """Which operands a derivative exists for (all or none, or one flag each)."""
        self.samples: tuple[Sample, ...] = ()
        parameters = inspect.signature(infer).parameters.values()
        self.operand_names = tuple(
            p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY
        )
        self.variadic = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
        self.attr_defaults: dict[str, Any] = {
            p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY
        }
        self.has_region = "region" in self.attr_defaults
        if self.has_region:
            del self.attr_defaults["region"]
        self.doc = inspect.getdoc(infer) or ""

    # -- attaching rules (decorators) ---------------------------------------

    def evaluate(self, rule: F) -> F:
        """The NumPy reference: arrays and attributes in, array(s) out."""
        self.evaluate_rule = rule
        return rule

    def adjoint(self, rule: F) -> F:
        """``(ct, result, *operands, **attrs)`` to one cotangent or ``None`` per operand.

        Multi-result ops get tuples for ``ct`` (entries may be ``None``) and ``result``.
        """
        self.adjoint_rule = rule
        return rule

    def batch(self, rule: F) -> F:
        """``(size, operands, batched, **attrs)`` to results with a leading batch axis.

        ``batched[i]`` tells whether operand i has that axis.
        """
        self.batch_rule = rule
        return rule

    def expand(self, rule: F) -> F:
        """``(*operands, **attrs)`` to the same value in more basic ops."""
        self.expand_rule = rule
        return rule

    def fold(self, rule: F) -> F:
        """``(*operands, **attrs)`` to an existing value, or ``None``: applied on insertion."""
        self.fold_rule = rule
        return rule

    # -- use ------------------------------------------------------------------

    def __call__(self, *operands: Value, **attrs: Any) -> Any:
        """Emits the op into the innermost open builder."""
        return insertion.builder.emit(self.name, *operands, **attrs)

    def bind_attrs(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes in declaration order with defaults filled in."""
        if not (attrs or self.attr_defaults):
            return {}
        unknown = attrs.keys() - self.attr_defaults.keys()
        if unknown:
            raise UsageError(
                f"{self.name}: unknown attribute {sorted(unknown)[0]!r}; "
                f"it has {', '.join(self.attr_defaults) or 'none'}"
            )
        bound = {}
        for name, default in self.attr_defaults.items():
            value = attrs.get(name, default)
            if value is inspect.Parameter.empty:
                raise UsageError(f"{self.name}: attribute {name!r} is missing")
            bound[name] = tuple(value) if isinstance(value, list) else value
        return bound

    def result_types(
        self, types: Sequence[TensorType], attrs: Mapping[str, Any], region: Region | None = None
    ) -> tuple[TensorType, ...]:
        """Runs the type rule; raises ``ShapeError`` or ``DTypeError``."""
        if self.is_uniform and (known := self._uniform.get(tuple(types))) is not None:
            return known
        if not self.variadic and len(types) != len(self.operand_names):
            raise UsageError(
                f"{self.name} takes {len(self.operand_names)} operands "
                f"({', '.join(self.operand_names)}), got {len(types)}"
            )
        extra = {"region": region} if self.has_region else {}
        result = self.infer(*types, **attrs, **extra)
        found = result if isinstance(result, tuple) else (result,)
        if self.is_uniform:
            self._uniform[tuple(types)] = found
        return found

    def is_differentiable(self, operand: int) -> bool:
        """Whether a cotangent can flow to this operand."""
        if isinstance(self.differentiable, bool):
            return self.differentiable
        return self.differentiable[min(operand, len(self.differentiable) - 1)]

    def __repr__(self) -> str:
        return f"<OpDef {self.name}>"


REGISTRY: dict[str, OpDef] = {}


def register(opdef: OpDef) -> OpDef:
    """Adds a definition; a second one of the same name is a defect."""
    if opdef.name in REGISTRY:
        raise InternalError(f"op {opdef.name!r} is declared twice")
    REGISTRY[opdef.name] = opdef
    return opdef


def lookup(name: str) -> OpDef:
    """The definition called ``name``; ``UsageError`` with a suggestion otherwise."""
    if name in REGISTRY:
        return REGISTRY[name]
    import difflib

    close = difflib.get_close_matches(name, REGISTRY, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UsageError(f"there is no op {name!r}{hint}")


def op(
    name: str, *, samples: Sequence[Sample] = (), differentiable: tuple[bool, ...] | bool = True
) -> Callable[[TypeRule], OpDef]:
    """Declares an op: decorates its type rule and turns it into the ``OpDef``."""

    def declare(infer: TypeRule) -> OpDef:
        opdef = OpDef(name, infer)
        opdef.samples = tuple(samples)
        opdef.differentiable = differentiable
        return register(opdef)

    return declare


FLOAT, NUMERIC, INTEGER, LOGICAL = "fc", "iufc", "iu", "b"
ORDERED, ANY, BITS = "iuf", "biufc", "biu"


def elementwise(
    name: str,
    operands: str,
    kinds: str,
    evaluate: Callable[..., Any],
    *,
    adjoint: Callable[..., Sequence[Value | None]] | None = None,
    sympy: str | None = None,
    sample: tuple[float, float] | Sequence[tuple[float, float]] = (-2.0, 2.0),
    result: DType | None = None,
    commutative: bool = False,
    doc: str = "",
) -> OpDef:
    """Declares an elementwise op: operands and result have one shape and dtype.

    ``operands`` names them (``"x y"``); ``kinds`` are the dtype kinds accepted;
    ``result`` is a fixed result dtype (comparisons); ``adjoint=None`` marks an op
    whose derivative is zero almost everywhere or undefined.
    """
    names = operands.split()

    def infer(*types: TensorType) -> TensorType:
        first = types[0]
        for t in types:
            if t.dtype.kind not in kinds:
                raise DTypeError(f"{name}: operands of dtype {t.dtype} are not supported")
            if t.shape != first.shape:
                listed = ", ".join(map(str, types))
                raise ShapeError(f"{name}: operands must have one shape, got {listed}")
            if t.dtype != first.dtype:
                listed = ", ".join(map(str, types))
                raise DTypeError(f"{name}: operands must have one dtype, got {listed}")
        return first if result is None else first.with_dtype(result)

    opdef = OpDef(name, infer, elementwise=True)
    opdef.operand_names, opdef.variadic, opdef.is_uniform = tuple(names), False, True
    opdef.kinds, opdef.sympy, opdef.commutative = kinds, sympy, commutative
    opdef.evaluate_rule, opdef.adjoint_rule = evaluate, adjoint
    opdef.differentiable = adjoint is not None
    opdef.doc = doc
    domains = (sample,) * len(names) if isinstance(sample[0], (int, float)) else tuple(sample)
    opdef.samples = (Sample(((3, 4),) * len(names), domains=domains),)  # type: ignore[arg-type]
    return register(opdef)
