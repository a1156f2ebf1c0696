"""Names that PyTorch has and symgrad has not: errors that say what to do instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable

_REMEDIES = {
    r"complex|polar|imag|angle|c(half|float|double)|i?stft|[ri]?fft|fft": (
        "there are no complex numbers; compute with real and imaginary parts"
    ),
    r"eig|eigvals": (
        "eigenvalues of general matrices are complex, which symgrad does not compute with; for "
        "symmetric matrices there are linalg.eigh and linalg.eigvalsh"
    ),
    r"sparse|coalesce|to_dense|spmm|smm|[ch]?spmm|hsmm|dsmm|sspaddmm": (
        "there are no sparse tensors; use dense ones, scatter_add or embedding"
    ),
    r"q(u?int|scheme|uantize)|quant|int_repr|dequantize|qat": "there are no quantised tensors",
    r"cuda|xpu|mps|mtia|ipu|xla|cudnn|miopen": (
        "symgrad computes on CPUs only; write x.to(device) with a device of 'cpu'"
    ),
    r"distributed|DataParallel|multiprocessing|share_memory": (
        "one process computes, on all its threads: use the model itself"
    ),
    r"jit|script|fx|onnx|export": (
        "compile functions by symgrad.jit, and save them by compiled.save(path) or symgrad.export"
    ),
    r"storage": "x.numpy() shares the memory of a tensor",
    r"distributions": (
        "log-probabilities are short formulas: log_softmax(logits).gather(-1, i) for categories, "
        "-((x - mean) / std).square() / 2 - std.log() - log(2 pi) / 2 for a normal distribution"
    ),
    r"SyncBatchNorm": "one process computes: use nn.BatchNorm2d and the like",
}
"""What to do without names that a pattern fits."""


class MissingError(AttributeError):
    """``where``, a module or class in words, lacks a name; ``known`` are those that it has.

    Whoever only asks whether there is such a name does not pay for the text.
    """

    def __init__(self, where: str, name: str, known: Callable[[], Iterable[str]]) -> None:
        super().__init__(where, name, name=name)
        self._known = known

    def __str__(self) -> str:
        where, name = self.args
        text = f"{where} has no attribute {name!r}"
        if name.startswith("_"):
            return text
        for pattern, remedy in _REMEDIES.items():
            if re.match(rf"(?i:\w*_)?(?i:to_|is_)?(?:{pattern})", name):
                return f"{text}: {remedy}"
        close = difflib.get_close_matches(name, [n for n in self._known() if n[0] != "_"], 3)
        if close:
            return f"{text}; did you mean {' or '.join(close)}?"
        return f"{text}; where it is PyTorch's, symgrad does not have it: dir() lists what there is"
