"""The backend: an IR function in, native code out.  Knows the IR by op name only."""

if __name__ != "symgrad.codegen":
    raise ImportError(
        "this folder is the package `symgrad.codegen`; import it under that name "
        "(run `pip install -e .` in the repository, or start Python in its root)"
    )
