"""The tensor face: torch's names and semantics on the lazily recorded IR.

A ``Tensor`` is a handle on an array or on a value yet to be computed.  Operations record
IR; looking at a value compiles and runs what it needs; ``backward`` is the IR's adjoint
sweep over the recording.  ``NAMES`` lists what the top level offers.
"""

from symgrad.randomness import manual_seed
from symgrad.tensors import (
    creation,
    dtypes,
    elementwise,
    handle,
    indexing,  # noqa: F401  (enters its functions)
    interchange,
    methods,  # noqa: F401  (gives Tensor its methods)
    products,
    state,
)

_PUBLIC = {
    creation: """tensor as_tensor zeros ones empty full eye arange linspace rand randn randint
    randperm zeros_like ones_like full_like rand_like randn_like empty_like
    preserve_format contiguous_format channels_last""",
    dtypes: "dtype Size set_default_dtype get_default_dtype",
    state: """no_grad enable_grad inference_mode set_grad_enabled is_grad_enabled
    is_inference_mode_enabled""",
    interchange: "from_numpy from_dlpack",
    handle: "Tensor",
    products: "einsum",
}

NAMES: dict[str, object] = {
    **{name: f for name, f in elementwise.FUNCTIONS.items() if not name.startswith("_")},
    **{name: getattr(m, name) for m, names in _PUBLIC.items() for name in names.split()},
    **dtypes.PUBLIC,
    "manual_seed": manual_seed,
    "is_tensor": lambda x: isinstance(x, handle.Tensor),
    "result_type": lambda a, b: dtypes.named(dtypes.promote((a, b))),
    "numel": handle.Tensor.numel,
}
"""What ``import symgrad as torch`` finds at the top level, by name."""

Tensor = handle.Tensor

__all__ = ["NAMES", "Tensor"]
