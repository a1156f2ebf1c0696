"""CasADi's side of the comparison: symbolic functions, mapped, accumulated and differentiated.

With a C compiler its generated C is compiled, else its virtual machine runs.  Calls go through
buffers, which spares the conversion to CasADi's own matrices.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import casadi as ca
import cases
import numpy as np
import science

Array = np.ndarray[Any, Any]
Call = Callable[[], Any]
AHEAD_OF_TIME = True
"""Building a case compiles it."""
_settings = {"threads": 1}


def version() -> str:
    """Library and version."""
    return f"CasADi {ca.__version__}"


def set_up(threads: int, ways: Sequence[str]) -> None:
    """Threads of a mapped function; the compiler leaves its files in the working directory."""
    _settings["threads"] = threads
    os.chdir(tempfile.gettempdir())


def arrays(result: Any) -> list[Any]:
    """The arrays of a result."""
    return list(result)


def _native() -> dict[str, Any]:
    if shutil.which("gcc") is None:
        return {}
    flags = ["-O3", "-march=native", "-fno-math-errno"]
    return {"jit": True, "compiler": "shell", "jit_options": {"flags": flags, "compiler": "gcc"}}


class _Buffered:
    """A function on fixed memory: arrays are column-major, as CasADi's."""

    def __init__(self, f: Any, inputs: Sequence[Any]) -> None:
        self.buffer, self.run = f.buffer()
        self.inputs = [np.asfortranarray(x, float) for x in inputs]
        self.results = [np.zeros(f.sparsity_out(i).shape, order="F") for i in range(f.n_out())]
        for i, x in enumerate(self.inputs):
            self.buffer.set_arg(i, memoryview(x.reshape(-1, order="F")))
        for i, x in enumerate(self.results):
            self.buffer.set_res(i, memoryview(x.reshape(-1, order="F")))

    def __call__(self) -> list[Array]:
        self.run()
        return self.results


def _small(x: Any, value: Any, at: Any) -> Call:
    """Value and gradient for a new input at each call, as new results."""
    f = ca.Function("f", [x], [value, ca.gradient(value, x)], _native())
    buffered = _Buffered(f, [np.atleast_1d(at)])
    run, (source,), (found, gradient) = buffered.run, buffered.inputs, buffered.results

    def call(keep: Any = buffered) -> tuple[float, Array]:
        source[:] = at
        run()
        return float(found[0, 0]), gradient[:, 0].copy()

    return call


def rosenbrock() -> Call:
    """Value and gradient."""
    at = cases.rosenbrock_input()
    x = ca.SX.sym("x", len(at))
    return _small(x, ca.sum1(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2), at)


def nested() -> Call:
    """Value and gradient of sin(sin(...(x)))."""
    x = y = ca.SX.sym("x")
    for _ in range(cases.NESTED_DEPTH):
        y = ca.sin(y)
    return _small(x, y, cases.NESTED_INPUT)


def unrolled(n: int) -> Call:
    """Value and gradient of ``y = sin(x c_i + y)``, n times, in the virtual machine: gcc takes a
    minute for 5,000 steps."""
    at, coefficients = cases.unrolled_inputs(n)
    x, y = ca.MX.sym("x", 1, at.size), 0
    for c in coefficients:
        y = ca.sin(x * c + y)
    value = ca.sum2(y)
    return _Buffered(ca.Function("f", [x], [value, ca.gradient(value, x)]), [at[None]])


def bundle_adjustment(**sizes: int) -> Call:
    """Errors of all observations, and the Jacobian's blocks by camera, point and weight."""
    cameras, points, weights, features, camera, point = science.bundle_inputs(**sizes)
    wrt = ca.SX.sym("camera", 11), ca.SX.sym("point", 3), ca.SX.sym("weight")
    feature = ca.SX.sym("feature", 2)
    errors = ca.vertcat(*science.reprojection(*wrt, feature, ca))
    blocks = ca.densify(ca.jacobian(errors, ca.vertcat(*wrt)))
    results = [errors, 1 - wrt[2] ** 2, blocks, -2 * wrt[2]]
    one = ca.Function("one", [*wrt, feature], results, _native())
    inputs = cameras[:, camera], points[:, point], weights[None], features
    run = _Buffered(one.map(len(camera), "thread", _settings["threads"]), inputs)

    def call() -> list[Array]:
        run.inputs[0][:], run.inputs[1][:] = cameras[:, camera], points[:, point]
        return run()

    return call


def lstm(layers: int, length: int) -> Call:
    """Value and gradient by all weights."""
    main, extra, state, sequence = (x.T for x in science.lstm_inputs(layers, length))
    bits, steps = science.BITS, length - 1
    m, e = ca.SX.sym("main", 4 * bits, 2 * layers), ca.SX.sym("extra", bits, 3)
    s, x, gold = ca.SX.sym("state", bits, 2 * layers), ca.SX.sym("x", bits), ca.SX.sym("gold", bits)
    new = science.lstm_step(
        [m[:, 2 * i] for i in range(layers)], [m[:, 2 * i + 1] for i in range(layers)],
        [s[:, i] for i in range(2 * layers)], x * e[:, 0], lambda parts: ca.vertcat(*parts),
        lambda z: 1 / (1 + ca.exp(-z)), ca.tanh,
    )  # fmt: skip
    y = new[-2] * e[:, 1] + e[:, 2]
    y = y - ca.log(2 + ca.sum1(ca.exp(y)))
    step = ca.Function("step", [s, x, gold, m, e], [ca.horzcat(*new), ca.dot(gold, y)])
    M, E = ca.MX.sym("main", *m.shape), ca.MX.sym("extra", *e.shape)
    xs, golds = ca.MX.sym("x", bits, steps), ca.MX.sym("gold", bits, steps)
    repeated = ca.repmat(M, 1, steps), ca.repmat(E, 1, steps)
    _, terms = step.mapaccum("run", steps)(state, xs, golds, *repeated)
    value = -ca.sum2(terms) / (steps * bits)
    results = [value, ca.gradient(value, M), ca.gradient(value, E)]
    f = ca.Function("lstm", [M, E, xs, golds], results, _native())
    return _Buffered(f, [main, extra, sequence[:, :-1], sequence[:, 1:]])


def lotka_volterra() -> Call:
    """Value and gradient by the initial populations and the rates."""
    y, p = ca.SX.sym("y", 2), ca.SX.sym("p", 4)
    step = ca.Function("step", [y, p], [ca.vertcat(*science.runge_kutta(y[0], y[1], p))])
    start, rates = ca.MX.sym("start", 2), ca.MX.sym("rates", 4)
    steps = science.STEPS
    end = step.mapaccum("run", steps)(start, ca.repmat(rates, 1, steps))[:, -1]
    value = ca.sum1(end)
    results = [value, ca.gradient(value, start), ca.gradient(value, rates)]
    f = ca.Function("lv", [start, rates], results, _native())
    return _Buffered(f, science.populations())
