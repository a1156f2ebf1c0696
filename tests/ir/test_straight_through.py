"""The op for writes that no derivative follows."""

from __future__ import annotations

import numpy as np
import pytest
from symgrad.ir import Builder, interpret
from symgrad.ir.adjoint import pull_back
from symgrad.ir.errors import ShapeError
from symgrad.ir.types import parse_type

from symgrad.api_backend import compile_func


def test_it_has_the_contents_of_one_operand_and_the_derivative_of_the_other() -> None:
    builder = Builder()
    x, contents = (builder.param(parse_type("f64[3]"), name) for name in "xy")
    y = builder.emit("straight_through", builder.emit("mul", x, x), contents)
    by_x, by_contents = pull_back(builder, [y], [builder.constant(1.0, y.type)], [x, contents])
    assert by_contents is None and by_x is not None
    func = builder.build([y, by_x])
    points, given = np.array([1.0, -2.0, 3.0]), np.array([np.inf, np.nan, 0.0])
    for run in (lambda args: interpret(func, args), compile_func(func)):
        value, slope = run([points, given])
        np.testing.assert_array_equal(value, given)
        np.testing.assert_array_equal(slope, 2 * points)


def test_contents_must_be_of_the_same_type() -> None:
    builder = Builder()
    x, y = builder.param(parse_type("f64[3]")), builder.param(parse_type("f64[4]"))
    with pytest.raises(ShapeError, match=r"straight_through: contents f64\[4\] in place of"):
        builder.emit("straight_through", x, y)
