"""Tables of vectors looked up by number."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from symgrad.nn import functional as F
from symgrad.nn import init
from symgrad.nn.module import Module
from symgrad.nn.parameter import Parameter
from symgrad.tensors import Tensor

Array = Any
T = TypeVar("T", bound="_Table")


class _Table(Module):
    """A table of ``num_embeddings`` vectors, of which that of ``padding_idx`` is not trained."""

    _shown: ClassVar[tuple[str, ...]]
    """The options that ``repr`` shows unless they are the defaults."""

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None,
        max_norm: float | None, norm_type: float, scale_grad_by_freq: bool, sparse: bool,
        weight: Tensor | None, freeze: bool, dtype: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError("Padding_idx must be within num_embeddings")
            padding_idx %= num_embeddings
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx, self.max_norm, self.norm_type = padding_idx, max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        if weight is None:
            blank = Parameter.blank((num_embeddings, embedding_dim), dtype)
            self.weight = blank.requires_grad_(not freeze)
            self.reset_parameters()
        elif tuple(weight.shape) != (num_embeddings, embedding_dim):
            raise ValueError("Shape of weight does not match num_embeddings and embedding_dim")
        else:
            self.weight = Parameter(weight, requires_grad=not freeze)

    @classmethod
    def from_pretrained(
        cls: type[T], embeddings: Tensor, freeze: bool = True, *options: Any, **named: Any
    ) -> T:
        """A layer of a given table, not to be trained unless ``freeze`` is off."""
        if embeddings.ndim != 2:
            raise ValueError("Embeddings parameter is expected to be 2-dimensional")
        make: Any = cls
        layer: T = make(*embeddings.shape, *options, _weight=embeddings, **named)
        layer.weight.requires_grad = not freeze
        return layer

    def reset_parameters(self) -> None:
        """Draws the table anew, standard normal; the padding's row is zero."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            table = self.weight._array().copy()
            table[self.padding_idx] = 0
            self.weight._set_array(table)

    def extra_repr(self) -> str:
        """Sizes, and the options that are not the defaults."""
        given = {name: getattr(self, name) for name in self._shown}
        options = [f", {n}={v!r}" for n, v in given.items() if v != _DEFAULTS.get(n)]
        return f"{self.num_embeddings}, {self.embedding_dim}{''.join(options)}"


_DEFAULTS = {"norm_type": 2, "scale_grad_by_freq": False, "sparse": False}


class Embedding(_Table):
    """A table of vectors looked up by number; see ``functional.embedding``."""

    _shown = ("padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None,
        max_norm: float | None = None, norm_type: float = 2.0, scale_grad_by_freq: bool = False,
        sparse: bool = False, _weight: Tensor | None = None, _freeze: bool = False,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq,
            sparse, _weight, _freeze, dtype,
        )  # fmt: skip

    def forward(self, input: Array) -> Array:
        """``[...]`` to ``[..., embedding_dim]``."""
        return F.embedding(
            input, self.weight, self.padding_idx, self.max_norm, self.norm_type,
            self.scale_grad_by_freq, self.sparse,
        )  # fmt: skip


class EmbeddingBag(_Table):
    """Sums, means or maxima of bags of vectors; see ``functional.embedding_bag``."""

    _shown = ("max_norm", "norm_type", "scale_grad_by_freq", "mode", "padding_idx")

    def __init__(
        self, num_embeddings: int, embedding_dim: int, max_norm: float | None = None,
        norm_type: float = 2.0, scale_grad_by_freq: bool = False, mode: str = "mean",
        sparse: bool = False, _weight: Tensor | None = None, include_last_offset: bool = False,
        padding_idx: int | None = None, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq,
            sparse, _weight, False, dtype,
        )  # fmt: skip
        self.mode, self.include_last_offset = mode, include_last_offset

    def forward(
        self, input: Array, offsets: Array | None = None, per_sample_weights: Array | None = None
    ) -> Array:
        """``[B, L]``, or ``[L]`` with ``offsets[B]``, to ``[B, embedding_dim]``."""
        return F.embedding_bag(
            input, self.weight, offsets, self.max_norm, self.norm_type, self.scale_grad_by_freq,
            self.mode, self.sparse, per_sample_weights, self.include_last_offset, self.padding_idx,
        )  # fmt: skip
