"""Record modules with PyTorch: ``python tests/record/nn_modules.py`` (needs torch).

A case is the expression that makes a module, in terms of ``nn``, and the shapes of its inputs.
Parameters and inputs are ``references.module_values``; kept are the text, the state's names
and shapes, outputs, and gradients of all parameters and inputs, in float64, in
``tests/data/nn_modules.npz``, read by ``references.module_cases``.
"""

from __future__ import annotations

import sys
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

sys.path.insert(0, str(Path(__file__).parents[1]))
import references as R

IMAGE, LINE, ROWS, VOLUME = (2, 4, 6, 5), (2, 4, 7), (3, 5), (1, 2, 3, 4, 3)
NUMBERS, LABELS = {"integers": [[0, 5], [2, 2]]}, {"integers": [0, 4, 2]}
ENCODER = "nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0"
DECODER = "nn.TransformerDecoderLayer(4, 2, 6, dropout=0.0"
CASES: list[tuple[str, list[Any]]] = [
    *[(f"nn.{name}()", [ROWS]) for name in (
        "ReLU", "ReLU6", "Hardtanh", "LeakyReLU", "ELU", "CELU", "SELU", "GELU", "SiLU", "Mish",
        "Hardswish", "Hardsigmoid", "Softplus", "Softsign", "Tanh", "Tanhshrink", "Sigmoid",
        "LogSigmoid", "Hardshrink", "Softshrink", "PReLU", "Identity",
    )],
    ("nn.LeakyReLU(0.2)", [ROWS]), ("nn.ELU(alpha=0.5)", [ROWS]), ("nn.GELU('tanh')", [ROWS]),
    ("nn.Hardtanh(-0.5, 0.25)", [ROWS]), ("nn.Softplus(2, 1)", [ROWS]), ("nn.PReLU(5)", [ROWS]),
    ("nn.Threshold(0.1, 20)", [ROWS]), ("nn.GLU()", [(3, 6)]), ("nn.Softmax(dim=1)", [ROWS]),
    ("nn.Softmin(0)", [ROWS]), ("nn.LogSoftmax(dim=-1)", [ROWS]), ("nn.Hardshrink(0.25)", [ROWS]),
    ("nn.Linear(5, 3)", [ROWS]), ("nn.Linear(5, 3, bias=False)", [(2, 3, 5)]),
    ("nn.Bilinear(5, 2, 3)", [ROWS, (3, 2)]), ("nn.Embedding(6, 3)", [NUMBERS]),
    ("nn.Embedding(6, 3, padding_idx=2)", [NUMBERS]),
    ("nn.Conv1d(4, 6, 3, padding=1)", [LINE]), ("nn.Conv2d(4, 6, 3)", [IMAGE]),
    ("nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), bias=False)", [IMAGE]),
    ("nn.Conv2d(4, 4, 3, padding='same', groups=4, dilation=2)", [IMAGE]),
    ("nn.Conv2d(4, 2, 3, padding=1, padding_mode='reflect')", [IMAGE]),
    ("nn.Conv2d(4, 2, 3, padding=(2, 1), padding_mode='circular')", [IMAGE]),
    ("nn.Conv3d(2, 3, 2)", [(1, 2, 3, 4, 3)]),
    ("nn.ConvTranspose1d(4, 2, 3, stride=2)", [LINE]),
    ("nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2)", [(2, 4, 3, 2)]),
    ("nn.ConvTranspose3d(2, 3, 2)", [(1, 2, 2, 3, 2)]),
    ("nn.BatchNorm1d(5)", [ROWS]), ("nn.BatchNorm1d(4)", [LINE]), ("nn.BatchNorm2d(4)", [IMAGE]),
    ("nn.BatchNorm2d(4, eps=0.01, momentum=None)", [IMAGE]),
    ("nn.BatchNorm2d(4, affine=False)", [IMAGE]), ("nn.BatchNorm3d(2)", [(2, 2, 2, 3, 2)]),
    ("nn.BatchNorm2d(4, track_running_stats=False)", [IMAGE]),
    ("nn.BatchNorm2d(4).eval()", [IMAGE]), ("nn.LayerNorm(5)", [ROWS]),
    ("nn.LayerNorm((6, 5), eps=0.01, bias=False)", [IMAGE]),
    ("nn.LayerNorm(5, elementwise_affine=False)", [ROWS]), ("nn.RMSNorm(5)", [ROWS]),
    ("nn.RMSNorm([6, 5], eps=0.1)", [IMAGE]), ("nn.GroupNorm(2, 4)", [IMAGE]),
    ("nn.GroupNorm(4, 4, affine=False)", [LINE]), ("nn.InstanceNorm1d(4)", [LINE]),
    ("nn.InstanceNorm2d(4, affine=True)", [IMAGE]),
    ("nn.Dropout(0.25).eval()", [ROWS]), ("nn.Dropout2d().eval()", [IMAGE]),
    ("nn.MaxPool1d(2)", [LINE]), ("nn.MaxPool2d(3, 2, padding=1)", [IMAGE]),
    ("nn.MaxPool2d((2, 3), ceil_mode=True)", [IMAGE]), ("nn.AvgPool1d(3, 2)", [LINE]),
    ("nn.AvgPool2d(2, padding=1, count_include_pad=False)", [IMAGE]),
    ("nn.AdaptiveAvgPool1d(3)", [LINE]), ("nn.AdaptiveAvgPool2d((3, None))", [IMAGE]),
    ("nn.AdaptiveAvgPool2d(1)", [IMAGE]), ("nn.AdaptiveMaxPool2d(2)", [IMAGE]),
    ("nn.AdaptiveMaxPool1d(3)", [LINE]), ("nn.Flatten()", [IMAGE]), ("nn.Flatten(2, 3)", [IMAGE]),
    ("nn.Unflatten(1, (2, 2))", [IMAGE]), ("nn.Upsample(scale_factor=2)", [IMAGE]),
    ("nn.Upsample((9, 7), mode='bilinear')", [IMAGE]), ("nn.PixelShuffle(2)", [IMAGE]),
    ("nn.ZeroPad2d((1, 2, 0, 3))", [IMAGE]), ("nn.ZeroPad2d(1)", [IMAGE]),
    ("nn.ReflectionPad2d(2)", [IMAGE]), ("nn.ReplicationPad2d(1)", [IMAGE]),
    ("nn.ConstantPad1d(2, 3.5)", [LINE]), ("nn.CosineSimilarity()", [ROWS, ROWS]),
    ("nn.PairwiseDistance(1.0)", [ROWS, ROWS]), ("nn.MSELoss()", [ROWS, ROWS]),
    ("nn.CrossEntropyLoss(label_smoothing=0.1)", [ROWS, LABELS]),
    ("nn.NLLLoss(reduction='sum')", [ROWS, LABELS]), ("nn.SmoothL1Loss(beta=0.5)", [ROWS, ROWS]),
    ("nn.HuberLoss()", [ROWS, ROWS]), ("nn.L1Loss(reduction='none')", [ROWS, ROWS]),
    ("nn.BCEWithLogitsLoss()", [ROWS, ROWS]), ("nn.KLDivLoss(log_target=True)", [ROWS, ROWS]),
    ("nn.TripletMarginLoss(swap=True)", [ROWS, ROWS, ROWS]),
    ("nn.PoissonNLLLoss()", [ROWS, ROWS]),
    ("nn.Sequential()", []), ("nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))", [ROWS]),
    ("nn.Sequential(OrderedDict(a=nn.Linear(5, 3), b=nn.Sequential(nn.Tanh())))", [ROWS]),
    ("nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))[:2]", [ROWS]),
    ("nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU()])", []), ("nn.ModuleList()", []),
    ("nn.ModuleDict({'a': nn.ReLU(), 'b': nn.ModuleList([nn.Sequential(nn.Tanh())] * 2)})", []),
    ("nn.MultiheadAttention(6, 2)", [(5, 2, 6), (4, 2, 6), (4, 2, 6)]),
    ("nn.MultiheadAttention(6, 3, batch_first=True, bias=False)",
     [(2, 5, 6), (2, 4, 6), (2, 4, 6)]),
    ("nn.MultiheadAttention(6, 3)", [(5, 6), (4, 6), (4, 6)]),
    ("nn.MultiheadAttention(6, 2, kdim=3, vdim=5)", [(5, 2, 6), (4, 2, 3), (4, 2, 5)]),
    ("nn.MultiheadAttention(6, 2, add_bias_kv=True, add_zero_attn=True)",
     [(5, 2, 6), (4, 2, 6), (4, 2, 6)]),
    (f"{ENCODER})", [(5, 2, 4)]),
    (f"{ENCODER}, activation='gelu', batch_first=True, norm_first=True)", [(2, 5, 4)]),
    (f"{ENCODER}, bias=False)", [(5, 2, 4)]),
    (f"nn.TransformerEncoder({ENCODER}), 2, nn.LayerNorm(4))", [(5, 2, 4)]),
    (f"{DECODER})", [(5, 2, 4), (3, 2, 4)]),
    (f"{DECODER}, activation='gelu', batch_first=True, norm_first=True, bias=False)",
     [(2, 5, 4), (2, 3, 4)]),
    (f"nn.TransformerDecoder({DECODER}), 2)", [(5, 2, 4), (3, 2, 4)]),
    ("nn.Transformer(4, 2, 1, 1, 6, 0.0, batch_first=True)", [(2, 5, 4), (2, 3, 4)]),
    ("nn.RNN(3, 4)", [(5, 2, 3)]), ("nn.RNN(3, 4, 2, 'relu', bidirectional=True)", [(5, 2, 3)]),
    ("nn.RNN(3, 4, bias=False, batch_first=True)", [(2, 5, 3), (1, 2, 4)]),
    ("nn.GRU(3, 4)", [(5, 2, 3)]), ("nn.GRU(3, 4, 2, bidirectional=True)", [(5, 2, 3), (4, 2, 4)]),
    ("nn.GRU(3, 1, bias=False)", [(5, 3)]), ("nn.LSTM(3, 4)", [(5, 2, 3)]),
    ("nn.LSTM(3, 4, 3, batch_first=True, bidirectional=True)", [(2, 1, 3)]),
    ("nn.LSTM(3, 4, 2, bias=False, proj_size=2)", [(5, 2, 3)]),
    ("nn.LSTM(3, 4, 2, dropout=0.5, bidirectional=True, proj_size=3).eval()", [(5, 3)]),
    ("nn.RNNCell(3, 4)", [(2, 3)]), ("nn.RNNCell(3, 4, False, 'relu')", [(2, 3), (2, 4)]),
    ("nn.GRUCell(3, 4)", [(2, 3), (2, 4)]), ("nn.GRUCell(3, 4, bias=False)", [(3,)]),
    ("nn.LSTMCell(3, 4)", [(2, 3)]), ("nn.LSTMCell(3, 4, bias=False)", [(3,)]),
    ("nn.RReLU().eval()", [ROWS]), ("nn.Softmax2d()", [IMAGE]),
    ("nn.EmbeddingBag(6, 3, mode='sum', padding_idx=2)", [NUMBERS]),
    ("nn.EmbeddingBag(6, 3, scale_grad_by_freq=True)", []),
    ("nn.Embedding(6, 3, max_norm=2.0, norm_type=1, sparse=True)", []),
    ("nn.Unfold((2, 3), padding=1)", [IMAGE]), ("nn.Fold((4, 5), (2, 1))", [(2, 4, 15)]),
    ("nn.PixelUnshuffle(2)", [(2, 3, 4, 6)]), ("nn.ChannelShuffle(2)", [IMAGE]),
    ("nn.CircularPad1d(2)", [LINE]), ("nn.CircularPad3d(1)", [VOLUME]),
    ("nn.ConstantPad3d(1, 2.5)", [VOLUME]), ("nn.ZeroPad3d((1, 0, 0, 2, 1, 1))", [VOLUME]),
    ("nn.ReflectionPad3d(1)", [VOLUME]), ("nn.ReplicationPad3d(1)", [VOLUME]),
    ("nn.UpsamplingNearest2d(scale_factor=2)", [IMAGE]), ("nn.UpsamplingBilinear2d(7)", [IMAGE]),
    ("nn.Upsample(scale_factor=1.5, mode='bicubic')", [IMAGE]),
    ("nn.AdaptiveAvgPool3d((2, 3, None))", [VOLUME]), ("nn.AdaptiveMaxPool3d(2)", [VOLUME]),
    ("nn.AdaptiveMaxPool2d(2, return_indices=True)", []), ("nn.LPPool1d(2, 3)", [LINE]),
    ("nn.LPPool2d(2, (3, 2), stride=1)", [IMAGE]), ("nn.LPPool3d(2, 2)", [VOLUME]),
    ("nn.MaxPool2d(2, return_indices=True)", []), ("nn.MaxUnpool1d(2)", []),
    ("nn.MaxUnpool2d((2, 3), stride=2)", []), ("nn.MaxUnpool3d(3, 2, 1)", []),
    ("nn.LocalResponseNorm(3)", [IMAGE]),
    ("nn.InstanceNorm2d(4, track_running_stats=True)", [IMAGE]),
    ("nn.InstanceNorm1d(4, affine=True, track_running_stats=True).eval()", [LINE]),
    ("nn.FeatureAlphaDropout().eval()", [IMAGE]), ("nn.CTCLoss(zero_infinity=True)", []),
    ("nn.MultiMarginLoss(margin=0.5)", [ROWS, LABELS]), ("nn.MultiLabelSoftMarginLoss()", []),
    ("nn.MultiLabelMarginLoss()", [ROWS, {"integers": [[0, 3, -1, 1, 2]] * 3}]),
    ("nn.TripletMarginWithDistanceLoss(swap=True)", [ROWS, ROWS, ROWS]),
    *[(f"nn.Lazy{name}", []) for name in (
        "Linear(3)", "Conv1d(4, 3)", "Conv2d(4, 3, groups=2)", "Conv3d(4, 3)",
        "ConvTranspose1d(4, 3)", "ConvTranspose2d(4, 3)", "ConvTranspose3d(4, 3)",
        "BatchNorm1d()", "BatchNorm2d()", "BatchNorm3d()", "InstanceNorm1d()",
        "InstanceNorm2d()", "InstanceNorm3d()",
    )],
]  # fmt: skip


def record(expression: str, shapes: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is told about a module, and its arrays."""
    module = eval(expression, {"nn": nn, "OrderedDict": OrderedDict}).double()
    about = {"shapes": shapes, "repr": repr(module)}
    about["state"] = [
        (k, None if is_lazy(v) else list(v.shape)) for k, v in module.state_dict().items()
    ]
    arrays: dict[str, Any] = {}
    if not shapes:
        return about, arrays
    state, inputs = R.module_values(expression, about["state"], shapes)
    module.load_state_dict({k: torch.tensor(v) for k, v in state.items()})
    given = [torch.tensor(x) for x in inputs]
    for x in given:
        x.requires_grad_(x.is_floating_point())
    outputs = R.module_outputs(module(*given))
    for number, output in enumerate(outputs):
        arrays[f"output{number}"] = output.detach().numpy()
    loss = sum((y * torch.tensor(R.module_cotangent(tuple(y.shape)))).sum() for y in outputs)
    loss.backward()
    arrays |= {f"input{i}": x.grad.numpy() for i, x in enumerate(given) if x.grad is not None}
    arrays |= {f"gradients.{k}": p.grad.numpy() for k, p in module.named_parameters()}
    arrays |= {f"buffers.{k}": b.numpy() for k, b in module.named_buffers()}
    return about, {k: np.array(v) for k, v in arrays.items()}


def main() -> None:
    warnings.simplefilter("ignore")
    index: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for expression, shapes in CASES:
        index[expression], recorded = record(expression, shapes)
        arrays |= {f"{expression}/{k}": v for k, v in recorded.items()}
    path = R.DATA / "nn_modules.npz"
    R.write_record(path, index, arrays)
    print(f"{len(index)} modules, {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
