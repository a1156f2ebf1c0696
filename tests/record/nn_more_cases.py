"""Calls to record of functions that fewer networks use: patches, grids, bags, sequences."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import references as R
import torch.nn.functional as F
from nn_case import Array, Case, few_bits, spell
from torch import from_numpy


def patches() -> Iterator[Case]:
    for options, blocks in [
        ({"kernel_size": 2}, 42), ({"kernel_size": (3, 2), "padding": (1, 0)}, 49),
        ({"kernel_size": (3, 2), "dilation": (1, 2), "padding": (1, 0), "stride": (2, 1)}, 24),
        ({"kernel_size": (2, 3), "stride": (2, 3)}, 6), ({"kernel_size": 3, "stride": 4}, 4),
    ]:  # fmt: skip
        yield Case("unfold", spell(options), {"input": (2, 3, 7, 8)}, options)
        rows = 3 * int(np.prod(np.broadcast_to(options["kernel_size"], 2)))
        yield Case("fold", spell(options), {"input": (2, rows, blocks)},
                   {"output_size": (7, 8), **options})  # fmt: skip
    yield Case("unfold", "unbatched", {"input": (3, 4, 5)}, {"kernel_size": 2})
    yield Case("fold", "unbatched", {"input": (4, 6)}, {"output_size": (3, 4), "kernel_size": 2})
    yield Case("pixel_unshuffle", "2", {"input": (2, 3, 4, 6)}, {"downscale_factor": 2})
    yield Case("channel_shuffle", "3", {"input": (2, 6, 3, 5)}, {"groups": 3})


def grids() -> Iterator[Case]:
    for align in (False, True):
        for size in ((2, 3, 5, 4), (2, 3, 5, 1, 4)):
            rank = len(size) - 2
            attrs = {"size": size, "align_corners": align}
            yield Case("affine_grid", spell(attrs), {"theta": (2, rank, rank + 1)}, attrs)
        for mode, padding in itertools.product(
            ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")
        ):
            attrs = {"mode": mode, "padding_mode": padding, "align_corners": align}
            grid = few_bits(R.draw(f"grid {attrs}", (2, 3, 4, 2), -1.6, 1.6))
            yield Case("grid_sample", spell(attrs), {"input": (2, 3, 5, 4), "grid": grid}, attrs)
        attrs = {"align_corners": align}
        grid = few_bits(R.draw(f"grid {attrs}", (1, 2, 1, 3, 3), -1.6, 1.6))
        inputs = {"input": (1, 2, 3, 4, 2), "grid": grid}
        yield Case("grid_sample", f"{spell(attrs)}-volume", inputs, attrs)
    for options in [
        {"size": (7, 3), "mode": "bicubic"}, {"scale_factor": 1.7, "mode": "bicubic"},
        {"size": (7, 3), "mode": "bicubic", "align_corners": True},
        {"size": (3, 2), "mode": "bilinear", "antialias": True},
        {"size": (3, 7), "mode": "bicubic", "antialias": True},
        {"scale_factor": 0.6, "mode": "area"}, {"size": (3, 7), "mode": "nearest-exact"},
        {"scale_factor": 1.3, "mode": "bilinear", "recompute_scale_factor": True},
    ]:  # fmt: skip
        yield Case("interpolate", spell(options), {"input": (2, 3, 5, 4)}, options)


def pools() -> Iterator[Case]:
    volume = (2, 2, 5, 4, 6)
    for size in (1, (2, 3, 4), (5, 2, 3), (None, 2, 1)):
        for op in ("adaptive_avg_pool3d", "adaptive_max_pool3d"):
            yield Case(op, spell({"size": size}), {"input": volume}, {"output_size": size})
    ties = {"input": np.zeros((1, 2, 5, 7))}  # the first of a window takes it all
    yield Case("adaptive_max_pool2d", "ties", ties, {"output_size": (2, 3)})
    for rank, shape in ((1, (2, 3, 8)), (2, (2, 3, 8, 6)), (3, (1, 2, 4, 6, 4))):
        x = few_bits(R.draw(f"unpool {rank}", shape))
        _, indices = getattr(F, f"max_pool{rank}d")(from_numpy(x), 2, return_indices=True)
        inputs = {"input": tuple(indices.shape), "indices": indices.numpy()}
        yield Case(f"max_unpool{rank}d", "even", inputs, {"kernel_size": 2})
        positive = {"input": few_bits(R.draw(f"positive {rank}", shape, 0.1, 2))}
        for power in (2.0, 1.0, 3.0, 2.5):
            attrs = {"norm_type": power, "kernel_size": 3, "stride": 2, "ceil_mode": True}
            yield Case(f"lp_pool{rank}d", spell(attrs), positive, attrs)
    x = few_bits(R.draw("unpool to odd", (1, 2, 7, 5)))
    _, indices = F.max_pool2d(from_numpy(x), 2, return_indices=True)
    inputs = {"input": tuple(indices.shape), "indices": indices.numpy()}
    yield Case("max_unpool2d", "odd", inputs, {"kernel_size": 2, "output_size": (7, 5)})
    for shape, size in (((2, 7, 5), 2), ((2, 7, 3, 4), 3), ((1, 5, 2, 3, 2), 5)):
        attrs = {"size": size, "alpha": 0.1}
        yield Case("local_response_norm", spell({"shape": shape}), {"input": shape}, attrs)
    running = {"running_mean": (3,), "running_var": (3,)}
    for use in (False, True):
        inputs = {"input": (2, 3, 4, 5), **running, "weight": (3,), "bias": (3,)}
        attrs = {"use_input_stats": use, "momentum": 0.3}
        yield Case("instance_norm", spell(attrs), inputs, attrs)


def bags() -> Iterator[Case]:
    line, rows = np.array([0, 2, 2, 6, 5, 2, 1]), np.array([[0, 2, 2], [6, 5, 2]])
    for mode, padding in itertools.product(("sum", "mean", "max"), (None, 2, -1)):
        attrs = {"mode": mode, "padding_idx": padding}
        alike = {"input": rows, "weight": (7, 3)}
        yield Case("embedding_bag", f"{spell(attrs)}-rows", alike, attrs)
        for number, starts in enumerate(([0, 2, 2, 5], [0, 0, 7])):
            inputs = {"input": line, "weight": (7, 3), "offsets": np.array(starts)}
            attrs = {**attrs, "include_last_offset": bool(number)}
            yield Case("embedding_bag", spell(attrs), inputs, attrs)
    inputs = {"input": line, "weight": (7, 3), "offsets": np.array([0, 3])}
    factors = {"per_sample_weights": (7,)}
    yield Case("embedding_bag", "factors", inputs | factors, {"mode": "sum"})
    inputs = {"input": rows, "weight": (7, 3)}
    yield Case("embedding", "by frequency", inputs, {"scale_grad_by_freq": True})


def sequences() -> Iterator[Case]:
    targets = np.array([[1, 2, 2], [3, 1, 1], [2, 1, 3]])
    for reduction, (name, inputs, labels) in itertools.product(
        ("mean", "sum", "none"),
        [("whole", (9, 9, 9), (3, 3, 3)), ("parts", (9, 7, 8), (3, 2, 0))],
    ):
        attrs = {"input_lengths": inputs, "target_lengths": labels, "reduction": reduction}
        given = {"log_probs": log_odds((9, 3, 4)), "targets": targets}
        yield Case("ctc_loss", f"{name}-{reduction}", given, attrs)
        flat = np.concatenate([t[:n] for t, n in zip(targets, labels, strict=True)])
        yield Case("ctc_loss", f"{name}-{reduction}-flat", {**given, "targets": flat}, attrs)
    attrs = {"input_lengths": (9, 9, 2), "target_lengths": (3, 3, 3), "blank": 3,
             "zero_infinity": True}  # fmt: skip
    given = {"log_probs": log_odds((9, 3, 4)), "targets": targets % 3}
    yield Case("ctc_loss", "too short", given, attrs)
    attrs = {"input_lengths": (7,), "target_lengths": (3,)}
    alone = {"log_probs": log_odds((7, 4)), "targets": targets[0]}
    yield Case("ctc_loss", "unbatched", alone, attrs)


def log_odds(shape: tuple[int, ...]) -> Array:
    """Logarithms of odds that sum to about 1."""
    scores = R.draw(f"log odds {shape}", shape, -2, 2).astype(np.float64)
    return few_bits(scores - np.log(np.exp(scores).sum(-1, keepdims=True)))


def comparisons() -> Iterator[Case]:
    labels = np.array([3, 0, 2, 4, 1, 3])
    many = np.array([[0, 3, -1, 1, 2], [1, -1, 0, 0, 0], [4, 3, 2, 1, 0]])
    weight = few_bits(R.draw("margins weights", (5,), 0.25, 2))
    each = few_bits(R.draw("all weights", (6, 5), 0.25, 2))
    for reduction in ("mean", "sum", "none"):
        attrs: dict[str, Any] = {"reduction": reduction}
        for p in (1, 2):
            options = {**attrs, "p": p, "margin": 0.7}
            scores = {"input": (6, 5), "target": labels}
            yield Case("multi_margin_loss", spell(options), scores, options)
            name = f"{spell(options)}-weight"
            yield Case("multi_margin_loss", name, {**scores, "weight": weight}, options)
        yield Case("multi_margin_loss", f"{reduction}-one",
                   {"input": (5,), "target": np.array(2)}, attrs)  # fmt: skip
        yield Case("multilabel_margin_loss", reduction, {"input": (3, 5), "target": many}, attrs)
        one = {"input": (5,), "target": many[0]}
        yield Case("multilabel_margin_loss", f"{reduction}-one", one, attrs)
        odds = {"input": (3, 5), "target": (many > 0) * 1.0, "weight": weight}
        yield Case("multilabel_soft_margin_loss", reduction, odds, attrs)
        triplet = {"anchor": (6, 5), "positive": (6, 5), "negative": (6, 5)}
        for swap in (False, True):
            options = {**attrs, "swap": swap}
            yield Case("triplet_margin_with_distance_loss", spell(options), triplet, options)
        pair = {"input": (6, 5), "target": (6, 5), "weight": each}
        for op in ("mse_loss", "l1_loss", "huber_loss"):
            yield Case(op, f"{reduction}-weight", pair, attrs)
    yield Case("rrelu", "mean slope", {"input": (3, 17)}, {"lower": 0.1, "upper": 0.4})


def all_cases() -> Iterator[Case]:
    """The cases of this file."""
    return itertools.chain(patches(), grids(), pools(), bags(), sequences(), comparisons())
