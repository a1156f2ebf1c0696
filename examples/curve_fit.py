"""Fits a damped oscillation to noisy data by Levenberg-Marquardt.

The model is plain NumPy.  ``symgrad.jacobian`` gives the exact Jacobian that the method needs.
Run it with ``python examples/curve_fit.py``.
"""

import numpy as np

import symgrad as sg


def model(p, t):
    """Amplitude, decay, frequency and phase of a damped oscillation."""
    return p[0] * np.exp(-p[1] * t) * np.cos(p[2] * t + p[3])


def fit(t, y, p, rounds=50):
    """Least squares by damped Gauss-Newton steps (K. Levenberg 1944, D. Marquardt 1963)."""
    jacobian = sg.jacobian(model)
    residual, damping = y - model(p, t), 1e-3
    for _ in range(rounds):
        j = jacobian(p, t)
        normal = j.T @ j
        step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), j.T @ residual)
        trial = y - model(p + step, t)
        if trial @ trial < residual @ residual:
            p, residual, damping = p + step, trial, damping / 3
        else:
            damping *= 5
    covariance = np.linalg.inv(normal) * (residual @ residual) / (len(t) - len(p))
    return p, np.sqrt(np.diag(covariance))


def main():
    """Recovers known parameters and prints them with their errors."""
    rng = np.random.default_rng(0)
    truth = np.array([2.0, 0.3, 4.0, 0.5])
    t = np.linspace(0, 8, 400)
    y = model(truth, t) + 0.05 * rng.standard_normal(len(t))
    found, error = fit(t, y, np.array([1.5, 0.2, 3.8, 0.0]))
    for name, value, e, true in zip(
        ("amplitude", "decay", "frequency", "phase"), found, error, truth, strict=True
    ):
        print(f"{name:<10} {value:7.4f} +- {e:.4f}   (true {true})")


if __name__ == "__main__":
    main()
