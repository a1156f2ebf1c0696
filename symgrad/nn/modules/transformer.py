"""The decoder of a transformer, and the whole of it: see ``attention`` for the encoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from symgrad.nn import functional as F
from symgrad.nn import init
from symgrad.nn.faces import FitError
from symgrad.nn.module import Module
from symgrad.nn.modules.attention import (
    MultiheadAttention,
    TransformerEncoder,
    TransformerEncoderLayer,
    activation_of,
)
from symgrad.nn.modules.containers import ModuleList
from symgrad.nn.modules.dropout import Dropout
from symgrad.nn.modules.linear import Linear
from symgrad.nn.modules.normalization import LayerNorm
from symgrad.tensors import NAMES, Tensor

Array = Any


class TransformerDecoderLayer(Module):
    """Self-attention, attention to the encoder's result, and two linear layers.

    Each has a shortcut and a layer norm, after it or with ``norm_first`` before what it goes
    around.
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: str | Callable[[Any], Any] = F.relu, layer_norm_eps: float = 1e-5,
        batch_first: bool = False, norm_first: bool = False, bias: bool = True,
        device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        for name in ("self_attn", "multihead_attn"):
            attention = MultiheadAttention(
                d_model, nhead, dropout, bias, batch_first=batch_first, dtype=dtype
            )
            setattr(self, name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, bias, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype)
        self.norm_first = norm_first
        for name in ("norm1", "norm2", "norm3"):
            setattr(self, name, LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype))
        for name in ("dropout1", "dropout2", "dropout3"):
            setattr(self, name, Dropout(dropout))
        self.activation = activation_of(activation)

    def forward(
        self, tgt: Array, memory: Array, tgt_mask: Array | None = None,
        memory_mask: Array | None = None, tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None, tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Array:  # fmt: skip
        """The shape of ``tgt``; masks as those of ``MultiheadAttention``."""

        def own(x: Array) -> Array:
            return self.dropout1(
                _attended(self.self_attn, x, x, tgt_mask, tgt_key_padding_mask, tgt_is_causal)
            )

        def others(x: Array) -> Array:
            masks = memory_mask, memory_key_padding_mask, memory_is_causal
            return self.dropout2(_attended(self.multihead_attn, x, memory, *masks))

        x = tgt
        parts = (own, self.norm1), (others, self.norm2), (self._transform, self.norm3)
        for part, norm in parts:
            x = x + part(norm(x)) if self.norm_first else norm(x + part(x))
        return x

    def _transform(self, x: Array) -> Array:
        return self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x)))))


def _attended(
    attention: MultiheadAttention, x: Array, memory: Array, mask: Array | None,
    padding: Array | None, causal: bool,
) -> Array:  # fmt: skip
    attended, _ = attention(
        x, memory, memory, key_padding_mask=padding, need_weights=False, attn_mask=mask,
        is_causal=causal,
    )  # fmt: skip
    return attended


class TransformerDecoder(Module):
    """Copies of a decoder layer, one after the other."""

    def __init__(
        self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None
    ) -> None:
        super().__init__()
        self.layers = ModuleList([copy.deepcopy(decoder_layer) for _ in range(num_layers)])
        self.num_layers, self.norm = num_layers, norm

    def forward(
        self, tgt: Array, memory: Array, tgt_mask: Array | None = None,
        memory_mask: Array | None = None, tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None, tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Array:  # fmt: skip
        """The shape of ``tgt``; the masks go to every layer."""
        for layer in self.layers:
            tgt = layer(
                tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask,
                bool(tgt_is_causal), memory_is_causal,
            )  # fmt: skip
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(Module):
    """An encoder and a decoder.  A. Vaswani et al., "Attention is all you need" (2017)."""

    def __init__(
        self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6,
        num_decoder_layers: int = 6, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: str | Callable[[Any], Any] = F.relu, custom_encoder: Any = None,
        custom_decoder: Any = None, layer_norm_eps: float = 1e-5, batch_first: bool = False,
        norm_first: bool = False, bias: bool = True, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        layer = (
            d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first,
            norm_first, bias, device, dtype,
        )  # fmt: skip

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)

        self.encoder = custom_encoder or TransformerEncoder(
            TransformerEncoderLayer(*layer), num_encoder_layers, norm()
        )
        self.decoder = custom_decoder or TransformerDecoder(
            TransformerDecoderLayer(*layer), num_decoder_layers, norm()
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                init.xavier_uniform_(parameter)
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

    def forward(
        self, src: Array, tgt: Array, src_mask: Array | None = None,
        tgt_mask: Array | None = None, memory_mask: Array | None = None,
        src_key_padding_mask: Array | None = None, tgt_key_padding_mask: Array | None = None,
        memory_key_padding_mask: Array | None = None, src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None, memory_is_causal: bool = False,
    ) -> Array:  # fmt: skip
        """The shape of ``tgt``: ``[T, N, d_model]``, or ``[N, T, d_model]`` with
        ``batch_first``."""
        batch = 0 if self.batch_first else 1
        if src.ndim == 3 and src.shape[batch] != tgt.shape[batch]:
            raise FitError("the batch number of src and tgt must be equal")
        if src.shape[-1] != self.d_model or tgt.shape[-1] != self.d_model:
            raise FitError("the feature number of src and tgt must be equal to d_model")
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(
            tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask,
            tgt_is_causal, memory_is_causal,
        )  # fmt: skip

    @staticmethod
    def generate_square_subsequent_mask(sz: int, device: Any = None, dtype: Any = None) -> Tensor:
        """``[sz, sz]`` with minus infinity above the diagonal: nobody sees what comes later."""
        names: dict[str, Any] = NAMES
        mask: Tensor = names["triu"](names["full"]((sz, sz), -math.inf, dtype=dtype), diagonal=1)
        return mask
