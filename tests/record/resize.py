"""Record torch's image resizing: ``python tests/record/resize.py`` (needs torch)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import references as R


def main() -> None:
    arrays = {}
    for name, (mode, antialias, before, after) in R.RESIZES.items():
        image = torch.tensor(R.draw(f"resize/{before}", (2, *before)).astype("float64"))
        options = {} if mode == "nearest" else {"antialias": antialias, "align_corners": False}
        resized = F.interpolate(image[None], after, mode=mode, **options)[0]
        arrays[name] = resized.numpy()
    R.write_record(R.DATA / "resize.npz", {}, arrays)


if __name__ == "__main__":
    main()
