"""The names of ImageNet's 1,000 classes, read where they are found: they are not ours to keep.

They come from a text file with one name per line, in order, or from the source of an
installed torchvision, which is parsed and not imported.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

from symgrad import hub
from symgrad.io.errors import WeightsError

FILE = "imagenet_classes.txt"
COUNT = 1000


class Meta(dict[str, Any]):
    """What is known of weights; the names under ``categories`` are looked for when asked for."""

    def __missing__(self, key: str) -> Any:
        if key == "categories":
            return imagenet_categories()
        raise KeyError(key)


def imagenet_categories() -> list[str]:
    """The names of ImageNet's classes, in the order of a network's outputs.

    From the file ``SYMGRAD_IMAGENET_CLASSES`` names, from ``imagenet_classes.txt`` beside the
    weights in a cache of ``symgrad.hub``, or from an installed torchvision.  Raises
    ``WeightsError`` that says what to put where when there is none of them.
    """
    given = os.environ.get("SYMGRAD_IMAGENET_CLASSES")
    places = [Path(given)] if given else [folder / FILE for folder in hub.folders()]
    for path in places:
        if path.is_file():
            return list(_from_file(path))
    names = None if given else _from_torchvision()
    if names is None:
        listed = " or ".join(map(str, places))
        raise WeightsError(
            f"{FILE}: the names of ImageNet's classes do not come with symgrad: put a file with "
            f"{COUNT} lines, one name each, at {listed}, or let SYMGRAD_IMAGENET_CLASSES name it; "
            "an installed torchvision has them, too"
        )
    return list(names)


@functools.cache
def _from_file(path: Path) -> tuple[str, ...]:
    lines = path.read_text(encoding="utf-8").splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != COUNT:
        raise WeightsError(f"{path}: has {len(names)} names of classes, not {COUNT}")
    return names


@functools.cache
def _from_torchvision() -> tuple[str, ...] | None:
    spec = importlib.util.find_spec("torchvision")
    for folder in (spec and spec.submodule_search_locations) or ():
        source = Path(folder) / "models" / "_meta.py"
        if source.is_file():
            for statement in ast.parse(source.read_text(encoding="utf-8")).body:
                match statement:
                    case ast.Assign(targets=[ast.Name(id="_IMAGENET_CATEGORIES")], value=value):
                        return tuple(ast.literal_eval(value))
    return None
