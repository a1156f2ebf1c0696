"""Results recorded with PyTorch, for tests that run without it.

Two kinds are kept in ``tests/data`` (written by the scripts in ``tests/record``,
which are run by hand and need torch):

*Layers* — one call of a ``torch.nn.functional`` function with its gradients, f64::

    from references import layer_cases

    @pytest.mark.parametrize("case", layer_cases("conv2d"), ids=str)
    def test_conv2d(case):
        x = case.inputs                    # {"input": ..., "weight": ..., "bias": ...}
        y = conv2d(x["input"], x["weight"], x.get("bias"), **case.attrs)
        np.testing.assert_allclose(y, case.output, rtol=1e-12)
        # with ct = case.cotangent, the gradients of sum(ct * y) are case.gradients[name];
        # buffers changed by the call (running statistics) end as case.updated[name]

*ResNet-18* — torchvision's architecture, weights and images from ``draw`` below, so that
only results are stored.  Large arrays are stored as fingerprints: their norm and eight
random projections::

    ref = Resnet18("b4_33")                # or "b4_64"; see tests/record/resnet18.py
    params, state = ref.parameters(np.float64), ref.state(np.float64)
    images, labels = ref.images(np.float64), ref.labels
    ...
    assert relative_error(logits, ref["train/cross_entropy/logits"]) < 1e-9
    errors = ref.errors("train/cross_entropy/gradients", gradients)   # {name: relative error}
    assert max(errors.values()) < 1e-9

Every weight and pixel is a float32 value, so float32 and float64 runs start from the same
numbers.  In these batches no ReLU input lies so close to 0, and no maximum of a pooling
window so close to its runner-up, that float32 rounding changes their order (``ref.margin``
says how far away that is), so float32 results may be held against the float64 record.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data"
PROJECTIONS = 8

Array = np.ndarray[Any, Any]


# ------------------------------------------------------------------ shared numbers --


def draw(key: str, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> Array:
    """Uniform float32 numbers that depend on ``key`` alone, on every platform.

    They come from the raw bits of PCG64, whose stream NumPy guarantees for all versions
    (unlike the streams of ``Generator``'s distributions), by exact arithmetic.
    """
    bits = np.random.PCG64(zlib.crc32(key.encode())).random_raw(int(np.prod(shape)))
    unit = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return (np.float32(low) + unit * np.float32(high - low)).reshape(shape)


@cache
def _noise() -> Array:
    """Unit-variance numbers behind every projection; 2.4 million, the largest weight's size."""
    return draw("projection", (512 * 512 * 9 + 1000 * PROJECTIONS,)).astype(np.float64) * 3**0.5


def fingerprint(array: Array) -> Array:
    """Norm and ``PROJECTIONS`` inner products with fixed random vectors, ``f64[9]``.

    The expected square of a projection of ``d`` is ``|d|²``, so the largest difference
    between two fingerprints is about the norm of the arrays' difference.  Element order
    matters: a transposed or flipped array has another fingerprint.
    """
    flat = np.ascontiguousarray(array, np.float64).ravel()
    projections = [flat @ _noise()[1000 * k :][: flat.size] for k in range(PROJECTIONS)]
    return np.array([np.linalg.norm(flat), *projections])


def relative_error(actual: Array, expected: Array) -> float:
    """``|actual - expected| / |expected|`` in the Euclidean norm, both taken as float64."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if actual.shape != expected.shape:
        raise AssertionError(f"shape {actual.shape}, the reference has {expected.shape}")
    norm = float(np.linalg.norm(expected))
    return float(np.linalg.norm(actual - expected)) / (norm or 1.0)


def fingerprint_error(actual: Array, expected: Array) -> float:
    """Relative error of ``actual`` estimated from the ``fingerprint`` of the true array."""
    difference = float(np.max(np.abs(fingerprint(actual) - expected)))
    return difference / (float(expected[0]) or 1.0)


def write_record(path: Path, about: Any, arrays: Mapping[str, Array]) -> None:
    """Store ``arrays`` and a JSON value ``about`` them: one member per dtype and an index.

    (Thousands of small members would take more room for their headers than for numbers.)
    """
    index = {key: (array.dtype.name, array.shape) for key, array in arrays.items()}
    members: dict[str, Any] = {
        dtype: np.concatenate([a.ravel() for a in arrays.values() if a.dtype.name == dtype])
        for dtype in dict.fromkeys(dtype for dtype, _ in index.values())
    }
    text = np.array(json.dumps({"about": about, "index": index}))
    np.savez_compressed(path, allow_pickle=False, text=text, **members)


@cache
def read_record(path: Path) -> tuple[Any, dict[str, Array]]:
    """What ``write_record`` stored."""
    with np.load(path) as data:
        text = json.loads(str(data["text"]))
        members = {dtype: data[dtype] for dtype in data.files if dtype != "text"}
    arrays, used = {}, dict.fromkeys(members, 0)
    for key, (dtype, shape) in text["index"].items():
        start = used[dtype]
        used[dtype] += int(np.prod(shape))
        arrays[key] = members[dtype][start : used[dtype]].reshape(shape)
        arrays[key].flags.writeable = False
    return text["about"], arrays


# -------------------------------------------------------------------------- layers --


@dataclass(frozen=True)
class LayerCase:
    """One recorded call ``torch.nn.functional.<op>(**inputs, **attrs)`` in float64.

    ``gradients[name]`` is the gradient of ``sum(cotangent * output)`` with respect to
    ``inputs[name]``, for every floating-point input that has one; ``updated[name]`` is a
    buffer's value after the call.  ``attrs`` are torch's keyword arguments, ``grad_fn`` is what
    it calls the operation.
    """

    op: str
    name: str
    attrs: dict[str, Any]
    inputs: dict[str, Array]
    output: Array
    cotangent: Array
    gradients: dict[str, Array]
    updated: dict[str, Array]
    grad_fn: str

    def __str__(self) -> str:
        return self.name


def layer_ops() -> list[str]:
    """Names of the recorded functions."""
    return list(read_record(DATA / "nn_cases.npz")[0])


def layer_cases(op: str) -> list[LayerCase]:
    """All recorded calls of ``torch.nn.functional.<op>``."""
    index, arrays = read_record(DATA / "nn_cases.npz")
    return [_layer_case(op, name, about, arrays) for name, about in index[op].items()]


def _layer_case(
    op: str, name: str, about: dict[str, Any], recorded: Mapping[str, Array]
) -> LayerCase:
    prefix = f"{op}/{name}/"
    arrays = {k.removeprefix(prefix): v for k, v in recorded.items() if k.startswith(prefix)}

    def group(kind: str) -> dict[str, Array]:
        return {k.removeprefix(kind): v for k, v in arrays.items() if k.startswith(kind)}

    attrs = {k: tuple(v) if isinstance(v, list) else v for k, v in about["attrs"].items()}
    return LayerCase(
        op, name, attrs, group("inputs."), arrays["output"], arrays["cotangent"],
        group("gradients."), group("updated."), about["grad_fn"],
    )  # fmt: skip


# ------------------------------------------------------------------------- modules --


@dataclass(frozen=True)
class ModuleCase:
    """A module made by ``expression``, its text and its state's names and shapes.

    ``arrays`` are float64 results for the parameters and inputs of ``module_values``:
    ``output0`` and so on, gradients ``input0``, ``gradients.<name>`` of the sum of all outputs
    weighted by ``module_cotangent``, and ``buffers.<name>`` after the call.
    """

    expression: str
    shapes: list[Any]
    repr: str
    state: list[tuple[str, list[int]]]
    arrays: dict[str, Array]

    def __str__(self) -> str:
        return self.expression


def module_values(
    expression: str, state: list[tuple[str, list[int]]], shapes: list[Any]
) -> tuple[dict[str, Array], list[Array]]:
    """A module's state and inputs in float64; ``{"integers": [...]}`` is such an input itself."""
    values = {}
    for name, shape in state:
        if name.endswith("num_batches_tracked"):
            values[name] = np.array(0)
        else:
            low = 0.5 if name.endswith("running_var") else -1.0
            values[name] = draw(f"{expression}/{name}", tuple(shape), low).astype(np.float64)
    inputs = []
    for i, shape in enumerate(shapes):
        if isinstance(shape, dict):
            inputs.append(np.array(shape["integers"], np.int64))
        else:
            inputs.append(draw(f"{expression}/input{i}", tuple(shape), -2, 2).astype(np.float64))
    return values, inputs


def module_cotangent(shape: tuple[int, ...]) -> Array:
    """Weights of an output."""
    return draw("module cotangent", shape).astype(np.float64)


def module_outputs(outputs: Any) -> list[Any]:
    """The tensors of what a module gave, tuples in tuples included."""
    if not isinstance(outputs, tuple):
        return [outputs]
    return [y for part in outputs for y in module_outputs(part)]


def module_cases() -> list[ModuleCase]:
    """All recorded modules."""
    index, arrays = read_record(DATA / "nn_modules.npz")
    cases = []
    for expression, about in index.items():
        prefix = f"{expression}/"
        own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        cases.append(ModuleCase(expression, arrays=own, **about))
    return cases


# ---------------------------------------------------------------------- optimisers --

OPTIM_STEPS, SCHEDULE_EPOCHS = 7, 13
MEASURES = [1.0, 0.9, 0.95, 0.93, 0.2, 0.3, 0.3, 0.3, 0.1, 0.2, 0.3, 0.4, 0.5]
"""What a schedule that looks at a measure is told after each epoch."""


def optim_start() -> list[Array]:
    """Two parameters in float32."""
    return [draw("optim/a", (3,), -1, 1), draw("optim/b", (2, 2), -1, 1)]


def optim_loss(a: Any, b: Any) -> Any:
    """A loss of both, in terms of operators alone."""
    return ((a * a - 0.5) * a * a).sum() + ((b + a[0]) * (b - 0.25)).sum()


def optim_cases(kind: str) -> list[dict[str, Any]]:
    """Recorded ``optimizers`` or ``schedules``; see ``tests/record/optim_cases.py``."""
    cases: list[dict[str, Any]] = json.loads((DATA / "optim_cases.json").read_text())[kind]
    return cases


# ----------------------------------------------------------------------- ResNet-18 --

BATCHES = {"b4_33": (4, 33, 10), "b4_64": (4, 64, 1000)}
"""Name of a recorded case → (images, pixels per side, classes)."""


def resnet18_shapes(classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the 62 parameters, in torchvision's order."""

    def convolution(name: str, inner: int, outer: int, size: int) -> tuple[str, tuple[int, ...]]:
        return f"{name}.weight", (outer, inner, size, size)

    yield convolution("conv1", 3, 64, 7)
    yield from _norm("bn1", 64)
    inner = 64
    for layer, outer in enumerate((64, 128, 256, 512), 1):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            yield convolution(f"{name}.conv1", inner, outer, 3)
            yield from _norm(f"{name}.bn1", outer)
            yield convolution(f"{name}.conv2", outer, outer, 3)
            yield from _norm(f"{name}.bn2", outer)
            if inner != outer:
                yield convolution(f"{name}.downsample.0", inner, outer, 1)
                yield from _norm(f"{name}.downsample.1", outer)
            inner = outer
    yield "fc.weight", (classes, 512)
    yield "fc.bias", (classes,)


class Resnet18(Mapping[str, Array]):
    """Recorded results of torchvision's ResNet-18 on one batch; keys are result names.

    Results of both precisions are stored; ``precision`` ("f64" or "f32") chooses.  Keys:

    - ``eval/logits``: eval mode, initial running statistics;
    - ``train/<loss>/loss``, ``…/logits``, ``…/gradients/<parameter>`` (whole arrays up to
      1024 elements, else fingerprints) and ``…/state/<buffer>`` (running statistics after
      the call), in train mode with the initial weights, for ``<loss>`` =
      ``cross_entropy`` (mean over the batch) and ``sum`` (of all logits);
    - ``steps/<optimiser>/<k>/loss`` (loss before step k = 1, 2, 3), ``…/parameters/<name>``
      and ``…/momentum/<name>`` (fingerprints after step k), for ``<optimiser>`` in
      ``OPTIMISERS``, cross-entropy, the same batch each time;
    - ``steps/<optimiser>/3/state/<buffer>`` and ``…/3/eval_logits``: after the third step.

    ``margin`` is the least distance of any decision (a ReLU's sign, a pooling window's
    choice) from its boundary with the initial weights, in units of the channel's float32
    error; ``steps_margin`` the same over all three steps of both optimisers.
    """

    OPTIMISERS: Mapping[str, Mapping[str, Any]] = {
        "momentum": {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4},
        "nesterov": {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True},
    }

    def __init__(self, case: str, precision: str = "f64") -> None:
        self.case = case
        self.batch, self.size, self.classes = BATCHES[case]
        about, arrays = read_record(DATA / f"resnet18_{case}.npz")
        self.seed: int = about["seed"]
        self.margin: float = about["margin"]
        self.steps_margin: float = about["steps_margin"]
        prefix = precision + "/"
        self._arrays = {k.removeprefix(prefix): v for k, v in arrays.items() if prefix in k}

    def __getitem__(self, key: str) -> Array:
        return self._arrays[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def parameters(self, dtype: Any = np.float32) -> dict[str, Array]:
        """The 62 initial parameters: He-scaled convolutions, norms around 1 and ±2."""
        return resnet18_parameters(self.classes, dtype)

    def state(self, dtype: Any = np.float32) -> dict[str, Array]:
        """Initial running means and variances, and ``num_batches_tracked`` = 0 (int64)."""
        return resnet18_state(self.classes, dtype)

    def images(self, dtype: Any = np.float32) -> Array:
        """``[batch, 3, size, size]``, uniform in [-1, 1)."""
        return resnet18_images(self.case, self.seed).astype(dtype)

    @property
    def labels(self) -> Array:
        """``i64[batch]``, below ``classes``."""
        return (np.arange(self.batch, dtype=np.int64) * 7 + 3) % self.classes

    def errors(self, prefix: str, arrays: Mapping[str, Array]) -> dict[str, float]:
        """Relative error of each array against the results under ``prefix``.

        Every recorded name must be given: a missing gradient is an error, not a pass.
        """
        names = [k.removeprefix(prefix + "/") for k in self if k.startswith(prefix + "/")]
        if missing := sorted(set(names) - set(arrays)):
            raise AssertionError(f"{prefix}: not computed: {', '.join(missing)}")
        if not names:
            raise KeyError(f"nothing is recorded under {prefix!r}")
        return {name: self._error(arrays[name], self[f"{prefix}/{name}"]) for name in names}

    @staticmethod
    def _error(actual: Array, expected: Array) -> float:
        if np.shape(actual) == expected.shape:
            return relative_error(actual, expected)
        return fingerprint_error(actual, expected)


def resnet18_parameters(classes: int, dtype: Any = np.float32) -> dict[str, Array]:
    """Parameters by torchvision's names, computed from the names alone."""
    return network_parameters(resnet18_shapes(classes), dtype)


def network_parameters(
    shapes: Iterable[tuple[str, tuple[int, ...]]], dtype: Any = np.float32
) -> dict[str, Array]:
    """Parameters of given names and shapes, computed from the names alone.

    Norms' biases of ±2 put one in forty ReLU inputs of a channel on its rarer side, and few
    near 0: with biases of 0 no batch keeps every sign in float32.
    """

    def value(name: str, shape: tuple[int, ...]) -> Array:
        if len(shape) > 1:
            bound = (6 / np.prod(shape[1:])) ** 0.5  # He: variance 2 / fan-in
            return draw(name, shape, -bound, bound)
        if name.endswith("weight"):
            return draw(name, shape, 0.5, 1.5)
        return np.copysign(draw(name, shape, 1.5, 2.5), draw(f"{name}/sign", shape))

    return {name: value(name, shape).astype(dtype) for name, shape in shapes}


def resnet18_state(classes: int, dtype: Any = np.float32) -> dict[str, Array]:
    """Running statistics by torchvision's names, away from their usual 0 and 1."""
    return network_state(resnet18_shapes(classes), dtype)


def network_state(
    shapes: Iterable[tuple[str, tuple[int, ...]]], dtype: Any = np.float32
) -> dict[str, Array]:
    """Running statistics of the norms among given parameters."""
    state: dict[str, Array] = {}
    for name, shape in shapes:
        if len(shape) == 1 and name.endswith("weight"):
            norm = name.removesuffix(".weight")
            state[f"{norm}.running_mean"] = draw(f"{norm}/mean", shape, -0.1, 0.1).astype(dtype)
            state[f"{norm}.running_var"] = draw(f"{norm}/var", shape, 0.5, 1.5).astype(dtype)
            state[f"{norm}.num_batches_tracked"] = np.array(0, np.int64)
    return state


def resnet18_images(case: str, seed: int) -> Array:
    """The batch of a recorded case for one seed of the search for wide margins."""
    batch, size, _ = BATCHES[case]
    return draw(f"images/{case}/{seed}", (batch, 3, size, size))


# --------------------------------------------------------- networks of bottlenecks --


@dataclass(frozen=True)
class Bottlenecks:
    """A network of bottleneck blocks whose results on one batch are recorded."""

    layers: tuple[int, int, int, int]
    images: tuple[int, int]
    """How many, and pixels per side."""
    classes: int = 10
    groups: int = 1
    width: int = 64
    dilated: tuple[bool, bool, bool] = (False, False, False)

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the parameters, in torchvision's order."""
        yield "conv1.weight", (64, 3, 7, 7)
        yield from _norm("bn1", 64)
        inner = 64
        for layer, blocks in enumerate(self.layers, 1):
            planes = 32 << layer
            width = planes * self.width // 64 * self.groups
            for block in range(blocks):
                name = f"layer{layer}.{block}"
                yield f"{name}.conv1.weight", (width, inner, 1, 1)
                yield from _norm(f"{name}.bn1", width)
                yield f"{name}.conv2.weight", (width, width // self.groups, 3, 3)
                yield from _norm(f"{name}.bn2", width)
                yield f"{name}.conv3.weight", (4 * planes, width, 1, 1)
                yield from _norm(f"{name}.bn3", 4 * planes)
                if block == 0:
                    yield f"{name}.downsample.0.weight", (4 * planes, inner, 1, 1)
                    yield from _norm(f"{name}.downsample.1", 4 * planes)
                inner = 4 * planes
        yield "fc.weight", (self.classes, 2048)
        yield "fc.bias", (self.classes,)

    def parameters(self, dtype: Any) -> dict[str, Array]:
        """The initial parameters."""
        return network_parameters(self.shapes(), dtype)

    def state(self, dtype: Any) -> dict[str, Array]:
        """The initial running statistics."""
        return network_state(self.shapes(), dtype)

    def batch(self, dtype: Any) -> tuple[Array, Array]:
        """Images in [-1, 1) and labels."""
        count, size = self.images
        labels = (np.arange(count, dtype=np.int64) * 7 + 3) % self.classes
        return draw("images/bottlenecks", (count, 3, size, size)).astype(dtype), labels


def _norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


BOTTLENECKS = {
    "resnet50": Bottlenecks((3, 4, 6, 3), (3, 65)),
    "resnext": Bottlenecks((1, 1, 1, 1), (3, 65), groups=32, width=4),
    "dilated": Bottlenecks((1, 1, 1, 2), (2, 48), dilated=(False, True, True)),
}
"""Recorded networks: ``tests/data/bottlenecks.npz`` holds, under ``<name>/``, ``eval/logits``,
``train/loss``, ``train/logits``, and fingerprints ``train/gradients/<parameter>`` and
``train/state/<buffer>``, in float64, of cross-entropy."""


# ------------------------------------------------------------------------- images --

RESIZES = {
    f"{mode}-{'smooth' if antialias else 'sharp'}-{before[0]}x{before[1]}-{after[0]}x{after[1]}": (
        mode, antialias, before, after,
    )
    for mode, antialias in (("bilinear", True), ("bilinear", False), ("nearest", False))
    for before, after in (
        ((37, 23), (16, 10)), ((16, 10), (37, 23)), ((20, 20), (20, 7)), ((9, 5), (1, 31)),
    )
}  # fmt: skip
"""Recorded resizings of two channels: method, whether the filter widens, sizes before, after."""
