"""The text form: what the op table's own tests leave out, and errors with their place."""

from __future__ import annotations

import numpy as np
import pytest
import samples
from symgrad.ir import Builder, TensorType
from symgrad.ir.adjoint import value_and_grad
from symgrad.ir.errors import ParseError, ShapeError, UsageError, VerifyError
from symgrad.ir.graph import Func, Op
from symgrad.ir.opdef import REGISTRY, op
from symgrad.ir.passes import optimize
from symgrad.ir.types import DTYPES, dtype_of, f32, f64, i64, parse_type

from symgrad import ir


@pytest.mark.parametrize("case", list(samples.cases(differentiable=True)), ids=samples.label)
def test_optimised_gradients_round_trip(case: samples.Case) -> None:
    """Fused regions, iotas, constants and conversions as the passes leave them."""
    opdef, sample = case
    operands = samples.arrays(sample, f64, np.random.default_rng(0))
    func = samples.projected(samples.func_of(opdef, sample, operands))
    wrt = [i for i in range(len(operands)) if opdef.is_differentiable(i)]
    optimised = optimize(value_and_grad(func, [i for i in wrt if operands[i].dtype.kind == "f"]))
    assert ir.parse(str(optimised)) == ir.verify(optimised)


@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1e-300, 0.1, np.inf, -np.inf, np.nan, 1 / 3, 2.0**-1074, 1.5e308]
)
def test_constants_are_exact(value: float) -> None:
    builder = Builder()
    result = builder.constant(value, TensorType(f64, (2, 3)))
    func = builder.build([result])
    (array,) = ir.interpret(ir.parse(str(func)), [])
    assert array.tobytes() == np.full((2, 3), value).tobytes()


@pytest.mark.parametrize("dtype", [d for d in DTYPES.values() if d.name != "bf16"], ids=str)
def test_dense_constants_and_conversions(dtype: ir.DType) -> None:
    builder = Builder()
    x = builder.constant(np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype.numpy))
    y = builder.emit("convert", builder.param(TensorType(dtype, (3,)), "p"), dtype=f64)
    z = builder.emit("iota", shape=(2, 3), axis=1, dtype=i64)
    func = builder.build([x, y, z])
    assert ir.parse(str(func)) == func


def test_equality_is_of_text_without_locations() -> None:
    def build(name: str) -> Func:
        builder = Builder()
        x = builder.param(TensorType(f64, (3,)), name)
        return builder.build([builder.emit("sin", x)])

    assert build("x") == build("x")
    assert hash(build("x")) == hash(build("x"))
    assert build("x") != build("y")
    assert "test_text.py:" in str(build("x"))


def test_builder_shares_folds_and_drops() -> None:
    builder = Builder()
    x = builder.param(TensorType(f32, (3,)), "x")
    with builder:
        first, second = x * 2 + 1, x * 2 + 1
        builder.emit("exp", x)  # unused
        folded = builder.constant(2.0, x.type) * 3
    assert first is second
    func = builder.build([first, folded])
    assert [o.name for o in func.ops] == ["constant", "mul", "constant", "add", "constant"]
    assert builder.emit("mul", x, first) is builder.emit("mul", first, x)
    assert builder.constant(0.0, x.type) is not builder.constant(-0.0, x.type)


HEAD = "func @f(%x: f64[3], %n: i64[]) -> (f64[3]) {\n"
BROKEN = {
    "%0: f64[3] = sinn %x\n  return %0": r"line 2, column 3.*no op 'sinn'.*did you mean sin",
    "%0: f64[4] = sin %x\n  return %0": r"line 2.*sin gives f64\[3\]",
    "%0: f64[3] = sin %y\n  return %0": r"line 2, column 20.*%y is not defined",
    "%0: f64[3] = add %x, %n\n  return %0": r"line 2.*add: operands must have one shape",
    "%0: f64[3] = sin %x, %x\n  return %0": r"line 2.*sin takes 1 operands",
    "%0: f64[3] = sin %x {a=1}\n  return %0": r"line 2.*unknown attribute 'a'",
    "%0: f64[1] = reduce_sum %x\n  return %0": r"line 2.*attribute 'axes' is missing",
    "%x: f64[3] = sin %x\n  return %x": r"line 2.*%x is defined twice",
    "return %n": r"returns \(i64\[\]\), declared \(f64\[3\]\)",
    "%0: f64[3] = sin ?\n  return %0": r"line 2, column 20: unexpected '\?'",
}


@pytest.mark.parametrize("body", BROKEN, ids=lambda b: b.split("\n")[0])
def test_parse_errors_name_line_and_column(body: str) -> None:
    with pytest.raises(ParseError, match=BROKEN[body]):
        ir.parse(f"{HEAD}  {body}\n}}\n")


def test_verifier_finds_a_broken_function() -> None:
    builder = Builder()
    x = builder.param(TensorType(f64, (3,)), "x")
    y = builder.emit("sin", builder.emit("cos", x))
    func = builder.build([y])
    with pytest.raises(VerifyError, match="before its definition"):
        ir.verify(Func("f", func.params, func.ops[1:], func.results))
    wrong = Op(REGISTRY["sin"], (x,), {}, (TensorType(f32, (3,)),))
    with pytest.raises(VerifyError, match="its rule says"):
        ir.verify(Func("f", func.params, (wrong,), wrong.results))


def test_types_from_text_and_from_numpy() -> None:
    assert str(parse_type(" f32[8, 3] ")) == "f32[8,3]"
    assert dtype_of(np.float32) is f32
    assert dtype_of("f64") is f64
    for text in ("f32", "f33[2]", "f32[a]"):
        with pytest.raises(ParseError):
            parse_type(text)
    with pytest.raises(ir.errors.DTypeError, match="cannot be traced"):
        dtype_of("U3")


def test_declaring_an_op_twice_is_refused() -> None:
    with pytest.raises(ir.errors.InternalError, match="declared twice"):
        op("sin")(lambda x: x)


def test_shape_errors_carry_the_users_line() -> None:
    builder = Builder()
    x = builder.param(TensorType(f64, (3,)), "x")
    with pytest.raises(ShapeError, match=r"reshape: f64\[3\] has 3 elements.*test_text.py:\d+"):
        builder.emit("reshape", x, shape=(4,))
    with pytest.raises(UsageError, match="takes 1 operands"):
        builder.emit("sin", x, x)
