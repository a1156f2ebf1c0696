"""symgrad: ordinary Python functions become native forward and gradient code."""

from pathlib import Path as _Path

__version__ = "0.1.0"

# In a source checkout `ir/` and `codegen/` lie beside this folder instead of in
# it. Adding the checkout's root to the package path makes `import symgrad` from
# there behave as the installed package does.
_root = _Path(__file__).resolve().parent.parent
if not (_root / "symgrad" / "ir").is_dir() and (_root / "ir" / "__init__.py").is_file():
    __path__.append(str(_root))

_EXPORTS = {
    "symgrad.api": "grad hvp inspect jit jvp stop_gradient trace value_and_grad",
    "symgrad.api_export": "export",
    "symgrad.api_saved": "load_compiled",
    "symgrad.api_batch": "hessian jacfwd jacobian jacrev vmap",
    "symgrad.api_branches": "cond while_loop",
    "symgrad.api_loops": "fori_loop scan",
    "symgrad.api_rules": "checkpoint custom_vjp",
    "symgrad.api_vjp": "vjp",
    "symgrad.symbolic.formulas": "from_sympy",
    "symgrad.gradcheck": "check_grads",
    "symgrad.checkpoints": "load save",
    "symgrad.api_backend": "profile set_conv_precision set_num_threads",
    "symgrad.codegen.precision": "get_conv_precision",
    "symgrad.nn.functional": """adaptive_avg_pool1d alpha_dropout avg_pool1d bilinear celu_
    channel_shuffle conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    cosine_similarity feature_alpha_dropout group_norm hardshrink layer_norm max_pool1d max_pool2d
    max_pool3d pairwise_distance pixel_shuffle pixel_unshuffle rms_norm rrelu rrelu_ selu_
    threshold_""",
    "symgrad.codegen.runtime.threads": "get_num_threads",
}
"""Public names by the module that has them: imported on first use (PEP 562)."""

_MODULES = tuple(
    """autograd backends cuda func hub io models nn numpy optim tensors testing utils""".split()
)
_ORIGIN = {name: module for module, names in _EXPORTS.items() for name in names.split()}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _ORIGIN:
        value = getattr(import_module(_ORIGIN[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"symgrad.{name}")
    if not (name.startswith("__") or _is_submodule(name)):
        # torch's names, for `import symgrad as torch`
        names = import_module("symgrad.tensors").NAMES
        if name in names:
            globals()[name] = names[name]
            return names[name]
    from symgrad.absent import MissingError

    raise MissingError("module 'symgrad'", name, _public)


def _public() -> list[str]:
    from symgrad.tensors import NAMES

    return [*__dir__(), *NAMES]


def _is_submodule(name: str) -> bool:
    """Whether ``from symgrad import name`` will find a module, though first it asks for a name."""
    from importlib.machinery import PathFinder

    return PathFinder.find_spec(f"symgrad.{name}", __path__) is not None


def __dir__() -> list[str]:
    return sorted([*_ORIGIN, *_MODULES, "__version__"])
