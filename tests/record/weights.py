"""Write small files with PyTorch: ``python tests/record/weights.py`` (needs torch).

They go to ``tests/data/weights``; ``tests/io/test_load.py`` knows what is in them.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import references as R

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8",
          "uint8", "bool", "complex64", "complex128")  # fmt: skip


def numbers(dtype: str) -> torch.Tensor:
    return (torch.arange(6).reshape(2, 3) - (2 if dtype != "uint8" else 0)).to(
        getattr(torch, dtype)
    )


def main() -> None:
    folder = R.DATA / "weights"
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))
    with torch.no_grad():
        for i, value in enumerate(model.state_dict().values()):
            value.copy_(torch.arange(value.numel()).reshape(value.shape) + i)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2, 4, 4)).sum().backward()
    optimiser.step()
    grid = torch.arange(24.0).reshape(4, 6)
    tied = torch.nn.Parameter(torch.ones(2))
    files = {
        "dtypes": {name: numbers(name) for name in DTYPES},
        "views": OrderedDict(
            transposed=grid.T, rows=grid[1:3], steps=grid[::2, 1::3], scalar=grid[2, 3],
            empty=grid[:0], tied=tied, also_tied=tied, last=grid[3:, 5:],
        ),
        "checkpoint": {
            "state_dict": model.state_dict(), "optimizer": optimiser.state_dict(), "epoch": 3,
            "best": 0.5, "name": "größe", "size": torch.Size((2, 3)), "dtype": torch.float16,
            "none": None, "flags": [True, False], "big": 1 << 70,
        },
    }  # fmt: skip
    for name, content in files.items():
        torch.save(content, folder / f"{name}.pth")
        torch.save(content, folder / f"{name}_protocol4.pth", pickle_protocol=4)
        torch.save(content, folder / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
    print(sum(path.stat().st_size for path in folder.iterdir()), "bytes")


if __name__ == "__main__":
    main()
