"""The adjoint rule of every op with a SymPy form, proven against ``sympy.diff``.

The rule is run on the op alone and its cotangents read back as SymPy expressions; that
they equal the derivatives is shown at points of the op's sample domain to 40 digits, which
no formula that is not the derivative passes.
"""

from __future__ import annotations

import pytest
import sympy
from symgrad.ir import Builder
from symgrad.ir.adjoint import pull_back
from symgrad.ir.opdef import REGISTRY
from symgrad.ir.types import TensorType, f64

SYMBOLS = sympy.symbols("x y z", real=True)
OPS = [
    opdef
    for opdef in REGISTRY.values()
    if opdef.elementwise and opdef.sympy and opdef.adjoint_rule and opdef.name != "select"
]


def form(opdef, operands):
    """The op's SymPy form of these operands."""
    names = dict(zip("xyz", SYMBOLS, strict=True))
    expression = sympy.sympify(opdef.sympy, locals=names)
    swap = {s: sympy.Dummy(real=True) for s in SYMBOLS}
    apart = expression.subs(swap, simultaneous=True)
    return apart.subs({swap[s]: o for s, o in zip(SYMBOLS, operands, strict=False)})


ROOT = sympy.sqrt(sympy.pi)
CONSTANTS = {float(c): c for c in (sympy.log(2), sympy.log(10), 2 / ROOT, ROOT / 2)}


def exact(number):
    """The real number that a constant of the IR is the rounding of."""
    return CONSTANTS.get(number, sympy.Rational(number))


def expression(value, known):
    """A value of the IR as a SymPy expression."""
    if id(value) not in known:
        op = value.op
        operands = [expression(v, known) for v in op.operands]
        if op.name == "constant":
            known[id(value)] = exact(op.attrs["value"])
        elif op.name == "select":
            known[id(value)] = sympy.Piecewise((operands[1], operands[0]), (operands[2], True))
        elif op.name == "polygamma":
            known[id(value)] = sympy.polygamma(op.attrs["order"], *operands)
        else:
            known[id(value)] = form(op.opdef, operands)
    return known[id(value)]


@pytest.mark.parametrize("opdef", OPS, ids=lambda o: o.name)
def test_adjoint_rule_is_the_derivative(opdef):
    builder = Builder(locations=False)
    params = [builder.param(TensorType(f64), n) for n in opdef.operand_names]
    ct = builder.param(TensorType(f64), "ct")
    with builder:
        result = opdef(*params)
    cotangents = pull_back(builder, [result], [ct], params)
    c = sympy.Symbol("c", real=True)
    symbols = SYMBOLS[: len(params)]
    known = {id(ct): c, **{id(p): s for p, s in zip(params, symbols, strict=True)}}
    primal = form(opdef, symbols)
    for index, (cotangent, symbol) in enumerate(zip(cotangents, symbols, strict=True)):
        if not opdef.is_differentiable(index) or cotangent is None:
            continue
        difference = expression(cotangent, known) - c * sympy.diff(primal, symbol)
        assert vanishes(difference, opdef, symbols, c), (opdef.name, index)


def vanishes(difference, opdef, symbols, c):
    domains = opdef.samples[0].domains or ((-2.0, 2.0),) * len(symbols)
    for at in (sympy.Rational(1, 7), sympy.Rational(3, 5), sympy.Rational(12, 13)):
        point = {
            s: sympy.Rational(str(low)) + at * sympy.Rational(str(high - low))
            for s, (low, high) in zip(symbols, domains, strict=True)
        }
        number = sympy.N(difference.subs({**point, c: sympy.Rational(7, 3)}), 50)
        if abs(number) > sympy.Float("1e-40"):
            return False
    return True


def test_a_wrong_rule_is_caught():
    sin = REGISTRY["sin"]
    x, c = SYMBOLS[0], sympy.Symbol("c", real=True)
    wrong = c * sympy.cos(x) * sympy.Rational("1.0000001") - c * sympy.diff(sympy.sin(x), x)
    assert not vanishes(wrong, sin, SYMBOLS[:1], c)


def test_most_of_the_table_is_proven():
    assert len(OPS) >= 35
