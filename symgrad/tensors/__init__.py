"""The tensor face: torch's names and semantics on the lazily recorded IR.

A ``Tensor`` is a handle on an array or on a value yet to be computed.  Operations record
IR; looking at a value compiles and runs what it needs; ``backward`` is the IR's adjoint
sweep over the recording.  ``NAMES`` lists what the top level offers.
"""

from symgrad.randomness import initial_seed, manual_seed, seed
from symgrad.tensors import (
    analysis,
    arithmetic,  # noqa: F401  (enters its functions)
    creation,
    dtypes,
    elementwise,
    handle,
    indexing,
    interchange,
    joining,
    legacy,
    linalg,
    methods,  # noqa: F401  (gives Tensor its methods)
    order,
    printing,
    products,
    random,
    scatter,  # noqa: F401  (enters its functions)
    settings,
    shapes,
    special,
    state,
)
from symgrad.tensors.outputs import with_out
from symgrad.tensors.traced import with_traced

_PUBLIC = {
    creation: """tensor as_tensor asarray scalar_tensor zeros ones empty empty_strided full eye
    arange linspace logspace zeros_like ones_like full_like empty_like tril_indices triu_indices
    preserve_format contiguous_format channels_last strided pi e inf nan""",
    dtypes: """dtype device finfo iinfo Size set_default_dtype get_default_dtype
    promote_types can_cast""",
    state: """no_grad enable_grad inference_mode set_grad_enabled is_grad_enabled
    is_inference_mode_enabled""",
    interchange: "from_numpy from_dlpack frombuffer",
    handle: "Tensor",
    printing: "set_printoptions",
    shapes: "broadcast_tensors",
    special: "polygamma",
}

_IN_PLACE = """abs acos acosh addmv arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan
atanh ceil clamp clamp_max clamp_min clip cos cosh deg2rad detach erf erfc exp exp2 expm1 fill fix
floor frac gcd index_put lcm ldexp log log10 log1p log2 logit nan_to_num neg negative rad2deg
reciprocal relu round rsqrt sigmoid sin sinc sinh sqrt square tan tanh trunc xlogy""".split()
"""Methods that are functions of the top level, too, under their names with ``_``."""
_METHODS_ONLY = """alias expand expand_as view_as reshape_as repeat to contiguous new
sum_to_size unfold""".split()

NAMES: dict[str, object] = with_traced({
    **{
        name: with_out(name, f)
        for name, f in elementwise.FUNCTIONS.items()
        if not name.startswith(("_", "special_")) and name not in _METHODS_ONLY
    },
    **{name: getattr(m, name) for m, names in _PUBLIC.items() for name in names.split()},
    **{
        name: f
        for m in (joining, order, analysis, indexing, products)
        for name, f in m.PLAIN.items()
    },
    **{f"{name}_": getattr(handle.Tensor, f"{name}_") for name in _IN_PLACE},
    **random.PUBLIC,
    **legacy.PUBLIC,
    **settings.PUBLIC,
    **dtypes.PUBLIC,
    "range": creation.range_,
    "special": special.namespace(),
    "linalg": linalg.namespace,
    "manual_seed": manual_seed,
    "initial_seed": initial_seed,
    "seed": seed,
})  # fmt: skip
"""What ``import symgrad as torch`` finds at the top level, by name."""

Tensor = handle.Tensor

__all__ = ["NAMES", "Tensor"]
