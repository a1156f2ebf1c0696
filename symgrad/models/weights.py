"""Trained weights as torchvision names them: enums whose members know file and transforms.

What a member tells (file names, sizes, accuracies) are torchvision's published facts.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from symgrad import hub
from symgrad.models.categories import Meta


@dataclass(frozen=True)
class Weights:
    """Where weights lie, how images are prepared for them, and what is known of them."""

    url: str
    transforms: Callable[..., Any]
    """Makes the preparation of images: ``weights.transforms()(image)``."""
    meta: Meta


class WeightsEnum(enum.Enum):
    """Weights of one network; ``DEFAULT`` names the best of them."""

    @classmethod
    def verify(cls, obj: Any) -> Any:
        """A member from itself or its name, with or without the enum's; ``None`` from ``None``.

        Raises ``KeyError`` for an unknown name, ``TypeError`` for another enum's member.
        """
        if isinstance(obj, str):
            return cls[obj.removeprefix(f"{cls.__name__}.")]
        if obj is not None and not isinstance(obj, cls):
            raise TypeError(
                f"Invalid Weight class provided; expected {cls.__name__} but received "
                f"{type(obj).__name__}."
            )
        return obj

    @property
    def url(self) -> str:
        """Where the file can be downloaded: under ``SYMGRAD_HUB_URL``, where that is set."""
        return hub.mirrored(self.value.url)

    @property
    def transforms(self) -> Callable[..., Any]:
        """Makes the preparation of images: ``weights.transforms()(image)``."""
        return self.value.transforms  # type: ignore[no-any-return]

    @property
    def meta(self) -> Meta:
        """What is known of the weights: ``num_params``, ``categories``, accuracies."""
        return self.value.meta  # type: ignore[no-any-return]

    def get_state_dict(self, progress: bool = True, check_hash: bool = False) -> dict[str, Any]:
        """The weights as arrays by name, from a cache or downloaded: see ``symgrad.hub``."""
        url: str = self.value.url
        return hub.load_state_dict_from_url(url, progress=progress, check_hash=check_hash)

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


def enums() -> list[type[WeightsEnum]]:
    """The enums of all networks."""
    return WeightsEnum.__subclasses__()
