"""Random programs on tensors, run by PyTorch and by symgrad: the same values, gradients and errors.

A program is a list of statements that are drawn from a seed alone, so both sides run the
same one.  Statements that raise are part of it: writes to memory that the graph still
needs must raise on both sides, or give the same gradients.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

SHAPES = [(), (1,), (3,), (2, 3), (3, 2), (1, 3), (2, 1), (2, 2, 3)]

UNARY: dict[str, Callable[[Any, Any], Any]] = {
    "exp": lambda t, x: t.exp(x * 0.3),
    "tanh": lambda t, x: t.tanh(x),
    "sin": lambda t, x: x.sin(),
    "relu": lambda t, x: t.relu(x),
    "sigmoid": lambda t, x: x.sigmoid(),
    "abs": lambda t, x: x.abs(),
    "square": lambda t, x: x**2,
    "cube": lambda t, x: x**3,
    "neg": lambda t, x: -x,
    "scaled": lambda t, x: x * 2.5,
    "shifted": lambda t, x: 1 - x,
    "halved": lambda t, x: x / 2,
    "clamp": lambda t, x: x.clamp(-0.5, 0.7),
    "clone": lambda t, x: x.clone(),
    "sqrt": lambda t, x: (x * x + 1).sqrt(),
    "log": lambda t, x: t.log(x.abs() + 1.5),
    "softmax": lambda t, x: t.nn.functional.softmax(x, -1),
    "log_softmax": lambda t, x: x.log_softmax(0),
    "gelu": lambda t, x: t.nn.functional.gelu(x),
    "sort": lambda t, x: x.sort(-1)[0],
    "flip": lambda t, x: x.flip(0),
    "roll": lambda t, x: x.roll(1, 0),
    "rows": lambda t, x: x[[0, -1]],
    "masked_fill": lambda t, x: x.masked_fill(x > 0, 0.3),
    "where": lambda t, x: t.where(x > 0.2, x, 0.5),
    "sign": lambda t, x: x.sign(),
    "floor": lambda t, x: x.floor(),
    "rounded": lambda t, x: x.float().double(),
    "tril": lambda t, x: x.tril(),
    "repeat": lambda t, x: x.repeat(2, 1),
}
BINARY: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add": lambda t, x, y: x + y,
    "sub": lambda t, x, y: x - y,
    "mul": lambda t, x, y: x * y,
    "div": lambda t, x, y: x / (y * y + 1),
    "maximum": lambda t, x, y: t.maximum(x, y),
    "where": lambda t, x, y: t.where(x > 0, x, y),
    "matmul": lambda t, x, y: x @ y,
    "cat": lambda t, x, y: t.cat([x, y], 0),
    "stack": lambda t, x, y: t.stack([x, y]),
    "min": lambda t, x, y: t.min(x, y),
    "lerp": lambda t, x, y: t.lerp(x, y, 0.3),
    "addcmul": lambda t, x, y: t.addcmul(x, y, y, value=0.5),
    "dot": lambda t, x, y: t.dot(x, y),
    "outer": lambda t, x, y: t.outer(x, y),
    "reshape": lambda t, x, y: x.reshape(y.shape),
    "expand_as": lambda t, x, y: x.expand_as(y),
    "index_add": lambda t, x, y: x.index_add(0, t.tensor([0]), y),
    "mse": lambda t, x, y: t.nn.functional.mse_loss(x, y) if x.shape == y.shape else x * 1,
}
REDUCING: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda t, x: x.sum(),
    "mean": lambda t, x: x.mean(),
    "sum0": lambda t, x: x.sum(0),
    "mean-1": lambda t, x: x.mean(-1, keepdim=True),
    "prod": lambda t, x: x.prod(),
    "cumsum": lambda t, x: x.cumsum(0),
    "logsumexp": lambda t, x: x.logsumexp(-1),
    "max": lambda t, x: x.max(),
    "max0": lambda t, x: x.max(0)[0],
    "amin": lambda t, x: x.amin(-1),
    "median": lambda t, x: x.median(),
    "norm": lambda t, x: (x + 5).norm(),
    "cumprod": lambda t, x: x.cumprod(-1),
}
VIEWS: dict[str, Callable[[Any, Any], Any]] = {
    "flat": lambda t, x: x.view(-1),
    "t": lambda t, x: x.t(),
    "transposed": lambda t, x: x.transpose(0, -1),
    "first": lambda t, x: x[0],
    "last": lambda t, x: x[..., -1],
    "slice": lambda t, x: x[1:],
    "column": lambda t, x: x[:, 1:2],
    "unsqueezed": lambda t, x: x.unsqueeze(0),
    # Of a computed tensor, a write to the alias raises at once here and in backward there.
    "detached": lambda t, x: x.detach() if x.is_leaf else x.detach().clone(),
    "narrow": lambda t, x: x.narrow(0, 0, 1),
    "expanded": lambda t, x: x.expand(2, *x.shape),
    "every other": lambda t, x: x[::2],
    "diagonal": lambda t, x: x.diagonal(),
    "column at the end": lambda t, x: x[..., None],
    "moved": lambda t, x: x.movedim(0, -1),
    "all": lambda t, x: x[...],
}
WRITES: dict[str, Callable[[Any, Any, Any], Any]] = {
    "add_": lambda t, x, y: x.add_(y),
    "mul_": lambda t, x, y: x.mul_(y),
    "zero_": lambda t, x, y: x.zero_(),
    "copy_": lambda t, x, y: x.copy_(y),
    "number": lambda t, x, y: x.mul_(1.5),
    "item": lambda t, x, y: x.__setitem__(0, 0.25),
    "items": lambda t, x, y: x.__setitem__(slice(0, 1), y),
    "relu_": lambda t, x, y: x.relu_(),
    "masked": lambda t, x, y: x.__setitem__(x > 0.5, 0.0),
    "data": lambda t, x, y: x.data.mul_(0.5) if x.is_leaf else None,
    "iadd": lambda t, x, y: x.__iadd__(y),
    "tanh_": lambda t, x, y: x.tanh_(),
    "sub_": lambda t, x, y: x.sub_(y, alpha=2),
    "last": lambda t, x, y: x[-1].mul_(0.5),
    "masked_fill_": lambda t, x, y: x.masked_fill_(x > 0.1, 0.2),
    "index_fill_": lambda t, x, y: x.index_fill_(0, t.tensor([0]), 1.0),
    "shifted": lambda t, x, y: x[1:].copy_(x[:-1].clone()),
    "first of all": lambda t, x, y: x.view(-1)[0].mul_(3),
    "transposed": lambda t, x, y: x.t().add_(y),
    "diagonal": lambda t, x, y: x.diagonal().fill_(0.4),
    "lerp_": lambda t, x, y: x.lerp_(y, 0.5),
    "set": lambda t, x, y: x.index_put_((t.tensor([0, 0]),), y, accumulate=True),
}


def functions(torch: Any) -> dict[str, Callable[[Any], Any]]:
    """Operations whose derivatives are given by hand, and wrong so that they are told apart."""
    base = torch.autograd.Function

    class Squared(base):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * ctx.saved_tensors[0] * 3

    class Pair(base):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2, x * 3

        @staticmethod
        def backward(ctx: Any, g: Any, h: Any) -> Any:
            return g * 2 + h * 5

    class Shown(base):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 7

    class Silent(base):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return None

    return {
        "squared": Squared.apply, "first": lambda x: Pair.apply(x)[0], "shown": Shown.apply,
        "second": lambda x: Pair.apply(x)[1], "silent": Silent.apply,
    }  # fmt: skip


def program(seed: int, length: int) -> list[tuple[Any, ...]]:
    """Statements as tuples: what to do, with which variables by number, and details."""
    rng = random.Random(seed)
    statements: list[tuple[Any, ...]] = []
    for _ in range(2):
        statements.append(("leaf", rng.choice(SHAPES), True, rng.random()))
    kinds = ["unary"] * 4 + ["binary"] * 6 + ["reducing"] * 2 + ["view"] * 4 + ["write"] * 3
    kinds += ["leaf", "backward", "backward", "grad", "look", "no_grad", "hook", "retain"]
    kinds += ["flag", "zero", "step", "numpy", "function", "function", "unseen", "after"]
    tables: dict[str, Any] = {
        "unary": UNARY, "binary": BINARY, "reducing": REDUCING, "view": VIEWS, "write": WRITES,
    }  # fmt: skip
    for _ in range(length):
        kind = rng.choice(kinds)
        x, y = rng.random(), rng.random()
        if kind == "leaf":
            statements.append((kind, rng.choice(SHAPES), rng.random() < 0.6, rng.random()))
        elif kind in tables:
            statements.append((kind, rng.choice(list(tables[kind])), x, y))
        elif kind == "function":
            statements.append((kind, rng.choice(_BY_HAND), x))
        else:
            statements.append((kind, x, y, rng.random() < 0.5))
    return [*statements, ("backward", 0.999, 0, False)]


_BY_HAND = ("squared", "first", "second", "shown", "silent")


class Run:
    """The variables of a program while one side runs it, and what it said."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.variables: list[Any] = []
        self.by_hand = functions(torch)
        self.log: list[Any] = []

    def all(self, statements: list[tuple[Any, ...]]) -> list[Any]:
        """Runs the statements; returns what can be seen after each."""
        for statement in statements:
            try:
                said = self._one(*statement)
            except (RuntimeError, IndexError, ValueError, TypeError, AttributeError):
                said = "error"  # whose type, for shapes that do not fit, may be our own
            self.log.append(said)
        self.log.append([self._seen(v) for v in self.variables])
        return self.log

    def _pick(self, number: float) -> Any:
        # Later variables more often: programs get deeper.
        return self.variables[int(number**0.6 * len(self.variables))]

    def _keep(self, made: Any) -> Any:
        if made.numel() <= 64:
            self.variables.append(made)
        return tuple(made.shape), made.requires_grad, made.is_leaf

    def _one(self, kind: str, *details: Any) -> Any:
        torch = self.torch
        if kind == "leaf":
            shape, tracked, number = details
            count = 1
            for n in shape:
                count *= n
            values = torch.arange(count, dtype=torch.float64) * 0.37 + number - 0.8
            return self._keep(values.reshape(shape).clone().requires_grad_(tracked))
        if kind in ("unary", "reducing", "view"):
            name, x, _ = details
            table = {"unary": UNARY, "reducing": REDUCING, "view": VIEWS}[kind]
            return self._keep(table[name](torch, self._pick(x)))
        if kind == "binary":
            name, x, y = details
            return self._keep(BINARY[name](torch, self._pick(x), self._pick(y)))
        if kind == "function":
            return self._keep(self.by_hand[details[0]](self._pick(details[1])))
        x = self._pick(details[-2] if kind == "write" else details[0])
        y, flag = details[1], details[-1]
        if kind == "write":
            name, at, other = details
            target = self._pick(at)
            WRITES[name](torch, target, self._pick(other))
            return tuple(target.shape), target.requires_grad
        if kind == "backward":
            return x.sum().backward(retain_graph=flag)
        if kind == "grad":
            found = torch.autograd.grad(
                (x * x).sum(), self._pick(y), create_graph=flag, allow_unused=True
            )[0]
            return None if found is None else self._keep(found)
        if kind == "look":
            return x.tolist()
        if kind == "no_grad":
            with torch.no_grad():
                return self._keep(x * 0.5 + self._pick(y))
        if kind == "hook":
            x.register_hook(lambda g: g * 2)
        elif kind == "after":
            x.register_post_accumulate_grad_hook(lambda p: p.grad.mul_(2))
        elif kind == "unseen":
            with torch.no_grad():
                x.mul_(0.5)
        elif kind == "retain":
            x.retain_grad()
        elif kind == "flag":
            x.requires_grad_(flag)
        elif kind == "zero":
            if x.is_leaf:
                x.grad = None
        elif kind == "step":
            leaves = [v for v in self.variables if v.is_leaf and v.grad is not None]
            if leaves:
                torch.optim.SGD(leaves, lr=0.1).step()
        elif kind == "numpy":
            x.detach().numpy()
            return x.detach().numpy().tolist()
        return None

    def _seen(self, x: Any) -> Any:
        try:
            grad = x.grad if x.is_leaf or x.retains_grad else None
            return x.tolist(), None if grad is None else grad.tolist(), x.requires_grad
        except RuntimeError:  # a view by hand whose base was written to
            return "error"


def difference(torch_log: Any, own_log: Any, statements: list[tuple[Any, ...]]) -> str:
    """Where two logs differ; "" where they agree up to rounding.

    Where torch alone raises, we may give the derivative by the values as they were; and what
    torch had added to gradients before it raised in a backward pass is not compared.
    """
    for number, (x, y) in enumerate(zip(torch_log, own_log, strict=True)):
        if x == "error" and (y != "error" or statements[number][0] in ("backward", "step")):
            return ""
        if number == len(statements):  # what the variables are in the end
            same = all(a == "error" or _close(a, b) for a, b in zip(x, y, strict=True))
        else:
            same = _close(x, y)
        if not same:
            return f"statement {number}: {x} against {y}"
    return ""


def _close(x: Any, y: Any) -> bool:
    if isinstance(x, (list, tuple)) and isinstance(y, (list, tuple)):
        return len(x) == len(y) and all(map(_close, x, y))
    if isinstance(x, float) and isinstance(y, float):
        both_nan = math.isnan(x) and math.isnan(y)
        return x == y or both_nan or abs(x - y) <= 1e-9 * max(1, abs(x), abs(y))
    return bool(x == y)
