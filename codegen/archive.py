"""A program with its machine code as bytes, for files: no compiler is needed to run it again.

Its parts (``codegen.parts``) are the program's image (``codegen.image``) and the object file of
every kernel.  The code is for one target and for the runtime of one version of the compiler:
the header names both.
"""

from __future__ import annotations

from typing import NoReturn

from symgrad.codegen import parts, programs
from symgrad.codegen.executable import Executable
from symgrad.codegen.image import Image
from symgrad.codegen.jit import load_objects, objects_of, stored_objects
from symgrad.codegen.target import Target
from symgrad.ir.errors import UsageError


def pack(executable: Executable) -> bytes:
    """The program as ``unpack`` reads it.

    Raises ``UsageError`` for one that calls back into this process.
    """
    image = executable.image
    objects = stored_objects(image.kernels)
    if executable.is_bound or objects is None:
        lowered = executable.lowered
        if bound := [c for c in lowered.every_call if c.phase.is_bound]:
            raise UsageError(
                f"{bound[0].op.split(':')[0]} calls back into Python, so the program of "
                f"{image.name} cannot be saved"
            )
        objects = objects_of(lowered.modules, lowered.target)
    header = {
        "target": repr(Target.host()),
        "compiler": programs.compiler(),
        "kernels": list(objects),
    }
    return parts.join(header, [image.to_bytes(), *objects.values()])


def unpack(blob: bytes) -> Executable:
    """The program that ``pack`` wrote, its code loaded into this process.

    Raises ``UsageError`` where it was made for another machine or by another compiler.
    """
    header, (image, *objects) = parts.split(blob)
    target = Target.host()
    if header["target"] != repr(target):
        raise UsageError(
            f"the program was compiled for {header['target']}, and this machine is {target}; "
            "compile the function here and save it again"
        )
    if header["compiler"] != programs.compiler():
        raise UsageError(
            "the program was compiled by another version of symgrad or LLVM, whose machine code "
            "this one cannot run; compile the function with this version and save it again"
        )
    addresses = load_objects(dict(zip(header["kernels"], objects, strict=True)), target)
    return Executable(Image.from_bytes(image), addresses, _not_here)


def _not_here() -> NoReturn:
    raise UsageError("a program that was loaded from a file has no stages to look at")
