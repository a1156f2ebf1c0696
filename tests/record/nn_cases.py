"""Record layers with PyTorch: ``python tests/record/nn_cases.py`` (needs torch).

Each case calls one function of ``torch.nn.functional`` in float64 on small odd-sized inputs
and keeps inputs, output, cotangent, gradients and changed buffers in
``tests/data/nn_cases.npz``, read by ``references.layer_cases``.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import references as R

Array = np.ndarray[Any, Any]
BUFFERS = ("running_mean", "running_var")


@dataclass
class Case:
    """A call to record; inputs given as shapes are drawn, arrays are taken as they are."""

    op: str
    name: str
    inputs: dict[str, Any]
    attrs: dict[str, Any] = field(default_factory=dict)

    def arrays(self) -> dict[str, Array]:
        return {k: self._array(k, v) for k, v in self.inputs.items()}

    def _array(self, name: str, value: Any) -> Array:
        if isinstance(value, np.ndarray):
            return value
        low = 0.5 if name == "running_var" else -2.0
        return few_bits(R.draw(f"{self.op}/{self.name}/{name}", value, low, 2.0))


def few_bits(x: Array) -> Array:
    """Multiples of 1/1024: exact in float32, and the file compresses well."""
    return np.round(x.astype(np.float64) * 1024) / 1024


def spell(options: dict[str, Any]) -> str:
    """A case's name from what differs in it: ``stride2-padding1x0``."""
    parts = [k + "x".join(map(str, np.atleast_1d(v))) for k, v in options.items()]
    return "-".join(parts) or "default"


# ------------------------------------------------------------------------- the cases --


def convolutions() -> Iterator[Case]:
    def case(
        op: str, x: tuple[int, ...], kernel: tuple[int, ...], out: int, bias: bool, **attrs: Any
    ) -> Case:
        weight = (out, x[1] // attrs.get("groups", 1), *kernel)
        inputs: dict[str, Any] = {"input": x, "weight": weight}
        if bias:
            inputs["bias"] = (out,)
        shape = {"batch": x[0], "in": x[1], "out": out, "kernel": kernel, "size": x[2:]}
        return Case(op, spell(shape | attrs), inputs, attrs)

    grid = itertools.product((1, 2, 3), (0, 1, 2), (1, 2))
    for stride, padding, dilation in grid:
        for groups in (1, 2):
            bias = (stride + padding) % 2 == 0
            attrs = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
            yield case("conv2d", (2, 4, 9, 7), (3, 3), 6, bias, **attrs)
    yield case("conv2d", (1, 1, 1, 1), (1, 1), 1, True)
    yield case("conv2d", (3, 5, 5, 17), (1, 1), 7, False)
    yield case("conv2d", (2, 17, 5, 5), (1, 1), 33, False, stride=2)
    yield case("conv2d", (1, 17, 6, 5), (3, 3), 19, False, padding=1)
    yield case("conv2d", (1, 33, 4, 4), (3, 3), 16, False, padding=1, stride=2)
    yield case("conv2d", (2, 3, 17, 15), (7, 7), 5, False, stride=2, padding=3)
    yield case("conv2d", (2, 3, 8, 11), (2, 5), 4, True, stride=(1, 2), padding=(0, 2))
    yield case("conv2d", (2, 3, 8, 11), (3, 2), 4, True, dilation=(2, 3), padding=(2, 1))
    yield case("conv2d", (2, 6, 7, 7), (3, 3), 6, False, padding=1, groups=6)
    yield case("conv2d", (2, 5, 7, 7), (3, 3), 15, True, padding=1, stride=2, groups=5)
    yield case("conv2d", (1, 3, 6, 7), (3, 4), 4, True, padding="same", dilation=(1, 2))
    yield case("conv2d", (1, 3, 6, 7), (3, 4), 4, True, padding="valid")
    yield case("conv2d", (1, 2, 3, 3), (3, 3), 2, False, padding=4)  # taps that see only zeros
    yield case("conv2d", (1, 2, 8, 8), (1, 1), 2, False, stride=3)  # pixels that no tap sees
    yield case("conv1d", (2, 3, 17), (5,), 4, True, padding=2)
    yield case("conv1d", (2, 4, 16), (3,), 6, False, stride=2, dilation=2, groups=2)
    yield case("conv3d", (1, 2, 5, 4, 3), (3, 2, 2), 3, True, padding=1, stride=(2, 1, 1))


def linear() -> Iterator[Case]:
    for lead, inner, outer, bias in [
        ((), 5, 3, True), ((1,), 1, 1, True), ((4,), 17, 33, True), ((3,), 33, 5, False),
        ((2, 3), 5, 7, True),
    ]:  # fmt: skip
        inputs = {"input": (*lead, inner), "weight": (outer, inner)}
        name = spell({"lead": lead, "in": inner, "out": outer, "bias": bias})
        yield Case("linear", name, inputs | ({"bias": (outer,)} if bias else {}))


def norms() -> Iterator[Case]:
    for shape in [(3, 5, 4, 3), (2, 17, 3, 3), (7, 5), (4, 3, 5), (2, 1, 1, 1), (1, 3, 5, 1)]:
        channels = (shape[1],)
        affine = {"weight": channels, "bias": channels}
        running = {"running_mean": channels, "running_var": channels}
        for training, affinity, buffers, options in [
            (True, affine, running, {}), (False, affine, running, {}), (True, {}, running, {}),
            (True, affine, {}, {}), (True, affine, running, {"momentum": 0.3, "eps": 1e-2}),
        ]:  # fmt: skip
            inputs = {"input": shape}
            name = spell({"size": shape, "training": training, **options})
            name += "" if affinity else "-plain"
            name += "" if buffers else "-untracked"
            attrs = {"training": training, **options}
            yield Case("batch_norm", name, inputs | buffers | affinity, attrs)
    for shape, normal in [((3, 5), (5,)), ((2, 3, 5), (3, 5)), ((2, 4, 17), (17,))]:
        inputs = {"input": shape, "weight": normal, "bias": normal}
        attrs = {"normalized_shape": normal}
        yield Case("layer_norm", spell({"size": shape, "over": normal}), inputs, attrs)
    for shape, groups in [((2, 6, 3, 5), 3), ((1, 5, 7), 1), ((3, 4, 3), 4)]:
        inputs = {"input": shape, "weight": (shape[1],), "bias": (shape[1],)}
        yield Case(
            "group_norm", spell({"size": shape, "groups": groups}), inputs, {"num_groups": groups}
        )


def pools() -> Iterator[Case]:
    def case(op: str, shape: tuple[int, ...], **attrs: Any) -> Case:
        return Case(op, spell({"size": shape, **attrs}), {"input": shape}, attrs)

    for options in [
        {"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 2},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
        {"kernel_size": 3, "stride": 1, "padding": 1},
        {"kernel_size": 2, "stride": 2, "ceil_mode": True},
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    ]:  # fmt: skip
        yield case("max_pool2d", (2, 3, 9, 7), **options)
        yield case("avg_pool2d", (2, 3, 9, 7), **options)
    yield case("max_pool2d", (1, 17, 8, 8), kernel_size=3, stride=2, padding=1)
    yield case("max_pool2d", (2, 3, 9, 7), kernel_size=2, stride=2, dilation=2)
    yield case("max_pool2d", (1, 1, 3, 3), kernel_size=3)
    ties = np.zeros((1, 2, 4, 5))  # every window is a tie: the first element takes it all
    yield Case("max_pool2d", "ties", {"input": ties}, {"kernel_size": 2, "stride": 1})
    window = {"kernel_size": 3, "stride": 2, "padding": 1}
    yield case("avg_pool2d", (2, 3, 9, 7), **window, count_include_pad=False)
    yield case("avg_pool2d", (2, 3, 9, 7), **window, ceil_mode=True, count_include_pad=False)
    yield case("avg_pool2d", (2, 3, 9, 7), **window, divisor_override=5)
    yield case("max_pool1d", (2, 3, 11), kernel_size=3, stride=2, padding=1)
    yield case("avg_pool1d", (2, 3, 11), kernel_size=3, stride=2, padding=1)
    for size in (1, (3, 2), 5, (7, 7), (2, None)):
        yield case("adaptive_avg_pool2d", (2, 3, 7, 5), output_size=size)
        yield case("adaptive_max_pool2d", (2, 3, 7, 5), output_size=size)


def losses() -> Iterator[Case]:
    labels = np.array([3, 0, 2, 4, 1, 3], np.int64)
    ignoring = np.array([3, -100, 2, 4, -100, 3], np.int64)
    dense = np.array([[[0, 1, 2], [2, 1, 0]], [[1, 1, 2], [0, -100, 0]]], np.int64)
    odds = few_bits(R.draw("odds", (6, 5), 0, 1))

    def case(
        op: str, name: str, target: Any, attrs: dict[str, Any], weighted: bool = False
    ) -> Case:
        classes = (6, 5) if np.ndim(target) == 1 or np.size(target) == 30 else (2, 3, 2, 3)
        inputs: dict[str, Any] = {"input": classes, "target": target}
        if weighted:
            inputs["weight"] = few_bits(R.draw("class weights", (classes[1],), 0.25, 2))
        name += "-weighted" if weighted else ""
        return Case(op, f"{name}-{spell(attrs)}", inputs, attrs)

    for reduction, smoothing, weighted in itertools.product(
        ("mean", "sum", "none"), (0.0, 0.1), (False, True)
    ):
        attrs = {"reduction": reduction, "label_smoothing": smoothing}
        yield case("cross_entropy", "labels", labels, attrs, weighted)
        yield case("cross_entropy", "ignoring", ignoring, attrs, weighted)
        yield case("cross_entropy", "dense", dense, attrs, weighted)
        yield case("cross_entropy", "odds", odds, attrs, weighted)
    yield case("cross_entropy", "chosen", labels, {"ignore_index": 3})
    for reduction in ("mean", "sum", "none"):
        yield case("nll_loss", "ignoring", ignoring, {"reduction": reduction}, True)
        for op in ("mse_loss", "l1_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"):
            yield case(op, "plain", odds, {"reduction": reduction})
    extreme = np.array([[1000.0, -1000.0, 0.0], [-800.0, -800.0, -800.0]])
    yield Case("cross_entropy", "extreme", {"input": extreme, "target": np.array([1, 2])}, {})


def activations() -> Iterator[Case]:
    plain = ("relu", "relu6", "silu", "softplus", "sigmoid", "tanh", "elu", "leaky_relu", "selu",
             "hardtanh", "hardsigmoid", "hardswish", "mish", "logsigmoid", "softsign")  # fmt: skip
    for op in plain:
        yield Case(op, "3x17", {"input": (3, 17)})
    yield Case("relu", "zeros", {"input": np.zeros((2, 3))})
    for kind in ("none", "tanh"):
        yield Case("gelu", kind, {"input": (3, 17)}, {"approximate": kind})
    for op, dim in itertools.product(("softmax", "log_softmax"), (0, 1, -1)):
        yield Case(op, f"dim{dim}", {"input": (3, 5, 7)}, {"dim": dim})


# --------------------------------------------------------------------------- recording --


def record(case: Case) -> dict[str, Array]:
    """All arrays of one call, under the names that ``references.LayerCase`` reads."""
    inputs = case.arrays()
    tensors = {k: torch.tensor(v) for k, v in inputs.items()}
    learned = {
        k: v.requires_grad_()
        for k, v in tensors.items()
        if v.is_floating_point() and k not in BUFFERS and not is_fixed(case.op, k)
    }
    missing = dict.fromkeys(BUFFERS) if case.op == "batch_norm" else {}
    output = getattr(F, case.op)(**{**missing, **tensors}, **case.attrs)
    cotangent = few_bits(R.draw(f"{case.op}/{case.name}/cotangent", tuple(output.shape)))
    gradients = torch.autograd.grad(output, list(learned.values()), torch.tensor(cotangent))
    arrays = {f"inputs.{k}": v for k, v in inputs.items()}
    arrays |= {"output": output.detach().numpy(), "cotangent": cotangent}
    for name, gradient in zip(learned, gradients, strict=True):
        arrays[f"gradients.{name}"] = gradient.numpy()
    arrays |= {f"updated.{k}": tensors[k].numpy() for k in BUFFERS if k in tensors}
    return arrays


def is_fixed(op: str, name: str) -> bool:
    """Targets and class weights of a loss, which are data."""
    return name == "target" or (name == "weight" and op in ("cross_entropy", "nll_loss"))


def main() -> None:
    index: dict[str, dict[str, Any]] = {}
    arrays: dict[str, Array] = {}
    for case in itertools.chain(
        convolutions(), linear(), norms(), pools(), losses(), activations()
    ):
        if case.name in index.setdefault(case.op, {}):
            raise ValueError(f"{case.op} {case.name} is recorded twice")
        index[case.op][case.name] = case.attrs
        for key, value in record(case).items():
            arrays[f"{case.op}/{case.name}/{key}"] = value
    path = R.DATA / "nn_cases.npz"
    R.write_record(path, index, arrays)
    cases = sum(map(len, index.values()))
    print(f"{cases} cases of {len(index)} functions, {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
