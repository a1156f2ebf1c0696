"""Operations that save values, and the roads on which saved values can be changed.

Every pair is run with PyTorch when recording and with symgrad in the tests: it must raise
the same error in ``backward``, or give the same gradient.
"""

from __future__ import annotations

from typing import Any

OPERATIONS = """
y * y; y.sin(); y.exp(); y.sqrt(); y / x; y ** 3; y.sigmoid(); y.tanh(); y @ y; y.abs(); y.relu()
y.prod(); y.std(); y.softmax(0); y.clamp(0.5, 1.5); y + 1; y.sum(); y * 2; y[1:]; y.cumprod(0)
"""
ROADS = """
y.add_(1); y[0] = 5.0; y[0].add_(1); y[1:].mul_(2); y.view(3, 1).zero_(); y.copy_(x.detach())
y.fill_(2.0); z.add_(1); z.zero_() if z.ndim == 0 else z[0].zero_(); y.t()[0].add_(1)
y.unsqueeze(0)[0].add_(1); y.exp_(); y.index_fill_(0, torch.tensor([0]), 1.0)
y.masked_fill_(y > 1, 0.5); y.clamp_(0, 1); x.data.add_(1); x.detach().add_(1)
x.detach().numpy().__setitem__(0, 7.0); np.from_dlpack(x.detach()).__len__(); x.data[0] = 4.0
opt(x); pass_through(y); np.from_dlpack(x.detach()).__setitem__(0, 7.0)
torch.from_dlpack(x.detach()).add_(1)
"""


def listed(text: str) -> list[str]:
    """The statements of a table."""
    return [p.strip() for line in text.strip().splitlines() for p in line.split(";")]


def outcome(torch: Any, numpy: Any, operation: str, road: str) -> Any:
    """The gradient, or the error's type and the beginning of its text."""
    x = torch.tensor([0.7, 1.3, 1.9], dtype=torch.float64, requires_grad=True)
    names = {"torch": torch, "np": numpy, "x": x, "opt": _step(torch), "pass_through": lambda y: y}
    try:
        names["y"] = x * 1.0
        names["z"] = eval(operation, names)
        exec(road, names)
        z = names["z"]
        (z.sum() if z.ndim else z).backward()
    except Exception as error:
        return [type(error).__name__, str(error)[:60]]
    return x.grad.tolist()


def _step(torch: Any) -> Any:
    def step(x: Any) -> None:
        x.grad = torch.ones_like(x)
        torch.optim.SGD([x], lr=0.5).step()
        x.grad = None

    return step
