"""Record layers with PyTorch: ``python tests/record/nn_cases.py`` (needs torch).

Each case calls one function of ``torch.nn.functional`` in float64 on small odd-sized inputs
and keeps inputs, output, cotangent, gradients and changed buffers in
``tests/data/nn_cases.npz``, read by ``references.layer_cases``.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import nn_more_cases as more
import references as R
from nn_case import Array, Case, few_bits, spell

BUFFERS = ("running_mean", "running_var")


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
    for op, size in [("conv_transpose1d", (7,)), ("conv_transpose2d", (4, 5)),
                     ("conv_transpose3d", (2, 3, 2))]:  # fmt: skip
        for attrs in [
            {}, {"stride": 2, "padding": 1, "output_padding": 1}, {"groups": 2, "dilation": 2},
            {"stride": 3, "padding": 1},
        ]:  # fmt: skip
            weight = (4, 6 // attrs.get("groups", 1), *(3,) * len(size))
            inputs = {"input": (2, 4, *size), "weight": weight, "bias": (6,)}
            yield Case(op, spell(attrs), inputs, attrs)
    for op, size in [("conv1d", (9,)), ("conv2d", (6, 5)), ("conv_transpose2d", (3, 4))]:
        inputs = {"input": (3, *size), "weight": (3, 3, *(3,) * len(size)), "bias": (3,)}
        yield Case(op, "unbatched", inputs)


def linear() -> Iterator[Case]:
    for lead, inner, outer, bias in [
        ((), 5, 3, True), ((1,), 1, 1, True), ((4,), 17, 33, True), ((3,), 33, 5, False),
        ((2, 3), 5, 7, True),
    ]:  # fmt: skip
        inputs = {"input": (*lead, inner), "weight": (outer, inner)}
        name = spell({"lead": lead, "in": inner, "out": outer, "bias": bias})
        yield Case("linear", name, inputs | ({"bias": (outer,)} if bias else {}))
    inputs = {"input1": (4, 5), "input2": (4, 3), "weight": (7, 5, 3), "bias": (7,)}
    yield Case("bilinear", "bias", inputs)
    inputs = {"input1": (2, 3, 5), "input2": (2, 3, 1), "weight": (4, 5, 1)}
    yield Case("bilinear", "lead", inputs)
    rows = np.array([[0, 3, 3], [6, 1, 0]], np.int64)
    paddings = [("plain", {}), ("padding", {"padding_idx": 3}), ("last", {"padding_idx": -1})]
    for name, attrs in paddings:
        yield Case("embedding", name, {"input": rows, "weight": (7, 5)}, attrs)


def attention() -> Iterator[Case]:
    lower = np.tril(np.ones((5, 7), bool))
    some = np.array([[True, False, True, True, False, True, True]])
    for name, shape, inputs, attrs in [
        ("plain", (2, 3), {}, {}), ("single", (), {}, {}),
        ("causal", (2,), {}, {"is_causal": True}),
        ("scale", (2, 3), {}, {"scale": 0.25}), ("lower", (2, 3), {"attn_mask": lower}, {}),
        ("padding", (2, 3), {"attn_mask": some}, {}), ("added", (2,), {"attn_mask": (5, 7)}, {}),
    ]:  # fmt: skip
        operands = {"query": (*shape, 5, 4), "key": (*shape, 7, 4), "value": (*shape, 7, 6)}
        yield Case("scaled_dot_product_attention", name, operands | inputs, attrs)
    shared = {"query": (2, 4, 5, 3), "key": (2, 2, 7, 3), "value": (2, 2, 7, 3)}
    yield Case("scaled_dot_product_attention", "shared", shared, {"enable_gqa": True})


def rearrangements() -> Iterator[Case]:
    for mode, widths in [("constant", (1, 2)), ("constant", (1, 0, 2, 3)),
                         ("reflect", (2, 1, 1, 2)), ("replicate", (0, 3, 2, 1)),
                         ("circular", (2, 1, 1, 2)), ("constant", (-1, 2, 0, -2))]:  # fmt: skip
        attrs = {"pad": widths, "mode": mode}
        yield Case("pad", spell(attrs), {"input": (2, 3, 5, 4)}, attrs)
    yield Case("pad", "value", {"input": (2, 3)}, {"pad": (1, 1), "value": 2.5})
    for options in [
        {"scale_factor": 2}, {"size": (7, 3)}, {"scale_factor": (1.5, 3.0)},
        {"scale_factor": 2, "mode": "bilinear"}, {"size": (7, 9), "mode": "bilinear"},
        {"size": (7, 9), "mode": "bilinear", "align_corners": True},
        {"scale_factor": 0.5, "mode": "bilinear", "align_corners": False},
    ]:  # fmt: skip
        yield Case("interpolate", spell(options), {"input": (2, 3, 5, 4)}, options)
    yield Case("interpolate", "line", {"input": (2, 3, 5)}, {"size": 8, "mode": "linear"})
    yield Case("interpolate", "nearest-line", {"input": (2, 3, 5)}, {"scale_factor": 3})
    yield Case("pixel_shuffle", "2", {"input": (2, 12, 3, 5)}, {"upscale_factor": 2})


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

    for shape in [(3, 5, 4, 3), (2, 3, 7)]:
        affine = {"weight": (shape[1],), "bias": (shape[1],)}
        yield Case("instance_norm", spell({"size": shape}), {"input": shape, **affine})
        yield Case("instance_norm", spell({"plain": shape}), {"input": shape}, {"eps": 1e-2})
    for shape, normal in [((3, 5), (5,)), ((2, 3, 5), (3, 5))]:
        for attrs in [{"normalized_shape": normal}, {"normalized_shape": normal, "eps": 0.1}]:
            inputs = {"input": shape, "weight": normal}
            yield Case("rms_norm", spell({"size": shape, **attrs}), inputs, attrs)
    yield Case("layer_norm", "plain", {"input": (3, 5)}, {"normalized_shape": (5,)})
    for attrs in [{}, {"p": 1.0, "dim": 0}, {"p": 3.0, "dim": -1}]:
        yield Case("normalize", spell(attrs), {"input": (3, 5)}, attrs)


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
    yield case("max_pool3d", (2, 2, 5, 4, 3), kernel_size=2, stride=(2, 1, 1), padding=1)
    yield case("avg_pool3d", (2, 2, 5, 4, 3), kernel_size=2, stride=(2, 1, 1), padding=1)
    for op in ("max_pool2d", "avg_pool2d"):
        yield case(op, (3, 6, 5), kernel_size=2)
    for op in ("adaptive_avg_pool1d", "adaptive_max_pool1d"):
        for length in (1, 3, 5):
            yield case(op, (2, 3, 10), output_size=length)
    for size in (1, (3, 2), 5, (7, 7), (2, None)):
        yield case("adaptive_avg_pool2d", (2, 3, 7, 5), output_size=size)
        yield case("adaptive_max_pool2d", (2, 3, 7, 5), output_size=size)


def losses() -> Iterator[Case]:
    labels = np.array([3, 0, 2, 4, 1, 3], np.int64)
    ignoring = np.array([3, -100, 2, 4, -100, 3], np.int64)
    dense = np.array([[[0, 1, 2], [2, 1, 0]], [[1, 1, 2], [0, -100, 0]]], np.int64)
    odds = few_bits(R.draw("odds", (6, 5), 0, 1))
    counts = np.floor(R.draw("counts", (6, 5), 0, 5).astype(np.float64))

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
        for op, attrs in [
            ("smooth_l1_loss", {"beta": 0.5}), ("huber_loss", {"delta": 0.7}), ("huber_loss", {}),
            ("poisson_nll_loss", {}), ("poisson_nll_loss", {"full": True}),
            ("kl_div", {}), ("soft_margin_loss", {}),
        ]:  # fmt: skip
            yield Case(op, spell({"reduction": reduction, **attrs}),
                       {"input": (6, 5), "target": counts if op.startswith("poisson") else odds},
                       {"reduction": reduction, **attrs})  # fmt: skip
        likely = few_bits(R.draw("likely", (6, 5), 0.05, 0.95))
        weight = few_bits(R.draw("element weights", (6, 5), 0.25, 2))
        pos_weight = few_bits(R.draw("event weights", (5,), 0.25, 2))
        binary = {"input": likely, "target": odds}
        attrs = {"reduction": reduction}
        yield Case("binary_cross_entropy", spell(attrs), binary, attrs)
        scaled = {**binary, "weight": weight}
        yield Case("binary_cross_entropy", f"{reduction}-weight", scaled, attrs)
        logits = {"input": (6, 5), "target": odds, "weight": weight, "pos_weight": pos_weight}
        yield Case("binary_cross_entropy_with_logits", f"{reduction}-weights", logits, attrs)
        rates = {"reduction": reduction, "log_input": False}
        yield Case("poisson_nll_loss", spell(rates), {"input": likely, "target": counts}, rates)
        logs = np.log(likely)
        yield Case("kl_div", f"{reduction}-logs", {"input": (6, 5), "target": logs},
                   {**attrs, "log_target": True})  # fmt: skip
        signs = np.array([1.0, -1, -1, 1, 1, -1])
        pair = {"input1": (6, 5), "input2": (6, 5), "target": signs}
        yield Case("cosine_embedding_loss", spell(attrs), pair, attrs)
        yield Case("cosine_embedding_loss", f"{reduction}-margin", pair, {**attrs, "margin": 0.2})
        ranks = {"input1": (6,), "input2": (6,), "target": signs}
        for margin in (0.0, 0.5):
            options = {**attrs, "margin": margin}
            yield Case("margin_ranking_loss", spell(options), ranks, options)
        yield Case("hinge_embedding_loss", spell(attrs), {"input": (6,), "target": signs}, attrs)
        triplet = {"anchor": (6, 5), "positive": (6, 5), "negative": (6, 5)}
        for option in ({}, {"swap": True, "margin": 2.0}, {"p": 1.0}):
            options = {**attrs, **option}
            yield Case("triplet_margin_loss", spell(options), triplet, options)
        for full in (False, True):
            for name, var in (("each", (6, 5)), ("row", (6, 1))):
                spread = few_bits(R.draw(f"variances {name}", var, 0.25, 2))
                options = {**attrs, "full": full}
                yield Case("gaussian_nll_loss", f"{name}-{spell(options)}",
                           {"input": (6, 5), "target": odds, "var": spread}, options)  # fmt: skip
    yield Case("kl_div", "batchmean", {"input": (6, 5), "target": odds}, {"reduction": "batchmean"})
    for options in ({}, {"dim": 0}, {"dim": -1, "eps": 0.5}):
        yield Case("cosine_similarity", spell(options), {"x1": (4, 3, 5), "x2": (4, 3, 5)}, options)
    for options in ({}, {"p": 1.0, "keepdim": True}):
        yield Case("pairwise_distance", spell(options), {"x1": (4, 5), "x2": (4, 5)}, options)
    extreme = np.array([[1000.0, -1000.0, 0.0], [-800.0, -800.0, -800.0]])
    yield Case("cross_entropy", "extreme", {"input": extreme, "target": np.array([1, 2])}, {})


def activations() -> Iterator[Case]:
    plain = ("relu", "relu6", "silu", "softplus", "sigmoid", "tanh", "elu", "leaky_relu", "selu",
             "hardtanh", "hardsigmoid", "hardswish", "mish", "logsigmoid", "softsign", "celu",
             "hardshrink", "softshrink", "tanhshrink")  # fmt: skip
    for op in plain:
        yield Case(op, "3x17", {"input": (3, 17)})
    yield Case("relu", "zeros", {"input": np.zeros((2, 3))})
    kinks = np.array([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0, 25.0, -25.0])
    for op in plain:  # torch's slopes where there are two
        yield Case(op, "kinks", {"input": kinks})
    for op, attrs in [
        ("elu", {"alpha": 0.5}), ("celu", {"alpha": 0.5}), ("leaky_relu", {"negative_slope": 0.2}),
        ("hardtanh", {"min_val": -0.5, "max_val": 1.5}),
        ("softplus", {"beta": 2.0, "threshold": 2.0}),
        ("hardshrink", {"lambd": 0.2}), ("softshrink", {"lambd": 0.2}),
        ("threshold", {"threshold": 0.3, "value": -1.5}),
    ]:  # fmt: skip
        yield Case(op, spell(attrs), {"input": (3, 17)}, attrs)
    for weights, shape in [(1, (3, 5)), (5, (3, 5)), (4, (2, 4, 3, 5)), (1, (7,))]:
        yield Case("prelu", spell({"weights": weights, "size": shape}),
                   {"input": shape, "weight": (weights,)})  # fmt: skip
    for dim in (0, 1, -1):
        yield Case("glu", spell({"dim": dim}), {"input": (4, 6, 2)}, {"dim": dim})
    for kind in ("none", "tanh"):
        yield Case("gelu", kind, {"input": (3, 17)}, {"approximate": kind})
    for op, dim in itertools.product(("softmax", "softmin", "log_softmax"), (0, 1, -1)):
        yield Case(op, f"dim{dim}", {"input": (3, 5, 7)}, {"dim": dim})


# --------------------------------------------------------------------------- recording --


def record(case: Case) -> tuple[dict[str, Array], str]:
    """All arrays of one call, under the names that ``references.LayerCase`` reads, and the
    name of its ``grad_fn``."""
    inputs = case.arrays()
    tensors = {k: torch.tensor(v) for k, v in inputs.items()}
    learned = {
        k: v.requires_grad_()
        for k, v in tensors.items()
        if v.is_floating_point() and k not in BUFFERS and not is_fixed(case.op, k)
    }
    missing = dict.fromkeys(BUFFERS) if case.op in ("batch_norm", "instance_norm") else {}
    output = getattr(F, case.op)(**{**missing, **tensors}, **case.attrs)
    cotangent = few_bits(R.draw(f"{case.op}/{case.name}/cotangent", tuple(output.shape)))
    gradients = torch.autograd.grad(output, list(learned.values()), torch.tensor(cotangent))
    arrays = {f"inputs.{k}": v for k, v in inputs.items()}
    arrays |= {"output": output.detach().numpy(), "cotangent": cotangent}
    for name, gradient in zip(learned, gradients, strict=True):
        arrays[f"gradients.{name}"] = gradient.numpy()
    arrays |= {f"updated.{k}": tensors[k].numpy() for k in BUFFERS if k in tensors}
    return arrays, output.grad_fn.name()


def is_fixed(op: str, name: str) -> bool:
    """Targets and class weights of a loss, which are data."""
    weighted = op.endswith("_loss") or op.startswith(("cross_entropy", "binary_cross_entropy"))
    return name in ("target", "attn_mask") or (name.endswith("weight") and weighted)


def main() -> None:
    index: dict[str, dict[str, Any]] = {}
    arrays: dict[str, Array] = {}
    for case in itertools.chain(
        convolutions(), linear(), norms(), pools(), losses(), activations(), attention(),
        rearrangements(), more.all_cases(),
    ):  # fmt: skip
        if case.name in index.setdefault(case.op, {}):
            raise ValueError(f"{case.op} {case.name} is recorded twice")
        recorded, name = record(case)
        index[case.op][case.name] = {"attrs": case.attrs, "grad_fn": name}
        for key, value in recorded.items():
            arrays[f"{case.op}/{case.name}/{key}"] = value
    path = R.DATA / "nn_cases.npz"
    R.write_record(path, index, arrays)
    cases = sum(map(len, index.values()))
    print(f"{cases} cases of {len(index)} functions, {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
