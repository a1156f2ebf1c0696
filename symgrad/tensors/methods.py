"""Methods and operators of ``Tensor``, made from the tables of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from symgrad.absent import MissingError
from symgrad.randomness import drawing
from symgrad.tensors import (  # noqa: F401  (all enter their functions)
    analysis,
    arithmetic,
    creation,
    dtypes,
    joining,
    layout,
    linalg,
    order,
    parts,
    products,
    random,
    reductions,
    scatter,
    shapes,
    special,
)
from symgrad.tensors.apply import write
from symgrad.tensors.elementwise import FUNCTIONS, is_number
from symgrad.tensors.engine import backward_from
from symgrad.tensors.forgotten import Hinting
from symgrad.tensors.handle import Tensor
from symgrad.tensors.indexing import getitem, setitem
from symgrad.tensors.interchange import numpy, shared_array, to_dlpack
from symgrad.tensors.nodes import Node, Saved, each, make_node, storage_version
from symgrad.tensors.standing import written
from symgrad.tensors.state import is_grad_enabled, set_grad_enabled
from symgrad.tensors.traced import takes_traced

_INPLACE = """add sub mul div pow remainder fmod floor_divide clamp clip clamp_min clamp_max exp
exp2 expm1 log log2 log10 log1p sqrt rsqrt neg negative abs absolute sin cos tan asin acos atan sinh
cosh tanh asinh acosh atanh arcsin arccos arctan arcsinh arccosh arctanh sigmoid relu round floor
ceil trunc fix frac sign sgn square reciprocal erf erfc erfinv lgamma digamma logit sinc deg2rad
rad2deg nan_to_num multiply subtract divide true_divide atan2 arctan2 hypot copysign heaviside
xlogy lerp addcmul addcdiv addmm addmv addr addbmm baddbmm renorm masked_fill masked_scatter
tril triu index_add index_copy index_fill index_put put scatter scatter_add
scatter_reduce bitwise_and bitwise_or bitwise_xor bitwise_not bitwise_left_shift
bitwise_right_shift gcd lcm ldexp float_power""".split()
"""Functions whose name with ``_`` writes the result into the tensor."""
_CONVERTED = """eq ne lt le gt ge greater greater_equal less less_equal not_equal logical_and
logical_or logical_xor logical_not""".split()
"""The same, with the result converted to the tensor's type whatever it is."""
_FUNCTIONS_ONLY = """alias atleast_1d atleast_2d atleast_3d cat celu concat concatenate prelu rsub
selu stack std_mean threshold var_mean""".split()
_ALIASES = {"greater": "gt", "greater_equal": "ge", "less": "lt", "less_equal": "le",
            "not_equal": "ne"}  # fmt: skip
_REARRANGED = "t transpose swapaxes swapdims unsqueeze squeeze".split()
"""Views that the tensor itself turns into."""


_OWN_NODES = {
    "AcoshBackward0": "AcoshBackward1", "AsinhBackward0": "AsinhBackward1",
    "AtanhBackward0": "AtanhBackward1",
    "PolygammaBackward0": "PolygammaBackward1", "TBackward0": "TBackward1",
    "TransposeBackward0": "TransposeBackward1", "UnsqueezeBackward0": "UnsqueezeBackward1",
    "SqueezeBackward0": "SqueezeBackward3", "SqueezeBackward1": "SqueezeBackward4",
    "SqueezeBackward2": "SqueezeBackward5", "CeluBackward0": "CeluBackward1",
    "EluBackward0": "EluBackward1", "LeakyReluBackward0": "LeakyReluBackward1",
    "RreluWithNoiseBackward0": "RreluWithNoiseBackward1",
    "ThresholdBackward0": "ThresholdBackward1",
}  # fmt: skip
"""Nodes of in-place operations that are numbered otherwise."""


def in_place_node(node: Node) -> Node:
    """The node of an operation whose result is written into its operand."""
    other = _OWN_NODES.get(node.name())
    return node if other is None else make_node(other, node.parents, saves=node.saves)


def in_place(target: Tensor, result: Tensor, name: str = "") -> Tensor:
    """Ends an in-place operation: the result must be of a kind the tensor can hold."""
    if not dtypes.can_cast(result.dtype, target.dtype):
        raise RuntimeError(
            f"result type {result.dtype.scalar_name} can't be cast to the desired output type "
            f"{target.dtype.scalar_name}"
        )
    node, new = result._node, result.to(target.dtype)
    if new._node is not None:
        new._node = in_place_node(new._node)
    write(target, new, name)
    if node is not None and node.saved:
        node.saved = _kept(node.saved, target, result)
    return target


def _kept(saved: Saved, target: Tensor, result: Tensor) -> Saved:
    """What a derivative still reads when ``result`` has been written into ``target``."""
    kept: list[Any] = []
    for tracer, version, kind in each(saved):
        if tracer is result._tracer:  # the result is now the tensor itself
            kept += target._tracer, storage_version(target._tracer), kind
        elif tracer is not target._tracer:  # what is replaced it reads as it was: torch copies it
            kept += tracer, version, kind
    return tuple(kept)


def _inplace(name: str) -> Callable[..., Tensor]:
    function = FUNCTIONS[name]

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        others = [x for x in args if isinstance(x, Tensor)]
        self._check_writable(any(x.requires_grad for x in others))
        return in_place(self, function(self, *args, **kwargs))

    method.__name__ = f"{name}_"
    method.__doc__ = f"``{name}``, written into the tensor."
    return method


def _converted(name: str) -> Callable[..., Tensor]:
    function = FUNCTIONS[name]

    def method(self: Tensor, *args: Any) -> Tensor:
        self._check_writable(False)
        label = f"{name.title()}Backward1"
        return write(self, function(self, *args).to(self.dtype), label if len(name) == 2 else "")

    method.__name__ = f"{name}_"
    method.__doc__ = f"``{name}``, written into the tensor in its own type."
    return method


def _running(name: str) -> Callable[..., Tensor]:
    function = FUNCTIONS[name]

    def method(self: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
        self._check_writable(False)
        return in_place(self, function(self, dim, dtype=self.dtype))

    method.__name__ = f"{name}_"
    method.__doc__ = f"``{name}``, written into the tensor."
    return method


def _rearranged(name: str) -> Callable[..., Tensor]:
    function = FUNCTIONS[name]

    def method(self: Tensor, *args: Any) -> Tensor:
        self._check_leaf()
        with set_grad_enabled(is_grad_enabled() or self._node is not None):  # no new contents
            new = function(self, *args)
        self._tracer, self._layout, self._node = new._tracer, new._layout, new._node
        self._base, self._seen = None if new._base is self else new._base, new._seen
        written()
        if new._node is not None:
            name = _OWN_NODES.get(new._node.name(), new._node.name())
            self._node = make_node(name, new._node.parents)
        return self

    method.__name__ = f"{name}_"
    method.__doc__ = f"``{name}``, as which the tensor itself shows its memory from now on."
    return method


def _operator(name: str, *, swap: bool = False) -> Callable[[Any, Any], Any]:
    function = FUNCTIONS[name]

    def operate(self: Tensor, other: Any) -> Any:
        if not (isinstance(other, (Tensor, np.ndarray)) or is_number(other)):
            return NotImplemented
        return function(other, self) if swap else function(self, other)

    return operate


def _fill(self: Tensor, value: Any) -> Tensor:
    """Writes one number everywhere."""
    return write(self, _filled(self, value), f"FillBackward{2 + isinstance(value, Tensor)}")


def _filled(self: Tensor, value: Any) -> Tensor:
    self._check_writable(isinstance(value, Tensor) and value.requires_grad)
    if isinstance(value, Tensor):
        if value.ndim:
            raise RuntimeError(
                "fill_ only supports 0-dimension value tensor but got tensor with "
                f"{value.ndim} dimensions."
            )
        return shapes.expand(value.to(self.dtype), tuple(self.shape))
    return creation.full_like(self, value)  # type: ignore[no-any-return]


def _zero(self: Tensor) -> Tensor:
    """Writes zeros."""
    self._check_writable(False)
    return write(self, creation.zeros_like(self), "ZeroBackward0")


def _copy(self: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    """Writes the elements of another tensor, converted and broadcast."""
    self._check_writable(src.requires_grad)
    return write(self, shapes.expand(src.to(self.dtype), tuple(self.shape)), "CopyBackwards")


def _random(draw: Callable[..., Any]) -> Callable[..., Tensor]:
    def method(self: Tensor, *args: Any, generator: Any = None, **kwargs: Any) -> Tensor:
        self._check_writable(False)
        with drawing(generator) as source:
            drawn = np.asarray(draw(source, self, *args, **kwargs)).astype(self._dtype)
        return write(self, Tensor.of_array(drawn))

    return method


def _fill_diagonal(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Writes one number along the main diagonal."""
    places = np.arange(min(self.shape))
    self[(places,) * self.ndim] = fill_value
    return self


def _resize(self: Tensor, *sizes: Any) -> Tensor:
    """Gives the tensor another shape: its first elements, then zeros."""
    if self.requires_grad:
        raise RuntimeError("cannot resize variables that require grad")
    shape = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    old, count = self._array().reshape(-1), int(np.prod(shape))
    new = np.zeros(count, self._dtype)
    new[: old.size] = old[:count]
    plain = Tensor.of_array(new.reshape(tuple(shape)))
    self._tracer, self._layout = plain._tracer, None
    written()
    return self


def _rsub(self: Tensor, other: Any) -> Any:
    known = isinstance(other, (Tensor, np.ndarray)) or is_number(other)
    return FUNCTIONS["rsub"](self, other) if known else NotImplemented


def _rdiv(self: Tensor, other: Any) -> Any:
    if is_number(other):
        return FUNCTIONS["mul"](FUNCTIONS["reciprocal"](self), other)  # as torch does
    return (
        FUNCTIONS["div"](other, self) if isinstance(other, (Tensor, np.ndarray)) else NotImplemented
    )


def _comparison(name: str, otherwise: Any) -> Callable[[Tensor, Any], Any]:
    function = FUNCTIONS[name]

    def compare(self: Tensor, other: Any) -> Any:
        known = isinstance(other, (Tensor, np.ndarray)) or is_number(other)
        return function(self, other) if known else otherwise

    return compare


_OPERATORS = {
    "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "pow": "pow", "mod": "remainder",
    "floordiv": "floor_divide", "matmul": "matmul", "and": "bitwise_and", "or": "bitwise_or",
    "xor": "bitwise_xor", "lshift": "bitwise_left_shift", "rshift": "bitwise_right_shift",
}  # fmt: skip

for _special, _name in _OPERATORS.items():
    setattr(Tensor, f"__{_special}__", _operator(_name))
    setattr(Tensor, f"__r{_special}__", _operator(_name, swap=True))
    if _name != "matmul":
        setattr(Tensor, f"__i{_special}__", _inplace(_name))
for _name in ("lt", "le", "gt", "ge"):
    setattr(Tensor, f"__{_name}__", _operator(_name))


def _detached(self: Tensor) -> Tensor:
    """Takes the tensor itself out of the graph."""
    if self._base is not None:
        raise RuntimeError("Can't detach views in-place. Use detach() instead.")
    plain = self.detach()
    self._tracer, self._node, self._requires_grad = plain._tracer, None, False
    written()
    self._base = None
    return self


def _contains(self: Tensor, element: Any) -> bool:
    return bool((self == element)._array().any())


def _new(maker: Callable[..., Any]) -> Callable[..., Tensor]:
    def new(self: Tensor, *args: Any, dtype: Any = None, **named: Any) -> Tensor:
        made: Tensor = maker(*args, dtype=dtype or self.dtype, **named)
        return made

    new.__doc__ = f"As ``torch.{maker.__name__}``, with the type of this tensor."
    return new


def _new_tensor(self: Tensor, data: Any, *, dtype: Any = None, **named: Any) -> Tensor:
    """As ``torch.tensor``, with the type of this tensor."""
    return creation.tensor(data, dtype=dtype or self.dtype, **named)


_METHODS: dict[str, Any] = {
    **{
        name: function
        for name, function in FUNCTIONS.items()
        if not name.startswith(("_", "special_")) and name not in _FUNCTIONS_ONLY
    },
    **{name[1:]: FUNCTIONS[name] for name in FUNCTIONS if name.startswith("_")},
    **{f"{name}_": _inplace(name) for name in (*_INPLACE, "_polygamma")},
    **{f"{name}_": _converted(_ALIASES.get(name, name)) for name in _CONVERTED},
    **{f"{name}_": _running(name) for name in ("cumsum", "cumprod")},
    **{f"{name}_": _rearranged(name) for name in _REARRANGED},
    **{name: _random(draw) for name, draw in random.IN_PLACE.items()},
    **{
        f"new_{f.__name__}": _new(f)
        for f in (creation.zeros, creation.ones, creation.empty, creation.full)
    },
    "__rsub__": _rsub,
    "__rtruediv__": _rdiv,
    "__neg__": FUNCTIONS["neg"],
    "__pos__": FUNCTIONS["positive"],
    "__abs__": FUNCTIONS["abs"],
    "__invert__": FUNCTIONS["bitwise_not"],
    "__eq__": _comparison("eq", False),
    "__ne__": _comparison("ne", True),
    "__getitem__": getitem,
    "__setitem__": setitem,
    "__contains__": _contains,
    "__reversed__": lambda self: joining.flip(self, 0) if self.ndim else self,
    "backward": backward_from,
    "numpy": numpy,
    "__dlpack__": to_dlpack,
    "fill_": _fill,
    "zero_": _zero,
    "copy_": _copy,
    "fill_diagonal_": _fill_diagonal,
    "resize_": _resize,
    "detach_": _detached,
    "bernoulli": random.bernoulli,
    "multinomial": random.multinomial,
    "new_tensor": _new_tensor,
    "new": _new(creation.empty),
    "stride": layout.stride,
    "storage_offset": layout.storage_offset,
    "is_contiguous": layout.is_contiguous,
    "nelement": Tensor.numel,
    "ndimension": Tensor.dim,
    "where": lambda self, condition, other: FUNCTIONS["where"](condition, self, other),
    "is_floating_point": lambda self: self.dtype.is_floating_point,
    "is_complex": lambda self: self.dtype.is_complex,
    "is_signed": lambda self: self.dtype.is_signed,
    "is_inference": lambda self: False,
    "is_same_size": lambda self, other: self.shape == other.shape,
    "is_set_to": lambda self, other: self._tracer is other._tracer,
    "is_nonzero": Tensor.__bool__,
    "is_conj": lambda self: False,
    "is_neg": lambda self: False,
    "is_pinned": lambda self: False,
    "resolve_conj": lambda self: self,
    "resolve_neg": lambda self: self,
    "conj": lambda self: self,
    "element_size": lambda self: self.dtype.itemsize,
    "get_device": lambda self: -1,
    "data_ptr": lambda self: shared_array(self.detach()).ctypes.data,
    "dim_order": lambda self: tuple(range(self.ndim)),
    "cpu": lambda self, memory_format=None: self,
    "pin_memory": lambda self: self,
    "type_as": lambda self, other: self.to(other.dtype),
    "polygamma_": _inplace("_polygamma"),
}
del _METHODS["_polygamma_"]

_SUMMARIES = "sum mean prod max min amax amin median norm std var".split()
"""Methods that losses end with: a forgotten pair of parentheses gets a hint."""

for _name, _method in _METHODS.items():
    if _name in _SUMMARIES:
        _method = Hinting(_method)
    elif not _name.startswith("__"):
        _method = takes_traced(_method)
    setattr(Tensor, _name, _method)


def _transposed(self: Tensor) -> Tensor:
    """The axes reversed."""
    return shapes.permute(self, tuple(reversed(range(self.ndim))))


def _missing(self: Tensor, name: str) -> Any:
    raise MissingError(f"'{type(self).__name__}' object", name, lambda: dir(self))


Tensor.__getattr__ = _missing  # type: ignore[method-assign]

_PROPERTIES: dict[str, Any] = {
    "T": _transposed,
    "mT": lambda self: shapes.transpose(self, -2, -1),
    "H": lambda self: shapes.transpose(self, -2, -1) if self.ndim else self,
    "mH": lambda self: shapes.transpose(self, -2, -1),
    "real": lambda self: self,
    "nbytes": lambda self: self.numel() * self.dtype.itemsize,
    "itemsize": lambda self: self.dtype.itemsize,
    "layout": lambda self: creation.strided,
    "is_cpu": lambda self: True,
    "is_cuda": lambda self: False,
    "is_meta": lambda self: False,
    "is_mps": lambda self: False,
    "is_nested": lambda self: False,
    "is_sparse": lambda self: False,
    "is_quantized": lambda self: False,
    "output_nr": lambda self: 0,
}
for _name, _getter in _PROPERTIES.items():
    setattr(Tensor, _name, property(_getter))
