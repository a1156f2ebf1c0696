"""What the five autograd tutorials show, item by item, with the values torch printed."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from typer.testing import CliRunner

import symgrad as torch
from symgrad.autograd import Variable
from symgrad.cli.app import app
from symgrad.drawing import COLOURS


def _pair(*, a: Any = (2.0, 3.0), b: Any = (6.0, 4.0)) -> tuple[Any, Any]:
    return torch.tensor(a, requires_grad=True), torch.tensor(b, requires_grad=True)


def _q(a: Any, b: Any) -> Any:
    return 3 * a**3 - b**2


def test_a01_variable() -> None:
    t = torch.tensor([1.0])
    v = Variable(t, requires_grad=True)
    assert v.requires_grad and not t.requires_grad
    assert repr(v) == "tensor([1.], requires_grad=True)"


def test_a06_tensors_from_lists_tuples_and_numbers() -> None:
    assert repr(torch.tensor((2.0, 3.0))) == "tensor([2., 3.])"
    scalar = torch.tensor(2.0, requires_grad=True)
    assert scalar.shape == () and scalar.requires_grad
    assert not torch.tensor([2.0]).requires_grad


def test_a07_creation() -> None:
    assert torch.rand(1, 3, 64, 64).shape == (1, 3, 64, 64)
    assert torch.rand(1, 1000).shape == (1, 1000) and not torch.rand(1, 1000).requires_grad
    assert torch.rand(5, 5, requires_grad=True).requires_grad
    assert torch.rand((5, 5), requires_grad=True).shape == (5, 5)
    for made in (torch.randn((3, 1), requires_grad=True), torch.ones((3, 1), requires_grad=True)):
        assert (made.shape, made.dtype, made.requires_grad) == ((3, 1), torch.float32, True)
    counted = torch.arange(6)
    assert counted.dtype is torch.int64
    assert (counted.reshape(2, 3) * 1.0).dtype is torch.float32


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([2.0, 3.0], "tensor([2., 3.])"),
        (
            [[2.1829], [-0.0914], [0.7154]],
            "tensor([[ 2.1829],\n        [-0.0914],\n        [ 0.7154]])",
        ),
        ([[0.0, 1, 2], [3, 4, 5]], "tensor([[0., 1., 2.],\n        [3., 4., 5.]])"),
        ([True, False], "tensor([ True, False])"),
        (True, "tensor(True)"),
        (8.0, "tensor(8.)"),
        (1e-5, "tensor(1.0000e-05)"),
        (123456.789, "tensor(123456.7891)"),
        ([1e-3, 1e4], "tensor([1.0000e-03, 1.0000e+04])"),
        ([1.5, 1e9], "tensor([1.5000e+00, 1.0000e+09])"),
        ([float("nan"), float("inf"), 1], "tensor([nan, inf, 1.])"),
        ([1, 200, -3], "tensor([  1, 200,  -3])"),
        ([], "tensor([])"),
        ([100000.0, 1.0], "tensor([1.0000e+05, 1.0000e+00])"),
    ],
)
def test_a08_printing(data: Any, text: str) -> None:
    assert repr(torch.tensor(data)) == text


def test_a08_printing_of_what_is_tracked(capsys: pytest.CaptureFixture[str]) -> None:
    """Leaves say that they want a gradient, results where they come from, others nothing."""
    x = torch.tensor([[2.1829], [-0.0914], [0.7154]], requires_grad=True)
    column = "tensor([[ 2.1829],\n        [-0.0914],\n        [ 0.7154]]"
    assert repr(x) == f"{column}, requires_grad=True)"
    assert repr(x * 1) == f"{column}, grad_fn=<MulBackward0>)"
    assert repr(x.detach()) == f"{column})"
    a, b = _pair()
    print(a, b)
    first, second = "tensor([2., 3.], requires_grad=True)", "tensor([6., 4.], requires_grad=True)"
    assert capsys.readouterr().out == f"{first} {second}\n"


def test_a08_printing_of_many_elements() -> None:
    assert repr(torch.arange(2000)) == "tensor([   0,    1,    2,  ..., 1997, 1998, 1999])"
    assert repr(torch.zeros(0, 3)) == "tensor([], size=(0, 3))"
    assert repr(torch.ones(2, dtype=torch.int32)) == "tensor([1, 1], dtype=torch.int32)"
    lines = repr(torch.ones(1, 50) * 1.5).splitlines()
    assert lines[0] == "tensor([[" + "1.5000, " * 8 + "1.5000,"
    block = repr(torch.arange(24.0).reshape(2, 3, 4))
    assert "         [ 8.,  9., 10., 11.]],\n\n        [[12., 13., 14., 15.]," in block


def test_a09_q() -> None:
    assert repr(_q(*_pair())) == "tensor([-12.,  65.], grad_fn=<SubBackward0>)"


def test_a10_scalars() -> None:
    a, b = _pair(a=2.0, b=6.0)
    assert repr((a + b, a - b, a * b, b / a)) == (
        "(tensor(8., grad_fn=<AddBackward0>), tensor(-4., grad_fn=<SubBackward0>), "
        "tensor(12., grad_fn=<MulBackward0>), tensor(3., grad_fn=<DivBackward0>))"
    )


def test_a11_grad_fn() -> None:
    y = torch.randn((3, 1), requires_grad=True) + 1
    assert y.requires_grad
    for tensor in (y, y**2 + 3):
        assert re.fullmatch(r"<AddBackward0 object at 0x[0-9a-f]+>", repr(tensor.grad_fn))


def test_a12_next_functions() -> None:
    x = torch.randn((3, 1), requires_grad=True)
    y = x + 1
    z = y**2 + 3
    (power, slot), last = z.grad_fn.next_functions
    assert (power.name(), slot, last) == ("PowBackward0", 0, (None, 0))
    address = r"object at 0x[0-9a-f]+>"
    assert re.fullmatch(
        rf"\(\(<PowBackward0 {address}, 0\), \(None, 0\)\)", repr(z.grad_fn.next_functions)
    )
    assert re.fullmatch(rf"\(\(<AddBackward0 {address}, 0\),\)", repr(power.next_functions))
    assert power.next_functions[0][0] is y.grad_fn
    leaf = y.grad_fn.next_functions[0][0]
    assert leaf.name() == "torch::autograd::AccumulateGrad" and leaf.variable is x
    node = _q(*_pair()).grad_fn
    assert [n.name() for n, _ in node.next_functions] == ["MulBackward0", "PowBackward0"]
    under = node.next_functions[0][0].next_functions
    assert under[0][0].name() == "PowBackward0" and under[1] == (None, 0)


def test_a13_matmul() -> None:
    x = torch.arange(6).reshape(2, 3) * 1.0
    w = torch.ones((3, 1), requires_grad=True)
    assert repr(x.matmul(w)) == "tensor([[ 3.],\n        [12.]], grad_fn=<MmBackward0>)"


def _regression() -> tuple[Any, Any]:
    x = torch.arange(2 * 3).reshape(2, 3) * 1.0
    target = torch.arange(2, 2 + 2).reshape(2, 1) * 1.0
    w = torch.ones((3, 1), requires_grad=True)
    return ((x.matmul(w) - target) ** 2).mean(), w


def test_a14_mean() -> None:
    assert repr(_regression()[0]) == "tensor(41., grad_fn=<MeanBackward0>)"


@pytest.mark.parametrize(
    ("f", "name"),
    [
        (lambda x: x.sum(), "SumBackward0"),
        (lambda x: x.sum(0), "SumBackward1"),
        (lambda x: x.relu(), "ReluBackward0"),
        (lambda x: x.flatten(), "ViewBackward0"),
        (lambda x: torch.addmm(torch.ones(2, 2), x, x.T), "AddmmBackward0"),
        (lambda x: x.T, "PermuteBackward0"),
        (lambda x: x.t(), "TBackward0"),
        (lambda x: 1 - x, "RsubBackward1"),
        (lambda x: 1 / x, "MulBackward0"),
        (lambda x: 2**x, "PowBackward2"),
        (lambda x: x**x, "PowBackward1"),
        (lambda x: x[0], "SelectBackward0"),
        (lambda x: x[[0, 1]], "IndexBackward0"),
        (lambda x: x[x > 0], "IndexBackward0"),
        (lambda x: x.log_softmax(0), "LogSoftmaxBackward0"),
        (lambda x: x.double(), "ToCopyBackward0"),
        (lambda x: torch.cat([x, x]), "CatBackward0"),
        (lambda x: torch.where(x > 0, x, x), "WhereBackward0"),
        (lambda x: x.clamp(0, 1), "ClampBackward1"),
        (lambda x: x.norm(), "LinalgVectorNormBackward0"),
        (lambda x: x.max(0)[0], "MaxBackward0"),
        (lambda x: x.log1p(), "Log1PBackward0"),
    ],
)
def test_a15_names(f: Any, name: str) -> None:
    assert f(torch.ones(2, 3, requires_grad=True)).grad_fn.name() == name


def test_a16_implicit_gradient_needs_a_scalar() -> None:
    with pytest.raises(RuntimeError) as error:
        _q(*_pair()).backward()
    assert str(error.value) == "grad can be implicitly created only for scalar outputs"


def test_a17_a18_backward_with_gradient() -> None:
    a, b = _pair()
    _q(a, b).backward(gradient=torch.tensor([1.0, 1.0]))
    assert repr(a.grad) == "tensor([36., 81.])"
    assert repr(b.grad) == "tensor([-12.,  -8.])"
    assert repr(9 * a**2 == a.grad) == repr(-2 * b == b.grad) == "tensor([True, True])"
    assert (9 * a**2 == a.grad).grad_fn is None


def test_a19_sum_and_scalars() -> None:
    a, b = _pair()
    assert _q(a, b).sum().backward() is None
    assert repr(a.grad) == "tensor([36., 81.])"
    a, b = _pair(a=2.0, b=6.0)
    _q(a, b).backward()
    assert repr(a.grad.data) == "tensor(36.)" and repr(b.grad.data) == "tensor(-12.)"
    assert repr(9 * a**2 == a.grad) == "tensor(True)"


def test_a20_gradients_accumulate() -> None:
    a, b = _pair()
    for _ in range(2):
        _q(a, b).sum().backward()
    assert repr(a.grad) == "tensor([ 72., 162.])"
    assert repr(a.grad.zero_()) == repr(a.grad) == "tensor([0., 0.])"


def test_a21_second_backward() -> None:
    a, b = _pair()
    q = _q(a, b)
    q.backward(gradient=torch.tensor([1.0, 1.0]))
    with pytest.raises(RuntimeError, match=r"^Trying to backward through the graph a second time"):
        q.sum().backward(retain_graph=True)
    q = _q(a, b)
    q.sum().backward(retain_graph=True)
    q.sum().backward()
    assert repr(a.grad) == "tensor([108., 243.])"
    for size in (1, 2, 5):  # a new graph each time, of another shape
        x = torch.ones(size, requires_grad=True)
        (x * 2 if size % 2 else x * 3).sum().backward()
        assert x.grad.tolist() == [2.0 if size % 2 else 3.0] * size


def test_a22_regression_gradient() -> None:
    loss, w = _regression()
    assert w.grad is None
    loss.backward()
    assert repr(w.grad) == "tensor([[27.],\n        [37.],\n        [47.]])"


def test_a23_forgotten_parentheses() -> None:
    prediction = torch.ones(2, requires_grad=True) * 2
    loss = (prediction - torch.ones(2)).sum
    with pytest.raises(AttributeError) as error:
        loss.backward()
    assert str(error.value) == (
        "'builtin_function_or_method' object has no attribute 'backward'; did you forget ()? "
        "sum is a method: x.sum().backward()"
    )
    with pytest.raises(AttributeError, match=r"x\.mean\(\)\.shape$"):
        print(prediction.mean.shape)
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'$"):
        print(prediction.mean.nonsense)
    assert prediction.sum.__name__ == "sum" and torch.Tensor.sum(prediction).item() == 4


def test_a24_refusals() -> None:
    with pytest.raises(RuntimeError) as error:
        _q(*_pair()).backward(torch.ones(3))
    assert str(error.value) == (
        "Mismatch in shape: grad_output[0] has a shape of torch.Size([3]) and output[0] has a "
        "shape of torch.Size([2])."
    )
    with pytest.raises(RuntimeError) as error:
        torch.ones(2).sum().backward()
    assert str(error.value) == (
        "element 0 of tensors does not require grad and does not have a grad_fn"
    )


def test_a25_vector_jacobian_product() -> None:
    def f(x: Any) -> Any:
        return np.stack([x[0] * x[1], np.sin(x[0]), x[1] ** 2 + x[0]])

    rng = np.random.default_rng(25)
    point, v = rng.standard_normal(2), rng.standard_normal(3)
    jacobian = torch.jacobian(f)(point)
    x = torch.tensor(point, requires_grad=True)
    y = torch.stack([x[0] * x[1], x[0].sin(), x[1] ** 2 + x[0]])
    y.backward(gradient=torch.tensor(v))
    np.testing.assert_allclose(x.grad.numpy(), v @ jacobian, rtol=1e-12)


def test_a26_a27_tracking() -> None:
    x, y, z = torch.rand(5, 5), torch.rand(5, 5), torch.rand((5, 5), requires_grad=True)
    a, b = x + y, x + z
    assert (
        f"Does `a` require gradients? : {a.requires_grad}" == "Does `a` require gradients? : False"
    )
    assert f"Does `b` require gradients?: {b.requires_grad}" == "Does `b` require gradients?: True"
    with torch.no_grad():
        assert not (x + z).requires_grad
        with torch.enable_grad():
            assert (x + z).requires_grad
        assert not (x + z).requires_grad
    assert not (x + z).detach().requires_grad
    with pytest.raises(ValueError, match="stop"), torch.no_grad():
        raise ValueError("stop")
    assert (x + z).requires_grad

    @torch.no_grad()
    def untracked() -> Any:
        return x + z

    assert not untracked().requires_grad


def test_a28_in_place_update() -> None:
    loss, w = _regression()
    loss.backward()
    with torch.no_grad():
        w.add_(w.grad, alpha=-1 * 0.01)
    assert repr(w) == (
        "tensor([[0.7300],\n        [0.6300],\n        [0.5300]], requires_grad=True)"
    )
    with pytest.raises(RuntimeError) as error:
        w.add_(w.grad)
    assert str(error.value) == (
        "a leaf Variable that requires grad is being used in an in-place operation."
    )


def test_a29_flags_of_leaves() -> None:
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError) as error:
        (x * 2).requires_grad = False
    assert str(error.value) == (
        "you can only change requires_grad flags of leaf variables. If you want to use a computed "
        "variable in a subgraph that doesn't require differentiation use var_no_grad = "
        "var.detach()."
    )
    x.requires_grad = False
    assert not (x * 2).requires_grad


def test_a30_integers() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.tensor([1], requires_grad=True)
    assert str(error.value) == (
        "Only Tensors of floating point and complex dtype can require gradients"
    )


def test_a37_signatures() -> None:
    def arguments(function: Any) -> str:
        parameters = inspect.signature(function).parameters.values()
        return ", ".join(
            p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters
        )

    assert arguments(torch.Tensor.backward) == (
        "self, gradient=None, retain_graph=None, create_graph=False, inputs=None"
    )
    assert arguments(torch.autograd.backward) == (
        "tensors, grad_tensors=None, retain_graph=None, create_graph=False, grad_variables=None, "
        "inputs=None"
    )
    assert arguments(torch.Tensor.register_hook) == "self, hook"


def test_a37_hooks_and_inputs() -> None:
    a, b = _pair()
    q = _q(a, b)
    seen = []
    q.register_hook(lambda g: seen.append(g.tolist()))
    a.register_hook(lambda g: g * 10)
    torch.autograd.backward(q, torch.ones_like(q, memory_format=torch.preserve_format))
    assert seen == [[1.0, 1.0]] and q.numel() == 2
    assert a.grad.tolist() == [360.0, 810.0]
    a.grad = None
    y = a * 2
    y.register_hook(lambda g: g * 3)
    (y.sum() + a.sum()).backward(inputs=[a])
    assert a.grad.tolist() == [70.0, 70.0]


def test_a38_second_derivative() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    (first,) = torch.autograd.grad(x**3, x, create_graph=True)
    assert repr(first) == "tensor(12., grad_fn=<MulBackward0>)"
    first.backward()
    assert repr(x.grad) == "tensor(12.)"


def test_a39_small_things() -> None:
    assert repr(torch.arange(2, 4).reshape(2, 1) * 1.0) == "tensor([[2.],\n        [3.]])"
    shape = (3, 1)
    x = torch.randn(shape, requires_grad=True)
    for y in (1.5 + x, x + 1.5, 1.5 - x, 1.5 * x, 1.5 / x, x**1.5, 1.5**x):
        assert y.dtype is torch.float32 and y.shape == shape


POWER, LEAF = "PowBackward0", "AccumulateGrad"


def _arrows(dot: str) -> list[tuple[str, str]]:
    """The arrows of a picture in Graphviz's language, from label to label."""
    labels = dict(re.findall(r'^  (n\d+) \[label="(\[?\w+)', dot, re.MULTILINE))
    arrows = re.findall(r"(n\d+) -> (n\d+)", dot)
    return sorted((labels[a], labels[b]) for a, b in arrows)


def test_a40_picture() -> None:
    dot = torch.autograd.to_dot(_q(*_pair()))
    assert _arrows(dot) == [
        (LEAF, POWER),
        (LEAF, POWER),
        ("MulBackward0", "SubBackward0"),
        (POWER, "MulBackward0"),
        (POWER, "SubBackward0"),
        ("SubBackward0", "[2"),
    ]
    blue = [line for line in dot.splitlines() if COLOURS["param"] in line]
    assert len(blue) == 2 and all(LEAF in line for line in blue)
    with pytest.raises(RuntimeError, match="no graph behind a tensor"):
        torch.autograd.to_dot(torch.ones(2))


def test_a40_the_commands_picture() -> None:
    """Two ways from the parameters to the result: power, times 3; square; and a difference."""
    words = ["show", "-c", "lambda a, b: 3*a**3 - b**2", "--arg", "a:f32[2]", "--arg", "b:f32[2]"]
    run = CliRunner().invoke(app, [*words, "--emit", "dot,svg"])
    assert run.exit_code == 0
    _, dot, svg = re.split(r"# ---- (?:dot|svg) ----\n", run.output)
    assert set(_arrows(dot)) == {
        ("a", "pow"), ("pow", "mul"), ("mul", "sub"), ("b", "mul"), ("sub", "return"),
    }  # fmt: skip
    assert 'label="mul 3"' in dot and 'label="mul"' in dot  # the product and the square
    for picture, boxes in ((svg, 7), (torch.autograd.to_svg(_q(*_pair())), 7)):
        root = ElementTree.fromstring(picture)
        places = _boxes(root)
        assert len(places) == boxes
        for number, (x, y, width, height) in enumerate(places):  # none lies on another
            for left, top, w, h in places[:number]:
                assert x + width <= left or left + w <= x or y + height <= top or top + h <= y
        assert len(root.findall(f"{SVG}path")) >= 6 and root.find(f"{SVG}marker") is not None


SVG = "{http://www.w3.org/2000/svg}"


def _boxes(root: ElementTree.Element) -> list[tuple[float, ...]]:
    rectangles = [r for r in root.findall(f"{SVG}rect") if "x" in r.attrib]
    return [tuple(float(r.attrib[k]) for k in ("x", "y", "width", "height")) for r in rectangles]


def test_a41_claims() -> None:
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.sum().backward()
    with pytest.warns(UserWarning, match="not a leaf Tensor is being accessed"):
        assert y.grad is None
    y = x * 2
    y.retain_grad()
    (y * 3).sum().backward()
    assert y.grad.tolist() == [3.0, 3.0] and y.requires_grad and not y.is_leaf and x.is_leaf


def test_a41_momentum_smooths() -> None:
    """Of a gradient that swings around 1, steps with momentum show less of the swing."""
    swings = {}
    for momentum in (0.0, 0.9):
        w = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.1, momentum=momentum)
        steps = []
        for number in range(60):
            before = w.item()
            optimizer.zero_grad()
            (w * (1 + (-1) ** number * 5.0)).sum().backward()
            optimizer.step()
            steps.append(before - w.item())
        late = np.array(steps[-20:])
        swings[momentum] = late.std() / late.mean()
    assert swings[0.9] < 0.1 * swings[0.0]


def test_a41_the_output_needs_a_gradient_if_any_input_does() -> None:
    plain, tracked = torch.ones(2), torch.ones(2, requires_grad=True)
    assert not torch.stack([plain, plain]).requires_grad
    assert torch.stack([plain, tracked]).requires_grad
    q = _q(tracked, tracked)
    q.sum().backward()
    assert tracked.grad is not None and plain.grad is None  # gradients lie in leaves only


def test_a42_neighbouring_errors() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    cases = [
        (x.numpy, "Can't call numpy() on Tensor that requires grad. "
                  "Use tensor.detach().numpy() instead."),
        (lambda: x @ x, "mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"),
        (lambda: x + torch.ones(2, 4), "The size of tensor a (3) must match the size of tensor b "
                                       "(4) at non-singleton dimension 1"),
        (lambda: x.view(-1).add_(1), "a view of a leaf Variable that requires grad is being used "
                                     "in an in-place operation."),
    ]  # fmt: skip
    for call, text in cases:
        with pytest.raises(RuntimeError) as error:
            call()
        assert str(error.value) == text
    y = x.exp()
    y.mul_(2)
    with pytest.raises(RuntimeError) as error:
        y.sum().backward()
    assert str(error.value) == (
        "one of the variables needed for gradient computation has been modified by an inplace "
        "operation: [torch.FloatTensor [2, 3]], which is output 0 of Exp, is at version 1; "
        "expected version 0 instead. Hint: enable anomaly detection to find the operation that "
        "failed to compute its gradient, with torch.autograd.set_detect_anomaly("
        "True, check_nan=False)."
    )


def test_a43_decorator() -> None:
    f = torch.grad(lambda a, b: (3 * a**3 - b**2).sum(), argnums=(0, 1))
    da, db = f(np.array([2.0, 3.0]), np.array([6.0, 4.0]))
    assert da.tolist() == [36.0, 81.0] and db.tolist() == [-12.0, -8.0]


def test_a43_the_command_shows_the_derivatives() -> None:
    words = ["show", "-c", "lambda a, b: (3*a**3 - b**2).sum()"]
    words += ["--arg", "a:f32[2]", "--arg", "b:f32[2]", "--grad", "--emit", "symbolic,latex"]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0
    assert "= 9*a**2\n" in run.output and "= -2*b\n" in run.output
    assert "9 a^{2}" in run.output and "- 2 b" in run.output


def test_no_warning_on_ordinary_use() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = torch.ones(3, requires_grad=True)
        (x * x).sum().backward()
        assert x.grad.tolist() == [2.0, 2.0, 2.0]
