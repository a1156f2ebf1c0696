"""Tensors print as PyTorch's do, under every set of options."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import symgrad as torch

sys.path.insert(0, str(Path(__file__).parent))
from texts import texts

DATA = Path(__file__).parents[1] / "data" / "tensor_texts.json.gz"


def test_texts() -> None:
    recorded = json.loads(gzip.decompress(DATA.read_bytes()))
    for ours, theirs in zip(texts(torch), recorded, strict=True):
        for mine, expected in zip(ours, theirs, strict=True):
            assert mine == expected
