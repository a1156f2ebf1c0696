"""Record what PyTorch makes of mutated values: ``python tests/record/tensor_mutations.py``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tensors"))
import mutations  # noqa: E402

found = {
    road: [
        mutations.outcome(torch, np, operation, road)
        for operation in mutations.listed(mutations.OPERATIONS)
    ]
    for road in mutations.listed(mutations.ROADS)
}
text = json.dumps(found, separators=(",", ":"))
(ROOT / "data" / "tensor_mutations.json").write_text(text + "\n")
