"""Record how PyTorch prints tensors: ``python tests/record/tensor_texts.py`` (needs torch)."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tensors"))
from texts import texts  # noqa: E402

with gzip.GzipFile(ROOT / "data" / "tensor_texts.json.gz", "wb", mtime=0) as file:
    file.write(json.dumps(texts(torch)).encode())
