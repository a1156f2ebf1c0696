"""Weights for tutorials where the real ones cannot be downloaded: random numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from models.torch_file import write_torch

import symgrad as sg
from symgrad.models import ResNet18_Weights, resnet18


@contextmanager
def stand_in() -> Iterator[None]:
    """ResNet-18's default weights are random ones within.

    They lie in a cache of their own under the real file's name.  That their sha256 is not the
    real file's is accepted only because ``SYMGRAD_HUB_VERIFY=0`` says so.
    """
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as environment:
        environment.setenv("TORCH_HOME", folder)
        environment.setenv("SYMGRAD_HUB_DIR", folder)
        environment.setenv("SYMGRAD_HUB_VERIFY", "0")
        name = ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
        sg.manual_seed(0)
        write_torch(Path(folder) / "checkpoints" / name, resnet18().state_dict())
        yield
