"""Record the table of tensor expressions: ``python tests/record/tensor_cases.py`` (torch).

Evaluates ``tests/tensors/expressions.py`` with PyTorch.  In float64 all values, the gradients of a
weighted sum and those of a weighted sum of the gradients are kept; for the other types
dtypes, shapes and a weighted sum of the values.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tensors"))
import expressions as cases  # noqa: E402

DATA = ROOT / "data" / "tensor_cases.npz"


class Numbers:
    """All numbers of the file in one array, which compresses well."""

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.size = 0

    def add(self, array: Any) -> int:
        """Appends an array; returns where it starts."""
        if isinstance(array, torch.Tensor):
            array = array.detach().double().numpy(force=True)
        with np.errstate(over="ignore"):
            part = np.asarray(array, np.float64).reshape(-1).astype(np.float32)
        start = self.size
        self.parts.append(part)
        self.size += part.size
        return start


def evaluate(case: str, dtype: str) -> tuple[dict[str, Any], Any]:
    torch.manual_seed(0)
    names = cases.tensors(torch, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return names, eval(case, {"torch": torch, **names})


def plain(value: Any) -> str:
    return repr(value)


def described(numbers: Numbers, result: Any, *, full: bool) -> list[Any]:
    lines: list[Any] = []
    for number, part in enumerate(cases.flat(torch, result)):
        if not isinstance(part, torch.Tensor):
            lines.append(plain(part))
            continue
        array = part.detach().double().numpy()
        kept = array if full else cases.checksum(array, number)
        node = None if part.grad_fn is None else part.grad_fn.name()
        lines.append([str(part.dtype)[6:], list(part.shape), numbers.add(kept), node])
    return lines


def gradients(names: dict[str, Any], total: Any, *, more: bool) -> dict[str, Any]:
    leaves = {n: t for n, t in names.items() if t.requires_grad}
    found = torch.autograd.grad(
        total, list(leaves.values()), create_graph=more, allow_unused=True, retain_graph=True
    )
    return {n: g for n, g in zip(leaves, found, strict=True) if g is not None}


def weighted(parts: Any) -> Any:
    return sum(
        (t.double() * torch.from_numpy(cases.weights(tuple(t.shape), i))).sum()
        for i, t in enumerate(parts)
        if isinstance(t, torch.Tensor) and t.requires_grad
    )


def derivatives(case: str, numbers: Numbers, names: dict[str, Any], result: Any) -> list[Any]:
    total = weighted(cases.flat(torch, result))
    if not isinstance(total, torch.Tensor):
        return []
    orders = []
    try:
        first = gradients(names, total, more=True)
        orders.append({n: numbers.add(g) for n, g in first.items()})
        second = weighted(first.values())
        if isinstance(second, torch.Tensor):
            found = gradients(names, second, more=False)
            orders.append({n: numbers.add(g) for n, g in found.items()})
    except (RuntimeError, NotImplementedError) as error:
        print(f"order {len(orders) + 1} of {case}: {str(error)[:70]}")
    return orders


def record(case: str, numbers: Numbers) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if case.startswith("!"):
        try:
            evaluate(case[1:], "float64")
        except Exception as error:
            return {"error": [type(error).__name__, str(error)]}
        raise SystemExit(f"does not raise: {case}")
    names, result = evaluate(case, "float64")
    entry["results"] = described(numbers, result, full=True)
    entry["gradients"] = derivatives(case, numbers, names, result)
    if any(isinstance(line, list) for line in entry["results"]) and uses_profile(case):
        for dtype in cases.other_profiles(case):
            try:
                _, result = evaluate(case, dtype)
            except Exception:
                continue
            entry[dtype] = described(numbers, result, full=False)
    return entry


def uses_profile(case: str) -> bool:
    used = compile(case, "", "eval").co_names
    return any(name in cases.SHAPES_OF for name in used)


def main() -> None:
    numbers = Numbers()
    found, bad = {}, []
    for case in cases.CASES:
        try:
            found[case] = record(case, numbers)
        except SystemExit as problem:
            bad.append(str(problem))
        except Exception as problem:
            bad.append(f"{case}: {type(problem).__name__}: {str(problem)[:150]}")
    for line in bad:
        print(line)
    text = json.dumps(found, separators=(",", ":"))
    np.savez_compressed(
        DATA, numbers=np.concatenate(numbers.parts), index=np.frombuffer(text.encode(), np.uint8)
    )
    print(len(found), "cases,", numbers.size, "numbers,", DATA.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
