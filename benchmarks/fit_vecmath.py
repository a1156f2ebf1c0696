"""Derives the polynomial coefficients of ``symgrad.codegen.vecmath``.

    python benchmarks/fit_vecmath.py [NAME ...]

Each fit is a minimax polynomial (Remez exchange on a fine grid) of a smooth
remainder such as ``(exp(r) - 1 - r) / r**2``, evaluated in 60 digits so that its
cancellation near 0 is harmless, and weighted so that the error counts relative
to the function's value.  The degree is the smallest that reaches ``BITS``.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mpmath as mp

mp.mp.dps = 60
Real = Callable[[mp.mpf], mp.mpf]

BITS = {"seed32": 16, "seed64": 20, "f32": 28, "wide": 34, "f64": 58}
"""Relative accuracy wanted.  ``wide`` serves f32 functions computed in f64."""


def remez(
    f: Sequence[mp.mpf], w: Sequence[mp.mpf], grid: Sequence[mp.mpf], degree: int
) -> tuple[list[mp.mpf], mp.mpf]:
    """Coefficients minimising ``max |w (p - f)|`` over the grid, and that maximum."""
    count, last = degree + 2, len(grid) - 1
    nodes = [round(last * (2 * i + 1) / (2 * count)) for i in range(count)]
    for _ in range(30):
        rows, right = mp.matrix(count, count), mp.matrix(count, 1)
        for r, i in enumerate(nodes):
            power = w[i]
            for c in range(degree + 1):
                rows[r, c] = power
                power *= grid[i]
            rows[r, degree + 1] = (-1) ** r
            right[r] = w[i] * f[i]
        solution = mp.lu_solve(rows, right)
        coefficients = [solution[c] for c in range(degree + 1)]
        error = [
            weight * (mp.polyval(coefficients[::-1], x) - y)
            for x, y, weight in zip(grid, f, w, strict=True)
        ]
        # The largest error of each run of equal sign; outer ones go if too many.
        peaks = [0]
        for i in range(1, len(grid)):
            if (error[i] > 0) != (error[peaks[-1]] > 0):
                peaks.append(i)
            elif abs(error[i]) > abs(error[peaks[-1]]):
                peaks[-1] = i
        while len(peaks) > count:
            peaks.pop(0 if abs(error[peaks[0]]) < abs(error[peaks[-1]]) else -1)
        worst = max(abs(e) for e in error)
        if len(peaks) < count or worst < abs(solution[degree + 1]) * mp.mpf("1.001"):
            break
        nodes = peaks
    return coefficients, worst


def rounded(value: mp.mpf, kind: str) -> float:
    """The nearest f32, or f64."""
    if kind == "f32":
        return float(struct.unpack("f", struct.pack("f", value))[0])
    return float(value)


@dataclass(frozen=True)
class Fit:
    """A remainder to approximate on an interval, with the weight of its error."""

    f: Real
    lo: float
    hi: float
    weight: Real
    kinds: tuple[str, ...] = ("f32", "f64")

    def solve(self, kind: str) -> tuple[list[float], mp.mpf, float]:
        """Rounded coefficients, lowest first, their weighted error, and what the first one lost."""
        middle, reach = (mp.mpf(self.lo) + self.hi) / 2, (mp.mpf(self.hi) - self.lo) / 2
        points = 400
        grid = [
            middle - reach * mp.cos(mp.pi * (i + mp.mpf("0.37")) / points) for i in range(points)
        ]
        w, target = [self.weight(x) for x in grid], [self.f(x) for x in grid]
        degree = 1
        while remez(target, w, grid, degree)[1] > mp.mpf(2) ** -BITS[kind]:
            degree += 1
        exact = remez(target, w, grid, degree)[0]
        done = [rounded(c, kind) for c in exact]
        error = max(
            abs(weight * (mp.polyval(done[::-1], x) - y))
            for x, y, weight in zip(grid, target, w, strict=True)
        )
        return done, error, rounded(exact[0] - done[0], kind)


def odd(f: Real, reach: float, *kinds: str) -> Fit:
    """``f(x) = x + x z q(z)`` with ``z = x**2`` for ``|x| <= reach``."""

    def remainder(z: mp.mpf) -> mp.mpf:
        x = mp.sqrt(z)
        return (f(x) - x) / (x * z)

    return Fit(remainder, 0, reach**2, lambda z: z * mp.sqrt(z) / f(mp.sqrt(z)), kinds)


def erfcx(x: mp.mpf) -> mp.mpf:
    """``exp(x**2) erfc(x)``"""
    return mp.exp(x * x) * mp.erfc(x)


def scaled_erfcx(t: mp.mpf) -> mp.mpf:
    """``(1 + 2 x) erfcx(x)`` where ``t = (x - 4) / (x + 4)``."""
    x = 4 * (1 + t) / (1 - t)
    return (1 + 2 * x) * erfcx(x)


def log_quotient(z: mp.mpf) -> mp.mpf:
    """``log((1 + s) / (1 - s)) / s`` where ``z = s**2``."""
    s = mp.sqrt(z)
    return mp.log((1 + s) / (1 - s)) / s


LN2 = float(mp.log(2))
S = float((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) * 1.0001
ALL = ("f32", "wide", "f64")

FITS = {
    # exp(r) = 1 + r + r**2 q(r)
    "EXP": Fit(
        lambda r: (mp.exp(r) - 1 - r) / r**2, -0.5001 * LN2, 0.5001 * LN2, lambda r: r**2, ALL
    ),
    # log(1 + f) = f - f**2 / 2 + f**3 q(f)
    "LOG": Fit(
        lambda f: (mp.log1p(f) - f + f**2 / 2) / f**3,
        -1 / 3, 1 / 3, lambda f: f**3 / mp.log1p(f), ("f32",),
    ),
    # log((1 + s) / (1 - s)) = 2 s + s z q(z), z = s**2
    "LOG_QUOTIENT": Fit(
        lambda z: (log_quotient(z) - 2) / z, 0, S**2, lambda z: z / 2, ("wide", "f64")
    ),
    # log((1 + s) / (1 - s)) = 2 s + s z (2/3 + z q(z))
    "LOG_TAIL": Fit(
        lambda z: (log_quotient(z) - 2 - z * 2 / 3) / z**2, 0, S**2, lambda z: z**2 * 64, ("f64",)
    ),
    "SIN": odd(mp.sin, float(mp.pi / 2) * 1.0001, "wide", "f64"),
    "SIN_QUARTER": odd(mp.sin, float(mp.pi / 4) * 1.0001, "wide", "f64"),
    # cos(r) = 1 - z/2 + z**2 q(z)
    "COS_QUARTER": Fit(
        lambda z: (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2,
        0, float(mp.pi / 4) ** 2 * 1.0001, lambda z: z**2, ("wide", "f64"),
    ),
    "SINH": odd(mp.sinh, 1, *ALL),
    "ASIN": odd(mp.asin, 0.5, *ALL),
    "ATAN": odd(mp.atan, 1, "f32", "f64"),
    # erf(x) = x + x q(z)
    "ERF": Fit(
        lambda z: mp.erf(mp.sqrt(z)) / mp.sqrt(z) - 1,
        0, 1, lambda z: mp.sqrt(z) / mp.erf(mp.sqrt(z)), ("f32", "f64"),
    ),
    "ERF_TAIL": Fit(lambda x: mp.log(mp.erfc(x)), 1, 6, mp.erfc, ("f64",)),
    "ERF_TAIL_F32": Fit(lambda x: mp.log(mp.erfc(x)), 1, 4, mp.erfc, ("f32",)),
    "ERFC": Fit(scaled_erfcx, -0.7, 0.746, lambda t: 1 / scaled_erfcx(t), ("f64",)),
    "ERFC_WIDE": Fit(scaled_erfcx, -1, 0.44, lambda t: 1 / scaled_erfcx(t), ("wide",)),
    # (1 + t)**(-1/3)
    "RCBRT": Fit(
        lambda t: 1 / mp.cbrt(t + 1), -0.3334, 0.4143, lambda t: mp.cbrt(t + 1),
        ("seed32", "seed64"),
    ),
}  # fmt: skip


def main() -> None:
    """Prints the named tables (default: all) as they stand in the package."""
    for name in sys.argv[1:] or FITS:
        for kind in FITS[name].kinds:
            coefficients, error, lost = FITS[name].solve(kind)
            bits = float(mp.log(error, 2))
            print(f"{name} {kind}: {len(coefficients)} terms, error 2**{bits:.1f}", end="; ")
            print(f"the first one lost {lost.hex()}")
            print("   ", " ".join(c.hex() for c in coefficients), flush=True)


if __name__ == "__main__":
    main()
