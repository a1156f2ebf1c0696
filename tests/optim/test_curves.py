"""Three networks in training follow PyTorch's losses, recorded, step by step."""

from __future__ import annotations

import json

import networks
import numpy as np
import pytest
from references import DATA

import symgrad as torch

CURVES = json.loads((DATA / "curves.json").read_text())


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_losses(name: str) -> None:
    np.testing.assert_allclose(networks.train(torch, name), CURVES[name], rtol=1e-3)
