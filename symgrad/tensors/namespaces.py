"""Groups of functions under one name, such as ``torch.linalg``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

from symgrad.absent import MissingError


class Namespace(SimpleNamespace):
    """Functions by name."""

    title: ClassVar[str]

    def __getattr__(self, name: str) -> Any:
        raise MissingError(f"namespace '{self.title}'", name, lambda: vars(self))


class Linalg(Namespace):
    """``torch.linalg``"""

    title = "symgrad.linalg"


class Special(Namespace):
    """``torch.special``"""

    title = "symgrad.special"
