"""Logistic regression by Newton's method, with an exact gradient and Hessian.

Run it with ``python examples/logistic_regression.py``.
"""

import numpy as np

import symgrad as sg


def loss(w, x, y):
    """Mean cross-entropy of labels 0 and 1, with a small penalty on the weights.

    ``logaddexp(0, z) - y z`` is the cross-entropy of a logit z, without overflow.
    """
    z = x @ w
    return np.mean(np.logaddexp(0, z) - y * z) + 1e-3 * np.sum(w * w)


def newton(x, y, rounds=20):
    """The minimum of ``loss``, and the norms of the gradients on the way."""
    value_and_grad, hessian = sg.value_and_grad(loss), sg.hessian(loss)
    w, norms = np.zeros(x.shape[1]), []
    for _ in range(rounds):
        _, gradient = value_and_grad(w, x, y)
        norms.append(float(np.linalg.norm(gradient)))
        if norms[-1] < 1e-12:
            break
        w = w - np.linalg.solve(hessian(w, x, y), gradient)
    return w, norms


def main():
    """Two overlapping clouds of points."""
    rng = np.random.default_rng(0)
    y = (rng.random(2000) < 0.5).astype(float)
    points = rng.standard_normal((2000, 2)) + 2 * y[:, None] * [1.0, 0.5]
    x = np.column_stack([points, np.ones(2000)])
    w, norms = newton(x, y)
    print("norm of the gradient:", " ".join(f"{norm:.0e}" for norm in norms))
    print("weights:", w.round(3))
    print(f"accuracy: {np.mean((x @ w > 0) == y):.1%}")


if __name__ == "__main__":
    main()
