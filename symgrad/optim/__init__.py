"""Optimisers and learning-rate schedules: torch's, on tensors and as pure functions."""

from symgrad.absent import MissingError
from symgrad.optim import lr_scheduler, swa_utils
from symgrad.optim.adam import Adam, AdamW
from symgrad.optim.adam_variants import Adamax, NAdam, RAdam
from symgrad.optim.adaptive import Adadelta, Adagrad, RMSprop
from symgrad.optim.lbfgs import LBFGS
from symgrad.optim.optimizer import Optimizer
from symgrad.optim.robust import ASGD, Rprop
from symgrad.optim.sgd import SGD

__all__ = [
    "ASGD", "LBFGS", "SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam",
    "Optimizer", "RAdam", "RMSprop", "Rprop", "lr_scheduler", "swa_utils",
]  # fmt: skip


def __getattr__(name: str) -> object:
    raise MissingError("module 'symgrad.optim'", name, lambda: __all__)
