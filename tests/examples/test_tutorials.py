"""The tutorials run, and show what their notebooks say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from examples.tutorial_weights import stand_in

import symgrad as torch
from examples import notebooks

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "tutorials"
TUTORIALS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_five() -> None:
    assert len(TUTORIALS) == 5


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_outputs(path: Path) -> None:
    notebook = notebooks.read(path)
    with stand_in():
        found = notebooks.run(notebook)
    for cell, outputs in zip(notebooks.code_cells(notebook), found, strict=True):
        stored = notebooks.comparable(cell, cell["outputs"])
        # What an `execute_result` is numbered by is the cell's place, in both.
        assert notebooks.comparable(cell, outputs) == stored, "".join(cell["source"])


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_nothing_of_pytorch_is_imported(path: Path) -> None:
    cells = notebooks.code_cells(notebooks.read(path))
    lines = [line for cell in cells for line in "".join(cell["source"]).splitlines()]
    imports = [line for line in lines if re.match(r"(import|from) ", line)]
    assert imports
    assert all(re.match(r"(import|from) symgrad\b", line) for line in imports)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


def test_picture_of_the_graph() -> None:
    a = torch.tensor([2.0, 3.0], requires_grad=True)
    b = torch.tensor([6.0, 4.0], requires_grad=True)
    assert (FOLDER / "q_graph.svg").read_text() == torch.autograd.to_svg(3 * a**3 - b**2)


def test_the_comparison_sees_differences() -> None:
    """A changed output fails, but not a changed address or random number."""
    plain: dict = {"metadata": {}}
    random: dict = {"metadata": {"tags": ["random-output"]}}

    def said(text: str) -> list:
        return [{"output_type": "stream", "name": "stdout", "text": [text]}]

    def same(cell: dict, one: str, other: str) -> bool:
        return notebooks.comparable(cell, said(one)) == notebooks.comparable(cell, said(other))

    assert same(plain, "<Node object at 0x7f>", "<Node object at 0x12ab>")
    assert not same(plain, "tensor([36., 81.])", "tensor([36., 82.])")
    assert not same(plain, "tensor([0.5000])", "tensor([0.2500])")
    assert same(random, "tensor([[ 2.18],\n [-0.09]])", "tensor([[-1.00],\n [ 7.15]])")
    assert same(random, "tensor([[3.18],\n [0.09]])", "tensor([[ 2.18],\n [-0.09]])")
    assert not same(random, "tensor([[3.18],\n [0.09]])", "tensor([[ 2.18],\n [-0.09]], f)")
