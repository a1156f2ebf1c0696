"""Simplifies the scalar regions of nests with SymPy, where that pays.

A region is a candidate when it has several transcendental ops.  Several strategies propose
an equal region; the cheapest by the cost model is taken if it is cheaper than what is there
and a ``Judge`` finds it as accurate.  What was found is kept on disk by the region's text.

The time that a search may take is what some hundred calls of the nest can win back: SymPy's
import alone takes as long as a hundred runs over a hundred thousand points.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from symgrad.ir.builder import Builder, inline
from symgrad.ir.cache import Cache
from symgrad.ir.facts import is_tame
from symgrad.ir.graph import Func, Op, Region, Value
from symgrad.ir.ops import elementwise as ew
from symgrad.ir.parser import parse
from symgrad.ir.passes import op_cost
from symgrad.ir.passes.algebra import made_by
from symgrad.ir.printer import print_func
from symgrad.ir.rewrite import Rule, region_params, rewrite_region, rule
from symgrad.ir.types import DType

if TYPE_CHECKING:
    from symgrad.ir.passes.sympy_bridge import Formulas

_VERSION = "4"
_CACHE = Cache("simplified", limit=32 << 20)
_KEEP = b"keep"
_MAX_NODES = 60
"""Expressions of more nodes are not cancelled or factored: that may take minutes."""
_MIN_OPS = 8
"""Around a single transcendental op, fewer ops than this hold nothing to gain."""
_CYCLE = 5e-11
"""Seconds of one cycle of the cost model at one point: eight lanes at 2.5 GHz, about."""
_HOPE = 0.1
"""Share of a region's cycles that SymPy may be expected to save."""
_SYMPY_SECONDS = 0.5
"""What a search with SymPy takes at least: half of it is the import."""
_SYMPY_LIMIT = 3.0
_JUDGE_SECONDS = 0.1
"""What it takes to tell whether a region is as accurate as another."""


def simplify_scalar(func: Func, *, calls: int = 200, max_ops: int = 120) -> Func:
    """Returns ``func`` with cheaper regions in its nests, where any were found.

    Looks at nests whose regions have at most ``max_ops`` ops and several transcendental
    ones, as far as ``calls`` calls can be expected to win back the time that this takes.
    """
    simplified: dict[Op, Region] = {}
    for op in func.ops:
        if op.name == "fused" and is_candidate(op.regions[0], max_ops):
            worth = calls * math.prod(op.attrs["space"]) * _CYCLE
            simplified[op] = simplify_region(op.regions[0], worth)
    if all(new is op.regions[0] for op, new in simplified.items()):
        return func
    builder = Builder(locations=False)
    new = {id(p): builder.param_like(p, p.name) for p in func.params}
    for op in func.ops:
        regions = (simplified[op],) if op in simplified else op.regions
        operands = [new[id(v)] for v in op.operands]
        result = builder.emit(op.name, *operands, loc=op.loc, regions=regions, **op.attrs)
        results = result if isinstance(result, tuple) else (result,)
        new.update((id(v), r) for v, r in zip(op.results, results, strict=True))
    return builder.build([new[id(v)] for v in func.results], func.name)


def is_candidate(region: Region, max_ops: int) -> bool:
    """Whether a region could become cheaper: without SymPy, at a glance."""
    costly = op_cost.transcendental(region)
    worthwhile = costly > 1 or (costly == 1 and len(region.ops) >= _MIN_OPS)
    return worthwhile and len(region.ops) <= max_ops and _dtype(region) is not None


def _dtype(region: Region) -> DType | None:
    """The one floating dtype (f32 or f64) of a region's values."""
    values = [*region.params, *(op.result for op in region.ops)]
    floats = {v.type.dtype for v in values if v.type.dtype.is_inexact}
    only = floats.pop() if len(floats) == 1 else None
    return only if only is not None and only.name in ("f32", "f64") else None


def simplify_region(region: Region, worth: float = math.inf) -> Region:
    """The cheapest accurate region found, or ``region`` itself.

    ``worth`` is the time in seconds that one cycle less is worth.
    """
    whole = op_cost.cost(region) * worth
    seconds = min(_HOPE * whole, _SYMPY_LIMIT)
    if seconds < _SYMPY_SECONDS:
        seconds = 0.0
        proposals = _own_proposals(region) if whole > _JUDGE_SECONDS else ()
        if not any(_saving(region, new) * worth > _JUDGE_SECONDS for new in proposals):
            return region
    text = _as_text(region)
    key = hashlib.blake2b(f"{_VERSION} {seconds > 0}\n{text}".encode(), digest_size=16).hexdigest()
    known = _CACHE.get(key)
    if known is None:
        found = _search(region, seconds)
        _CACHE.put(key, _KEEP if found is None else _as_text(found).encode())
        return found or region
    return region if known == _KEEP else _from_text(known.decode(), region)


# -- text, for the cache -------------------------------------------------------------------


def _as_text(region: Region) -> str:
    """A function of one nest with this region; what is known of its parameters, and may
    have been used, makes the name."""
    builder = Builder(locations=False)
    facts = "_".join(str(p.facts) for p in region.params)
    params = [builder.param(p.type) for p in region.params]
    maps, reduce = ((),) * len(params), (None,) * len(region.results)
    made = builder.emit("fused", *params, regions=(region,), space=(), maps=maps, reduce=reduce)
    results = made if isinstance(made, tuple) else (made,)
    return print_func(builder.build(results, f"r{facts}"), locations=False)


def _from_text(text: str, like: Region) -> Region:
    """The region in such a text, with parameters like those of the one it replaces."""
    (nest,) = parse(text).ops
    builder = Builder(locations=False)
    params = region_params(builder, like)
    return builder.region(params, inline(builder, nest.regions[0], params))


# -- strategies ------------------------------------------------------------------------------


def _search(region: Region, seconds: float) -> Region | None:
    from symgrad.ir.passes.accuracy import Judge, has_truth

    dtype = _dtype(region)
    if dtype is None or not has_truth(region):
        return None
    plain = _own_proposals(region)
    proposals = _sympy_proposals(region, plain, dtype, seconds) if seconds else ()
    found = [new for new in (*plain, *proposals) if _saving(region, new) > 0]
    judge = Judge(region) if found else None
    ordered = sorted(found, key=op_cost.cost)
    return next((new for new in ordered if judge is not None and judge.accepts(new)), None)


def _saving(region: Region, new: Region) -> float:
    """Cycles that ``new`` takes less; none where it has more operations."""
    fewer = op_cost.count(new.ops) <= op_cost.count(region.ops)
    return op_cost.cost(region) - op_cost.cost(new) if fewer else 0.0


def _own_proposals(region: Region) -> tuple[Region, ...]:
    """Regions equal to the given one that we find ourselves, in no time."""
    merged = rewrite_region(region, SCALE_RULES)
    return merged, *_sharing(merged)


def _sympy_proposals(
    region: Region, plain: Sequence[Region], dtype: DType, seconds: float
) -> Iterator[Region]:
    """Regions equal to the given one, as mathematics has it.

    ``plain`` are those of ``_own_proposals``, from which SymPy goes on.
    """
    from symgrad.ir.passes import sympy_bridge as bridge

    deadline = time.perf_counter() + seconds
    merged, bases = plain[0], list(plain)
    scaled = _depends_on_scale(merged)
    if any(scaled):
        opened = rewrite_region(merged, (scale_as_product,))
        bases += [opened, *_sharing(opened)]
    analytic = op_cost.transcendental(region) > 1
    for transparent in (bridge.ARITHMETIC, bridge.ANALYTIC) if analytic else (bridge.ARITHMETIC,):
        for base in bases:
            formulas = bridge.to_sympy(base, dtype, transparent)
            for strategy in _strategies(formulas, transparent is bridge.ANALYTIC):
                if time.perf_counter() > deadline:
                    return
                new = _attempt(formulas, strategy)
                if new is not None and (base in plain or _is_closed(new, scaled)):
                    yield new


def _strategies(formulas: Formulas, analytic: bool) -> list[Callable[[Any], Any]]:
    import sympy
    from symgrad.ir.passes.factoring import distributed, factored
    from sympy.codegen.rewriting import optimize, optims_c99

    def is_constant(e: Any) -> bool:
        return bool(e.free_symbols <= formulas.constants.keys())

    def fold(e: Any) -> Any:
        return distributed(factored(e), is_constant)

    def if_small(change: Callable[[Any], Any], nodes: int = _MAX_NODES) -> Callable[[Any], Any]:
        return lambda e: change(e) if e.count_ops() <= nodes else e

    strategies: list[Callable[[Any], Any]] = [
        lambda e: e,
        lambda e: distributed(sympy.factor_terms(e), is_constant),
        fold,
        lambda e: fold(sympy.expand(e)),
        if_small(lambda e: distributed(sympy.factor(e), is_constant)),
        if_small(lambda e: fold(sympy.cancel(e))),
        if_small(lambda e: fold(sympy.expand(sympy.cancel(e)))),
    ]
    if analytic:
        exact = if_small(lambda e: optimize(sympy.simplify(e), optims_c99), _MAX_NODES // 2)
        strategies.append(lambda e: fold(exact(e)))
    return strategies


def _attempt(formulas: Formulas, strategy: Callable[[Any], Any]) -> Region | None:
    from symgrad.ir.passes.sympy_bridge import to_region

    try:
        return to_region(formulas.with_roots([strategy(e) for e in formulas.roots()]))
    except Exception:  # whatever SymPy stumbles over: one proposal less
        return None


# -- scale: 0 times infinity is 0 --------------------------------------------------------------


@rule("scale")
def scale_of_scale(op: Op, x: Value, slope: Value) -> Value | None:
    """scale(scale(x, a), b) = scale(x, a b)"""
    inner = made_by(x, "scale")
    if inner is None:
        return None
    result: Value = ew.scale(inner.operands[0], inner.operands[1] * slope)
    return result


@rule("add", "sub")
def sum_of_scales(op: Op, x: Value, y: Value) -> Value | None:
    """scale(x, a) + scale(x, b) = scale(x, a + b)"""
    left, right = made_by(x, "scale"), made_by(y, "scale")
    if left is None or right is None or left.operands[0] is not right.operands[0]:
        return None
    result: Value = ew.scale(left.operands[0], op.opdef(left.operands[1], right.operands[1]))
    return result


@rule("neg")
def neg_of_scale(op: Op, x: Value) -> Value | None:
    """-scale(x, a) = scale(x, -a)"""
    inner = made_by(x, "scale")
    if inner is None:
        return None
    result: Value = ew.scale(inner.operands[0], -inner.operands[1])
    return result


SCALE_RULES: tuple[Rule, ...] = (scale_of_scale, sum_of_scales, neg_of_scale)


@rule("scale")
def scale_as_product(op: Op, x: Value, slope: Value) -> Value:
    """scale(x, a) = x a, but for 0 times infinity"""
    return x * slope


def _depends_on_scale(region: Region) -> list[bool]:
    """For each result, whether a ``scale`` goes into it."""
    touched: set[int] = set()
    for op in region.ops:
        if op.name == "scale" or any(id(v) in touched for v in op.operands):
            touched.add(id(op.result))
    return [id(v) in touched for v in region.results]


def _is_closed(region: Region, scaled: Sequence[bool]) -> bool:
    """Whether no result that ``scale`` went into can be infinite or nan for finite input:
    then 0 times infinity does not occur in it, and plain products do."""
    return all(is_tame(v) for v, touched in zip(region.results, scaled, strict=True) if touched)


# -- one exponential for several functions of an argument ----------------------------------------


def _sharing(region: Region) -> Iterator[Region]:
    """The region with functions made from others of its own: sigmoid(x) from exp(-|x|),
    sigmoid(-x) from sigmoid(x), exp(-x) from exp(x)."""
    arguments: dict[str, set[int]] = {"exp": set(), "sigmoid": set(), "exp(-|x|)": set()}
    for op in region.ops:
        if op.name in arguments:
            arguments[op.name].add(id(op.operands[0]))
        negated = made_by(op.operands[0], "neg") if op.name == "exp" else None
        inner = made_by(negated.operands[0], "abs") if negated else None
        if inner:
            arguments["exp(-|x|)"].add(id(inner.operands[0]))

    def opposite_in(name: str, op: Op) -> bool:
        negated = made_by(op.operands[0], "neg") if op.name == name else None
        return negated is not None and id(negated.operands[0]) in arguments[name]

    choices: tuple[tuple[Callable[[Op], bool], Callable[[Value], Value]], ...] = (
        (
            lambda op: op.name == "sigmoid" and id(op.operands[0]) in arguments["exp(-|x|)"],
            _sigmoid_from_exp,
        ),
        (lambda op: opposite_in("sigmoid", op), lambda x: 1 - ew.sigmoid(_negated(x))),
        (lambda op: opposite_in("exp", op), lambda x: 1 / ew.exp(_negated(x))),
    )
    for applies, replacement in choices:
        if any(applies(op) for op in region.ops):
            yield _replaced(region, applies, replacement)


def _replaced(
    region: Region, applies: Callable[[Op], bool], replacement: Callable[[Value], Value]
) -> Region:
    builder = Builder(locations=False)
    params = region_params(builder, region)
    new = dict(zip(map(id, region.params), params, strict=True))
    with builder:
        for op in region.ops:
            operands = [new[id(v)] for v in op.operands]
            fresh = replacement(*operands) if applies(op) else builder.copy(op, operands)
            new[id(op.result)] = fresh
    return builder.region(params, [new[id(v)] for v in region.results])


def _negated(x: Value) -> Value:
    inner = made_by(x, "neg")
    return inner.operands[0] if inner else -x


def _sigmoid_from_exp(x: Value) -> Value:
    """sigmoid(x) = (1 or t) / (1 + t) with t = exp(-|x|) for x not below or below 0"""
    t = ew.exp(-ew.abs(x))
    result: Value = ew.where(ew.lt(x, ew.zeros_like(x)), t, 1.0) / (1 + t)
    return result
