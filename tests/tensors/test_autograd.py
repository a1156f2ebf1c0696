"""``symgrad.autograd``: whole derivatives, functions with derivatives of their own, checks."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import numpy as np
import pytest
from symgrad.ir.errors import DifferentiationError, UsageError
from symgrad.ir.ops.structural import PULLBACKS

import symgrad as torch
from symgrad.autograd import (
    Function,
    GradcheckError,
    functional,
    grad,
    gradcheck,
    gradgradcheck,
)
from symgrad.autograd.function import once_differentiable

POINT = np.array([0.7, -1.3, 0.4])


def vector(x: Any) -> Any:
    """A function of three numbers that has four results."""
    return torch.stack([x[0] * x[1], x[1].sin(), (x[2] * x[0]).exp(), x[2]]).reshape(2, 2)


def jacobian_of_vector(x: Any) -> Any:
    a, b, c = x
    e = np.exp(a * c)
    return np.array([[b, a, 0], [0, np.cos(b), 0], [c * e, 0, a * e], [0, 0, 1]]).reshape(2, 2, 3)


def cubic(x: Any) -> Any:
    return (x**3).sum() + (x[0] * x[1]) * 2


def hessian_of_cubic(x: Any) -> Any:
    matrix = np.diag(6 * np.asarray(x))
    matrix[0, 1] = matrix[1, 0] = 2
    return matrix


def point(**options: Any) -> Any:
    return torch.tensor(POINT, **options)


# -- functional ------------------------------------------------------------------------------


def test_jacobian() -> None:
    found = functional.jacobian(vector, point())
    assert not found.requires_grad
    np.testing.assert_allclose(found.numpy(), jacobian_of_vector(POINT), rtol=1e-12)


def test_jacobian_of_several() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])
    (ya, yb), (sa, sb) = functional.jacobian(lambda a, b: (a * b[0], a.sum()), (a, b))
    assert ya.tolist() == [[3.0, 0.0], [0.0, 3.0]] and yb.tolist() == [[[1.0]], [[2.0]]]
    assert sa.tolist() == [1.0, 1.0] and sb.tolist() == [[0.0]]
    assert isinstance(functional.jacobian(lambda *xs: xs[0], (a,)), tuple)
    assert functional.jacobian(lambda x: torch.ones(2), a).tolist() == [[0, 0], [0, 0]]


def test_hessian() -> None:
    found = functional.hessian(cubic, point())
    np.testing.assert_allclose(found.numpy(), hessian_of_cubic(POINT), rtol=1e-12)
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([5.0])
    (xx, xy), (yx, yy) = functional.hessian(lambda x, y: (x**2).sum() * y[0], (x, y))
    assert xx.tolist() == [[10.0, 0.0], [0.0, 10.0]] and yy.tolist() == [[0.0]]
    assert xy.tolist() == [[2.0], [4.0]] and yx.tolist() == [[2.0, 4.0]]


def test_products() -> None:
    rng = np.random.default_rng(0)
    v, w = rng.standard_normal(3), rng.standard_normal((2, 2))
    jacobian, hessian = jacobian_of_vector(POINT), hessian_of_cubic(POINT)
    value, pulled = functional.vjp(vector, point(), torch.tensor(w))
    np.testing.assert_allclose(pulled.numpy(), np.tensordot(w, jacobian), rtol=1e-12)
    np.testing.assert_allclose(value.numpy(), vector(point()).numpy(), rtol=1e-12)
    _, pushed = functional.jvp(vector, point(), torch.tensor(v))
    np.testing.assert_allclose(pushed.numpy(), jacobian @ v, rtol=1e-12)
    for product in (functional.hvp, functional.vhp):
        value, found = product(cubic, point(), torch.tensor(v))
        assert value.item() == pytest.approx(cubic(point()).item()) and not found.requires_grad
        np.testing.assert_allclose(found.numpy(), hessian @ v, rtol=1e-12)
    one = torch.tensor(2.0)
    assert functional.vjp(lambda x: x**2, one)[1].item() == 4.0
    assert functional.jvp(lambda x: x**2, one)[1].item() == 4.0
    assert functional.jvp(lambda x: torch.ones(2), one)[1].tolist() == [0.0, 0.0]


def test_derivatives_of_derivatives() -> None:
    x = point(requires_grad=True)
    found = functional.hessian(cubic, x, create_graph=True)
    (third,) = grad(found.sum(), x)
    np.testing.assert_allclose(third.numpy(), [6.0, 6.0, 6.0], rtol=1e-12)
    _, product = functional.hvp(cubic, x, torch.ones(3, dtype=torch.float64), create_graph=True)
    (third,) = grad(product.sum(), x)
    np.testing.assert_allclose(third.numpy(), [6.0, 6.0, 6.0], rtol=1e-12)
    x.grad = None
    functional.jacobian(vector, x)
    assert x.grad is None


def test_a_jacobian_runs_one_program_for_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from symgrad import api_backend

    compiled = []
    compile_func = api_backend.compile_func
    monkeypatch.setattr(
        api_backend, "compile_func", lambda f, *a, **k: compiled.append(f) or compile_func(f)
    )
    found = functional.jacobian(lambda x: (x * 1.5).cos(), torch.rand(23))
    assert found.shape == (23, 23)
    assert len(compiled) <= 4


REFUSALS = [
    (lambda x: functional.hessian(lambda x: x**3, x), RuntimeError,
     "The Tensor returned by the function given to hessian should contain a single element"),
    (lambda x: functional.hvp(lambda x: (x.sum(), x), x), RuntimeError,
     "The function given to hvp should return a single Tensor"),
    (lambda x: functional.vjp(lambda x: x**2, x), RuntimeError,
     "The vector v can only be None if the user-provided function returns a single Tensor with a "
     "single element."),
    (lambda x: functional.jvp(lambda x: x**2, x), RuntimeError,
     "The vector v can only be None if the input to the user-provided function is a single "
     "Tensor with a single element."),
    (lambda x: functional.vjp(lambda x: x**2, x, torch.ones(3)), RuntimeError,
     "v has invalid size: should be torch.Size([2]) but got torch.Size([3])."),
    (lambda x: functional.jacobian(lambda x: torch.ones(2), x, strict=True), RuntimeError,
     "Output 0 of the user-provided function does not require gradients. The outputs must be "
     "computed in a differentiable manner from the input when running in strict mode."),
    (lambda x: functional.jacobian(lambda x: 3, x), TypeError,
     "The outputs of the user-provided function given to jacobian must be either a Tensor or a "
     "tuple of Tensors but the given outputs of the user-provided function has type "
     "<class 'int'>."),
    (lambda x: functional.jacobian(lambda x: x, 3), TypeError,
     "The inputs given to jacobian must be either a Tensor or a tuple of Tensors but the given "
     "inputs has type <class 'int'>."),
]  # fmt: skip
"""Calls that torch refuses, with its texts."""


@pytest.mark.parametrize(("call", "kind", "text"), REFUSALS)
def test_refusals(call: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as error:
        call(torch.tensor([1.0, 2.0]))
    assert str(error.value) == text


# -- checks ----------------------------------------------------------------------------------


def test_gradcheck() -> None:
    x, y = point(requires_grad=True), torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(vector, x, check_forward_ad=True)
    assert gradcheck(lambda x, k, y: (x * y * k, x.sum()), (x, 3, y), check_forward_ad=True)
    assert gradgradcheck(vector, x)
    assert gradgradcheck(lambda x, y: (x.exp() * y).sum(), (x, y))
    with pytest.raises(ValueError, match="expects at least one input tensor to require gradient"):
        gradcheck(vector, point())
    with pytest.warns(UserWarning, match="Input #0 requires gradient and is not a double"):
        gradcheck(lambda x: x * 2, torch.ones(2, requires_grad=True), eps=0.1)


def test_gradcheck_finds_wrong_derivatives() -> None:
    x = point(requires_grad=True)
    with pytest.raises(GradcheckError, match="Jacobian mismatch for output 0 with respect to"):
        gradcheck(lambda x: x.detach() * x, x)
    assert not gradcheck(lambda x: x.detach() * x, x, raise_exception=False)
    assert gradcheck(Doubled.apply, (x,))
    with pytest.raises(GradcheckError):
        gradcheck(Tripled.apply, (x,))


# -- anomalies -------------------------------------------------------------------------------


@pytest.mark.parametrize(("function", "name"), [
    (lambda z: z.sqrt().sum(), "SqrtBackward0"),
    (lambda z: (z.sqrt() * 2).exp().sum(), "ExpBackward0"),
    (lambda z: (z * torch.tensor([2.0])).sqrt().mul(3).sum(), "SqrtBackward0"),
])  # fmt: skip
def test_anomalies_are_named(function: Any, name: str) -> None:
    z = torch.tensor([-1.0], requires_grad=True)
    with pytest.warns(UserWarning, match="Anomaly Detection has been enabled"):
        detection = torch.autograd.detect_anomaly()
    with detection:
        assert torch.autograd.is_anomaly_enabled()
        with pytest.warns(UserWarning, match="Error detected") as said:
            with pytest.raises(RuntimeError) as error:
                function(z).backward()
    assert str(error.value) == f"Function '{name}' returned nan values in its 0th output."
    text = str(said[0].message)
    assert text.startswith(f"Error detected in {name}. Traceback of forward call")
    assert f'File "{__file__}"' in text and "sqrt()" in text
    assert not torch.autograd.is_anomaly_enabled()
    function(z).backward()  # nobody looks now
    assert np.isnan(z.grad.tolist()).all()


def test_an_anomaly_may_have_two_suspects() -> None:
    z = torch.tensor([-1.0], requires_grad=True)
    with torch.autograd.set_detect_anomaly(True), pytest.warns(UserWarning, match="Error detected"):
        with pytest.raises(RuntimeError) as error:
            (z.sqrt() + z).sum().backward()
    assert str(error.value) == (
        "Function 'AddBackward0' returned nan values in its 1th output, or 'SqrtBackward0' "
        "returned nan values in its 0th output."
    )


def test_anomaly_detection_leaves_sound_passes_alone() -> None:
    x = torch.tensor(POINT, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):
        (Exponential.apply(x, 2.0) * x).sum().backward()
        with torch.autograd.set_detect_anomaly(True, check_nan=False):
            torch.tensor([-1.0], requires_grad=True).sqrt().sum().backward()
        with pytest.raises(RuntimeError, match="the gradient of MulBackward0 has nan values"):
            (x * 2).backward(torch.tensor([np.nan, 1, 1]))
    np.testing.assert_allclose(x.grad.numpy(), 2 * np.exp(POINT) * (1 + POINT), rtol=1e-12)


# -- functions -------------------------------------------------------------------------------


class Doubled(Function):
    """2 x."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * 2


class Tripled(Doubled):
    """2 x, with a wrong derivative."""

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * 3


class Exponential(Function):
    """k exp(x), by its result."""

    @staticmethod
    def forward(ctx: Any, x: Any, k: float) -> Any:
        y = x.exp() * k
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        (y,) = ctx.saved_tensors
        return g * y, None


class Product(Function):
    """x y and x + y, in the style with ``setup_context``."""

    @staticmethod
    def forward(x: Any, y: Any) -> Any:
        return x * y, x + y

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Any, h: Any) -> Any:
        x, y = ctx.saved_tensors
        wanted = [g * y + h, g * x + h]
        return tuple([w if n else None for w, n in zip(wanted, ctx.needs_input_grad, strict=True)])


def test_functions_are_operations() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = Doubled.apply(x)
    assert repr(y) == "tensor([2., 4.], grad_fn=<DoubledBackward>)"
    (leaf, number), *others = y.grad_fn.next_functions
    assert leaf.variable is x and number == 0 and not others
    Tripled.apply(x).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]
    assert not Doubled.apply(torch.ones(2)).requires_grad
    with torch.no_grad():
        assert not Doubled.apply(x).requires_grad


@pytest.mark.parametrize("function", [
    lambda x, y: Exponential.apply(x, 1.5) * y,
    lambda x, y: Product.apply(x, y)[0],
    lambda x, y: Product.apply(x.sin(), x * y),
    lambda x, y: Exponential.apply(Product.apply(x, y)[1], 2.0) * x,
    lambda x, y: Product.apply(Doubled.apply(x), Doubled.apply(x))[0].sum() * y,
])  # fmt: skip
def test_derivatives_of_functions(function: Any) -> None:
    inputs = tuple(torch.tensor(v, requires_grad=True) for v in (POINT, POINT[::-1].copy()))
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_unused_results_and_constants() -> None:
    seen: list[Any] = []

    class Both(Function):
        @staticmethod
        def forward(ctx: Any, x: Any, materialise: bool) -> Any:
            ctx.set_materialize_grads(materialise)
            order = x.argsort() if hasattr(x, "argsort") else torch.arange(len(x))
            signs = x.sign()
            ctx.mark_non_differentiable(signs)
            return x * 2, "text", x * 3, order, signs

        @staticmethod
        def backward(ctx: Any, *gs: Any) -> Any:
            seen.append([g if g is None else g.tolist() for g in gs])
            return gs[0] * 2, None

    x = torch.tensor([1.0, -2.0], requires_grad=True)
    for materialise in (True, False):
        first, text, third, order, signs = Both.apply(x, materialise)
        assert text == "text" and not order.requires_grad and not signs.requires_grad
        assert third.requires_grad
        first.sum().backward()
    assert seen == [
        [[1.0, 1.0], None, [0.0, 0.0], None, None], [[1.0, 1.0], None, None, None, None],
    ]  # fmt: skip
    assert x.grad.tolist() == [4.0, 4.0]


def test_the_same_tensor_comes_back_as_another() -> None:
    class Reversed(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return -g

    x = torch.ones(2, requires_grad=True)
    y = Reversed.apply(x)
    assert y is not x and y.grad_fn.name() == "ReversedBackward"
    (y * 3 + x).sum().backward()
    assert x.grad.tolist() == [-2.0, -2.0]


def test_what_backward_may_return() -> None:
    def returning(answer: Any) -> Any:
        class Made(Function):
            @staticmethod
            def forward(ctx: Any, x: Any) -> Any:
                return x * 2

            @staticmethod
            def backward(ctx: Any, g: Any) -> Any:
                return answer(g)

        x = torch.ones(2, 3, requires_grad=True)
        Made.apply(x).sum().backward()
        return x.grad

    assert returning(lambda g: None) is None
    assert returning(lambda g: (g, None)).tolist() == [[1.0] * 3] * 2
    assert returning(lambda g: g.double()).dtype is torch.float32
    assert returning(lambda g: torch.stack([g, g])).tolist() == [[2.0] * 3] * 2
    for answer, text in (
        (lambda g: (g, g), "function MadeBackward returned an incorrect number of gradients "
                           "(expected 1, got 2)"),
        (lambda g: g[:1], "Function MadeBackward returned an invalid gradient at index 0 - got "
                          "[1, 3] but expected shape compatible with [2, 3]"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError) as error:
            returning(answer)
        assert str(error.value) == text


def test_what_is_missing() -> None:
    class Nothing(Function):
        pass

    class Forward(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

    x = torch.ones(2, requires_grad=True)
    with pytest.raises(NotImplementedError, match="You must implement the forward function"):
        Nothing.apply(x)
    with pytest.raises(NotImplementedError, match="either the backward or vjp method"):
        Forward.apply(x).sum().backward()
    with pytest.raises(UsageError, match=r"Doubled\.apply takes tensors"):
        torch.grad(lambda x: Doubled.apply(x).sum())(np.ones(2))


def test_saved_tensors_are_watched() -> None:
    class Square(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 2 * ctx.saved_tensors[0]

    x = torch.ones(2, requires_grad=True)
    h = x * 3
    y = Square.apply(h)
    with torch.no_grad():
        h.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y = Square.apply(x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        y.backward()
    y = Square.apply(x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [6.0, 6.0]


def test_once_differentiable() -> None:
    class Once(Exponential):
        backward = staticmethod(once_differentiable(Exponential.backward))

    x = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: Once.apply(x, 2.0), x)
    (first,) = grad(Once.apply(x, 2.0).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="marked with @once_differentiable"):
        first.sum().backward()


def test_backward_sees_values_and_hooks_see_sums() -> None:
    class Clipped(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 1

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g if g.norm() <= 1 else g / g.norm()  # looks at a value

    x = torch.tensor([3.0, 4.0], requires_grad=True)
    (Clipped.apply(x) * torch.tensor([3.0, 4.0])).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [0.6, 0.8], rtol=1e-6)
    seen = []
    h = x * 1
    h.register_hook(lambda g: seen.append(g.tolist()))
    (Doubled.apply(h) + h * 5).sum().backward()
    assert seen == [[7.0, 7.0]]


def test_a_loop_with_a_function_compiles_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from symgrad import api_backend

    compiled: Counter[str] = Counter()
    compile_func = api_backend.compile_func

    def counting(func: Any, *args: Any, **kwargs: Any) -> Any:
        compiled["programs"] += 1
        return compile_func(func, *args, **kwargs)

    w = torch.tensor([0.3, -0.2], requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    for step in range(6):
        if step == 2:
            monkeypatch.setattr(api_backend, "compile_func", counting)
        optimizer.zero_grad()
        loss = (Exponential.apply(w, 1.0) - 1).square().sum()
        loss.backward()
        optimizer.step()
    assert not compiled
    gc.collect()
    before = len(PULLBACKS)
    for _ in range(20):
        optimizer.zero_grad()
        (Exponential.apply(w, 1.0) - 1).square().sum().backward()
        optimizer.step()
    gc.collect()
    assert len(PULLBACKS) <= before + 1  # graphs of the past are gone


def test_a_derivative_by_hand_has_no_text_form() -> None:
    """The op prints and parses; only its derivative is Python code, elsewhere."""
    from symgrad.ir import interpret, parse
    from symgrad.ir.adjoint import value_and_grad

    text = """
    func @f(%k: bool[], %x: f64[2], %y: f64[2]) -> (f64[]) {
      %0: f64[2] = custom %k, %x, %y {count=1}
      %1: f64[] = reduce_sum %0 {axes=(0,)}
      return %1
    }
    """
    func = parse(text)
    assert parse(str(func)) == func
    arrays = [np.array(False), np.ones(2), np.array([2.0, 3.0])]
    assert interpret(func, arrays)[0] == 5.0
    assert api_result(func, arrays) == 5.0
    with pytest.raises(DifferentiationError, match="given by hand is not part of this function"):
        value_and_grad(func, [1])


def api_result(func: Any, arrays: Any) -> float:
    from symgrad.api_backend import compile_func

    return float(compile_func(func)(arrays)[0])


def test_jacobians_by_one_pull_back() -> None:
    def f(x: Any, y: Any) -> Any:
        return x * y[0], (x**2).sum()

    x, y = torch.tensor(POINT), torch.tensor(POINT[::-1].copy())
    for options in ({}, {"strategy": "forward-mode"}):
        found = functional.jacobian(f, (x, y), vectorize=True, **options)
        wanted = functional.jacobian(f, (x, y))
        for row, expected in zip(found, wanted, strict=True):
            for a, b in zip(row, expected, strict=True):
                np.testing.assert_array_equal(a.numpy(), b.numpy())
    second = functional.hessian(lambda x: (x**3).sum(), x, vectorize=True)
    np.testing.assert_allclose(second.numpy(), np.diag(6 * POINT))
    with pytest.raises(NotImplementedError, match="only supported when `vectorize=True`"):
        functional.jacobian(f, (x, y), strategy="forward-mode")
