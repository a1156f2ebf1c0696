"""The disk cache of whole programs: a function's text in, its ``Image`` out.

The key holds everything that the program depends on: the text of the function before the
passes, the target, the options, LLVM, and the compiler itself by the contents of its own
source files, so that an edited pass or kernel never meets an old program.
"""

from __future__ import annotations

import functools
import hashlib
import os
from typing import Any

import symgrad.codegen
import symgrad.ir
from symgrad.codegen.image import Image
from symgrad.codegen.objects import version
from symgrad.codegen.target import Target
from symgrad.ir.cache import Cache
from symgrad.ir.graph import Func

_cache = Cache("programs", limit=128 << 20)


def key(func: Func, target: Target, **options: Any) -> str:
    """What tells the program of a traced function from all others.

    ``options`` are all that changes what the function compiles to; they count by ``repr``.
    """
    content = hashlib.sha256(f"{compiler()} {target!r} {sorted(options.items())!r}\n".encode())
    facts = [p.facts for p in func.params]  # passes may rely on what the text does not tell
    content.update(f"{facts}\n{func.text}".encode())
    return content.hexdigest()[:40]


def find(key: str) -> Image | None:
    """The program kept under a key, if there is one."""
    blob = _cache.get(key)
    return None if blob is None else Image.from_bytes(blob)


def keep(key: str, image: Image) -> None:
    """Keeps a program under a key."""
    _cache.put(key, image.to_bytes())


@functools.cache
def compiler() -> str:
    """Identifies this compiler: LLVM and the contents of the packages that make code."""
    content = hashlib.sha256(version().encode())
    for package in (symgrad.ir, symgrad.codegen):
        for root in package.__path__:
            for folder, folders, names in os.walk(root):  # a third of the time of rglob
                folders.sort()
                for name in sorted(name for name in names if name.endswith(".py")):
                    content.update(f"{folder[len(root) :]}/{name}".encode())
                    with open(f"{folder}/{name}", "rb", buffering=0) as file:
                        content.update(file.read())
    return content.hexdigest()
