"""The recorded PyTorch results are read back whole, and the comparisons see small errors."""

import numpy as np
import pytest
from references import (
    BATCHES,
    Resnet18,
    draw,
    fingerprint,
    fingerprint_error,
    layer_cases,
    layer_ops,
    relative_error,
)


def test_draw_is_fixed() -> None:
    assert draw("a key", (3,)).tolist() == pytest.approx(DRAWN, abs=0)
    assert draw("a key", (2, 2), 0, 1).dtype == np.float32


DRAWN = [0.3799222707748413, -0.4712059497833252, -0.377841591835022]


@pytest.mark.parametrize("case", layer_cases("linear"), ids=str)
def test_linear_agrees_with_numpy(case) -> None:
    x, w = case.inputs["input"], case.inputs["weight"]
    assert np.allclose(x @ w.T + case.inputs.get("bias", 0), case.output, rtol=1e-14)
    assert np.allclose(case.cotangent @ w, case.gradients["input"], rtol=1e-14)


def test_every_layer_has_gradients() -> None:
    for op in layer_ops():
        for case in layer_cases(op):
            assert case.output.shape == case.cotangent.shape, (op, case)
            assert case.gradients, (op, case)
            for name, gradient in case.gradients.items():
                assert gradient.shape == case.inputs[name].shape, (op, case, name)


@pytest.mark.parametrize("batch", BATCHES)
def test_resnet18_record(batch: str) -> None:
    ref = Resnet18(batch)
    assert ref.margin > 10
    parameters, state = ref.parameters(), ref.state()
    assert len(parameters) == 62
    assert len(state) == 60
    assert ref.images().shape == (ref.batch, 3, ref.size, ref.size)
    for loss in ("cross_entropy", "sum"):
        recorded = {k.split("/")[-1] for k in ref if k.startswith(f"train/{loss}/gradients/")}
        assert recorded == set(parameters)
        recorded = {k.split("/")[-1] for k in ref if k.startswith(f"train/{loss}/state/")}
        assert recorded == set(state)
    logits = ref["train/cross_entropy/logits"]
    chosen = logits[np.arange(ref.batch), ref.labels]
    loss = np.mean(np.log(np.sum(np.exp(logits), 1)) - chosen)
    assert loss == pytest.approx(float(ref["train/cross_entropy/loss"]), rel=1e-12)
    # The last layer's gradients follow from the logits: softmax minus one-hot.
    softmax = np.exp(logits) / np.sum(np.exp(logits), 1, keepdims=True)
    onehot = np.eye(ref.classes)[ref.labels]
    errors = ref.errors(
        "train/cross_entropy/gradients",
        {k: np.zeros(v.shape) for k, v in parameters.items()}
        | {"fc.bias": np.mean(softmax - onehot, 0)},
    )
    assert errors.pop("fc.bias") < 1e-12
    assert min(errors.values()) > 0.3  # zeros are wrong, in whole arrays and in fingerprints


@pytest.mark.parametrize("batch", BATCHES)
def test_resnet18_single_precision_is_close(batch: str) -> None:
    exact, single = Resnet18(batch), Resnet18(batch, "f32")
    assert set(exact) == set(single)
    for key, value in exact.items():
        assert relative_error(single[key], value) < 1e-4, key


def test_missing_gradient_is_an_error() -> None:
    with pytest.raises(AssertionError, match=r"not computed: .*conv1\.weight"):
        Resnet18("b4_33").errors("train/sum/gradients", {"fc.bias": np.zeros(10)})


def test_fingerprint_measures_the_difference() -> None:
    x = draw("x", (40, 50)).astype(np.float64)
    for change in (1e-6 * draw("y", x.shape), 1e-6 * np.eye(40, 50)):
        true = relative_error(x + change, x)
        assert true / 4 < fingerprint_error(x + change, fingerprint(x)) < true * 4
    assert fingerprint_error(x.T, fingerprint(x)) > 0.3
