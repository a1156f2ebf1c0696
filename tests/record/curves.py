"""Record the losses of three small networks in training: ``python tests/record/curves.py``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import networks
import references as R

if __name__ == "__main__":
    curves = {name: networks.train(torch, name) for name in networks.NETWORKS}
    (R.DATA / "curves.json").write_text(json.dumps(curves))
    print({name: (losses[0], losses[-1]) for name, losses in curves.items()})
