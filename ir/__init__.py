"""The typed SSA intermediate representation, its derivatives and its passes."""

if __name__ != "symgrad.ir":
    raise ImportError(
        "this folder is the package `symgrad.ir`; import it under that name "
        "(run `pip install -e .` in the repository, or start Python in its root)"
    )
