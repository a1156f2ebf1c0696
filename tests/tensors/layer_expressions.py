"""Part of the table of ``expressions``: layers' functions, and functions that write in place."""

from __future__ import annotations

LAYERS = """
torch.conv1d(z, z); torch.conv1d(z, z[:, :, :2], v[:2], 2, 1); torch.conv1d(z, z[:1, :, :1])
torch.conv2d(z[None], z[:, None, :2, :2], padding=1, groups=2)
torch.conv3d(z[None, None], z[None, None, :, :2, :2]); torch.conv_transpose1d(z, m[:, :, None])
torch.conv_transpose2d(z[None], z[:, :, :2, None], stride=2)
torch.conv_transpose3d(z[None, None], z[None, None, :1])
torch.layer_norm(x, (3,), v, w); torch.rms_norm(x, (3,), v); torch.group_norm(z.mT, 2, k[:, 0])
torch.avg_pool1d(z, 2); torch.adaptive_avg_pool1d(z, 3); torch.max_pool1d(z, 2, 1)
torch.max_pool2d(z, 2, 1); torch.max_pool3d(z[None], 2); torch.hardshrink(x, 0.25)
torch.pairwise_distance(x, y); torch.cosine_similarity(x, y)
torch.pixel_shuffle(z.reshape(4, 2, 3), 2); torch.pixel_unshuffle(z, 1); torch.channel_shuffle(z, 3)
torch.alpha_dropout(x, 0.5, False); torch.feature_alpha_dropout(z, 0.5, False)
torch.rrelu(x, 0.2, 0.2); torch.rrelu_(x.clone(), 0.2, 0.4); torch.selu_(x.clone())
torch.celu_(x.clone()); torch.threshold_(x.clone(), 0.1, 2.0)
torch.nn.functional.max_pool1d(z, 2, return_indices=True)
torch.nn.functional.max_pool2d(z, 2, 1, return_indices=True)
torch.nn.functional.max_pool2d(z * 0, 2, 1, 1, return_indices=True)
torch.nn.functional.max_pool3d(z[None], 2, 1, return_indices=True)
torch.nn.functional.adaptive_max_pool1d(z, 3, return_indices=True)
torch.nn.functional.adaptive_max_pool2d(z, (2, 3), return_indices=True)
torch.nn.functional.adaptive_max_pool2d(z * 0, 2, return_indices=True)
torch.nn.functional.adaptive_max_pool3d(z[None], (1, 2, 3), return_indices=True)
torch.nn.functional.unfold(z[None] ** 2, 2); torch.nn.functional.fold(z ** 2, (3, 4), (3, 1))
torch.nn.functional.pixel_unshuffle(z[:, :2] ** 2, 2)
torch.nn.functional.local_response_norm(z, 2, 0.5)
torch.nn.functional.multi_margin_loss(x, n[:, 0])
torch.nn.functional.interpolate(z[None] ** 2, (5, 3), mode="bicubic")
torch.nn.functional.interpolate(z[None] ** 2, (2, 3), mode="bilinear", antialias=True)
torch.nn.functional.affine_grid(x[None] ** 2, (1, 1, 2, 3), align_corners=True)
torch.nn.functional.embedding_bag(n, m ** 2, mode="max")
torch.nn.functional.embedding_bag(n, m ** 2, mode="sum", per_sample_weights=x)
torch.nn.functional.multilabel_soft_margin_loss(x, b.to(x.dtype), reduction="none")
torch.nn.functional.gumbel_softmax(x).shape
torch.nn.functional.adaptive_avg_pool3d(z[None] ** 2, 2)
torch.nn.functional.lp_pool1d(z.abs() + 1, 2, 2); torch.nn.functional.channel_shuffle(z ** 2, 3)
"""

IN_PLACE_FUNCTIONS = """
abs acos acosh addmv arccos arccosh arcsin arcsinh arctan arctanh asin asinh atan atanh ceil clamp
clamp_max clamp_min clip cos cosh deg2rad detach erf erfc exp exp2 expm1 fill fix floor frac gcd
index_put lcm ldexp log log10 log1p log2 logit nan_to_num neg negative rad2deg reciprocal relu round
rsqrt sigmoid sin sinc sinh sqrt square tan tanh trunc xlogy
"""
_ARGUMENTS = {
    "acosh": "(p + 1).clone()", "arccosh": "(p + 1).clone()", "addmv": "v.clone(), m, w",
    "clamp": "x.clone(), -0.5, 0.5", "clip": "x.clone(), -0.5, 0.5", "clamp_max": "x.clone(), 0.3",
    "clamp_min": "x.clone(), 0.3", "fill": "x.clone(), 2.5", "gcd": "i.clone(), n",
    "lcm": "i.clone(), n", "ldexp": "x.clone(), n", "xlogy": "x.clone(), p",
    "index_put": "x.clone(), (torch.tensor([0]),), v",
}  # fmt: skip


def _cases() -> list[str]:
    lines = [part.strip() for line in LAYERS.strip().splitlines() for part in line.split("; ")]
    written = [
        f"torch.{name}_({_ARGUMENTS.get(name, '(u / 2 + 0.5).clone()')})"
        for name in IN_PLACE_FUNCTIONS.split()
    ]
    return lines + written


CASES = _cases()
"""The expressions; layers are compared for floating-point types alone."""
