"""symgrad: ordinary Python functions become native forward and gradient code."""

from pathlib import Path as _Path

__version__ = "0.1.0"

# In a source checkout `ir/` and `codegen/` lie beside this folder instead of in
# it. Adding the checkout's root to the package path makes `import symgrad` from
# there behave as the installed package does.
_root = _Path(__file__).resolve().parent.parent
if not (_root / "symgrad" / "ir").is_dir() and (_root / "ir" / "__init__.py").is_file():
    __path__.append(str(_root))
