"""What the documents show is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_tour(tmp_path: Path) -> None:
    """The tour prints what the README says."""
    code, output = re.findall(r"```(?:python|text)\n(.*?)```", README, re.DOTALL)[:2]
    assert len(code.splitlines()) <= 20
    (tmp_path / "tour.py").write_text(code)
    run = subprocess.run(
        [sys.executable, str(tmp_path / "tour.py")],
        cwd=ROOT, env=_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout.strip() == output.strip()


def _environment() -> dict[str, str]:
    import os

    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_exist(document: Path) -> None:
    text = document.read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in link:
            assert (document.parent / link).exists(), link
    for path in re.findall(r"`((?:ir|codegen|symgrad|docs|benchmarks)/[\w/.]*)`", text):
        assert (ROOT / path).exists(), path


def test_picture() -> None:
    picture = ElementTree.parse(ROOT / "docs" / "pipeline.svg").getroot()
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    folders = [text for text in texts if text and "/" in text]
    assert len(folders) == 7
    for folder in folders:
        assert (ROOT / folder).exists()
