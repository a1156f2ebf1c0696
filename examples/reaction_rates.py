"""Finds the rates of a predator-prey system from observations of it.

A Runge-Kutta solver written in NumPy is differentiated as a whole: the loop over the steps is
unrolled into one program, whose gradient drives a Gauss-Newton iteration.
Run it with ``python examples/reaction_rates.py``.
"""

import numpy as np

import symgrad as sg

STEPS, DT = 40, 0.2


def rhs(state, rates):
    """Lotka-Volterra: prey grow and are eaten, predators eat and die."""
    prey, hunters = state[0], state[1]
    growth, hunting, feeding, death = rates[0], rates[1], rates[2], rates[3]
    return np.stack(
        [growth * prey - hunting * prey * hunters, feeding * prey * hunters - death * hunters]
    )


def simulate(rates, start):
    """States after every fourth step of the classical Runge-Kutta method."""
    state, seen = start, []
    for step in range(1, STEPS + 1):
        k1 = rhs(state, rates)
        k2 = rhs(state + DT / 2 * k1, rates)
        k3 = rhs(state + DT / 2 * k2, rates)
        k4 = rhs(state + DT * k3, rates)
        state = state + DT / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if step % 4 == 0:
            seen.append(state)
    return np.concatenate(seen)


def estimate(observed, start, rates, rounds=12):
    """Gauss-Newton in the logarithms of the rates, which keeps them positive."""

    def of_logarithms(logarithms):
        return simulate(np.exp(logarithms), start)

    jacobian, run = sg.jacobian(of_logarithms), sg.jit(of_logarithms)
    logarithms = np.log(rates)
    for _ in range(rounds):
        j, residual = jacobian(logarithms), observed - run(logarithms)
        step = np.linalg.lstsq(j, residual, rcond=None)[0]
        logarithms = logarithms + np.clip(step, -0.3, 0.3)
    return np.exp(logarithms)


def main():
    """Recovers known rates from observations with 1 % of noise."""
    rng = np.random.default_rng(0)
    truth, start = np.array([1.1, 0.4, 0.1, 0.4]), np.array([10.0, 5.0])
    clean = simulate(truth, start)
    observed = clean * (1 + 0.01 * rng.standard_normal(len(clean)))
    found = estimate(observed, start, np.array([0.9, 0.3, 0.15, 0.5]))
    for name, value, true in zip(
        ("growth", "hunting", "feeding", "death"), found, truth, strict=True
    ):
        print(f"{name:<8} {value:.4f}   (true {true})")


if __name__ == "__main__":
    main()
