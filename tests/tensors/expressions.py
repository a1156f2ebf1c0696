"""Expressions in torch code: the table that the breadth of the tensor face is tested from.

One expression a line, over the names of ``inputs`` and the module called ``torch``.
``tests/record/tensor_cases.py`` evaluates them with PyTorch, ``test_cases.py`` with symgrad.
A line with ``!`` in front raises; its error's type and text are compared.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import layer_expressions
import numpy as np

ARITHMETIC = """
x + y; x - y; x * y; x / y; 2 - x; 2 / p; x + 1; x * 2.5; 1 + x; -x; +x; abs(x); x ** 2; p ** y
2 ** x; x // 0.7; x % 0.7; x // y; x % y; p ** 0.5; p ** -1; x @ y.T; 3 // p; 5 % p; x ** 3
torch.add(x, y); torch.add(x, y, alpha=3); torch.add(x, v); torch.sub(x, y, alpha=2); x.add(s)
torch.subtract(x, y); torch.mul(x, y); torch.multiply(x, v); x.mul(2); x.div(y); torch.div(x, y)
torch.divide(x, y); torch.true_divide(x, y); x.sub(1, alpha=3); torch.rsub(x, y); torch.rsub(x, 2)
torch.rsub(x, y, alpha=2); x.subtract(y); x.multiply(y); x.divide(2); x.true_divide(y)
torch.div(x, y, rounding_mode="floor"); torch.div(x, y, rounding_mode="trunc")
torch.floor_divide(x, 0.3); torch.floor_divide(x, y); torch.remainder(x, y)
torch.remainder(x, 0.7); torch.fmod(x, y); torch.fmod(x, 0.7); torch.remainder(5, p)
torch.pow(p, 1.5); torch.pow(p, y); torch.pow(2, x); torch.pow(x, 3); x.pow(0)
torch.float_power(p, 1.5); torch.float_power(p, y); torch.square(x); x.square(); torch.neg(x)
torch.negative(x); x.neg(); torch.positive(x); torch.abs(x); torch.absolute(x)
torch.reciprocal(p); p.reciprocal(); torch.addcmul(x, y, p, value=0.5); torch.addcmul(x, y, p)
torch.addcdiv(x, y, p, value=2); x.addcdiv(y, p); x.addcmul(v, y); torch.lerp(x, y, 0.3)
torch.lerp(x, y, u); x.lerp(y, 0.7); torch.lerp(x, y, torch.tensor(0.25, dtype=x.dtype))
torch.clamp(x, -0.5, 0.5); x.clamp(min=0); x.clamp(max=0.3); torch.clamp(x, min=y)
torch.clamp(x, u, p); torch.clamp(x, max=v); torch.clip(x, -1, 1); x.clip(max=0.5)
torch.clamp_min(x, 0.25); x.clamp_min(y); torch.clamp_max(x, 0.25); x.clamp_max(0)
torch.maximum(x, y); torch.minimum(x, y); x.maximum(y); torch.fmax(x, y); torch.fmin(x, y)
torch.max(x, y); torch.min(x, y); x.max(y)
torch.fmax(torch.tensor([1.0, float("nan")]), torch.tensor([2.0, 3.0])); torch.hypot(x, y)
torch.atan2(x, y); torch.arctan2(x, y); x.atan2(y); torch.logaddexp(x, y); torch.logaddexp2(x, y)
torch.copysign(x, y); torch.copysign(x, -1.0); torch.xlogy(x, p); torch.xlogy(x, 2.0)
torch.xlogy(2.0, p); torch.special.xlogy(x, p); torch.special.xlog1py(x, p); torch.heaviside(x, y)
torch.ldexp(x, n); torch.nextafter(p, y).shape; torch.gcd(i, n); torch.lcm(i, n); torch.dist(x, y)
torch.dist(x, y, 1); torch.dist(x, y, p=3); torch.cdist(x, k); torch.cdist(x, k, p=1)
torch.mul(x, y, out=torch.zeros(2, 3, dtype=torch.float64)) if not x.requires_grad else x * y
!torch.add(x, torch.zeros(4)); !x.clamp(); !torch.ones(2).long() ** -1; !x + "a"
!torch.zeros(2, 3) * torch.zeros(3, 2)
"""

ELEMENTWISE = """
torch.exp(x); x.exp(); torch.exp2(x); torch.special.exp2(x); torch.expm1(x)
torch.special.expm1(x); torch.log(p); p.log(); torch.log2(p); torch.log10(p); torch.log1p(p)
torch.special.log1p(p); torch.sqrt(p); torch.rsqrt(p); p.sqrt(); torch.sin(x); torch.cos(x)
torch.tan(x); torch.asin(u); torch.acos(u); torch.atan(x); torch.arcsin(u); torch.arccos(u)
torch.arctan(x); torch.sinh(x); torch.cosh(x); torch.tanh(x); torch.asinh(x); torch.acosh(p + 1)
torch.atanh(u); torch.arcsinh(x); torch.arccosh(p + 1); torch.arctanh(u); torch.sigmoid(x)
torch.special.expit(x); torch.erf(x); torch.erfc(x); torch.special.erf(x); torch.special.erfc(x)
torch.erfinv(u); torch.special.erfinv(u); torch.lgamma(p); torch.lgamma(x)
torch.special.gammaln(p); torch.digamma(p); torch.digamma(x); torch.special.digamma(p)
torch.special.psi(p); torch.special.polygamma(1, p); torch.special.multigammaln(p + 1, 2)
torch.special.round(x.detach()); torch.polygamma(1, p); torch.polygamma(2, p)
torch.mvlgamma(p + 1, 2); torch.sinc(x); torch.special.sinc(x)
torch.sinc(torch.tensor([0.0, 1.0, 0.5])); torch.logit(p / 3); torch.logit(p / 2, eps=0.2)
torch.special.logit(p / 3); torch.special.ndtr(x); torch.special.ndtri(p / 3)
torch.special.entr(p); torch.sign(x); torch.sgn(x); torch.signbit(x); torch.floor(x)
torch.ceil(x); torch.round(x); torch.round(x * 100, decimals=1); torch.round(x * 100, decimals=-1)
torch.trunc(x); torch.fix(x); torch.frac(x); torch.deg2rad(x); torch.rad2deg(x)
torch.nan_to_num(torch.tensor([float("nan"), float("inf"), -float("inf"), 1.5]))
torch.nan_to_num(torch.tensor([float("nan"), float("inf"), -1.0]), nan=2.0, posinf=7.0)
x.nan_to_num(); torch.relu(x); x.relu(); torch.selu(x); torch.celu(x); torch.rrelu(x, 0.2, 0.2)
torch.prelu(x, torch.tensor([0.25], dtype=x.dtype)); torch.threshold(x, 0.1, 5.0)
torch.softmax(x, 1); x.softmax(0); torch.log_softmax(x, 1); x.log_softmax(-1)
torch.special.softmax(x, 0); torch.special.log_softmax(x, 0); x.softmax(1, dtype=torch.float64)
torch.isnan(torch.tensor([1.0, float("nan")])); torch.isinf(torch.tensor([1.0, -float("inf")]))
torch.isfinite(torch.tensor([1.0, float("inf"), float("nan")]))
torch.isposinf(torch.tensor([float("inf"), 1.0]))
torch.isneginf(torch.tensor([-float("inf"), 1.0])); torch.isreal(x); x.isnan(); x.isfinite()
x.isinf(); torch.isclose(x, y); torch.isclose(x, x + 1e-9); torch.allclose(x, y)
torch.allclose(x, x + 1e-9); torch.equal(x, y); torch.equal(x, x); x.equal(y); x.allclose(x)
x.isclose(y, rtol=1.0)
torch.isclose(torch.tensor([float("nan")]), torch.tensor([float("nan")]), equal_nan=True)
torch.eq(x, y); torch.ne(x, y); torch.lt(x, y); torch.le(x, y); torch.gt(x, y); torch.ge(x, 0.1)
torch.greater(x, y); torch.greater_equal(x, y); torch.less(x, y); torch.less_equal(x, y)
torch.not_equal(x, y); x == y; x != y; x < y; x <= y; x > 0; x >= 0; x.eq(1); x.gt(y); x == 1
i == n; x == None; torch.logical_and(b, c); torch.logical_or(b, c); torch.logical_xor(b, c)
torch.logical_not(x); torch.logical_and(x, i); b & c; b | c; b ^ c; ~b; i & 3; i | n; i ^ n; ~i
3 & i; b.logical_not(); torch.bitwise_and(i, n); torch.bitwise_or(i, n); torch.bitwise_xor(i, 3)
torch.bitwise_not(i); torch.bitwise_left_shift(i, n); torch.bitwise_right_shift(i, n); i << n
i >> 1; i << 2; 1 << n; i.bitwise_and(1); torch.where(b, x, y); torch.where(x > 0, x, 0.0)
torch.where(x > 0, 1.5, y); torch.where(b, 1, 0); torch.where(b, x, v); torch.where(b)
x.where(b, y); x.where(b, 0.0); torch.floor(i); torch.abs(i); i.sign(); i.exp(); i / (n + 1)
i // 2; i % 3; i * 1.5; i + x; i.float() + x
"""

REDUCTIONS = """
torch.sum(x); torch.sum(x, 1); torch.sum(x, dim=0, keepdim=True); x.sum((0, 1)); z.sum((0, 2))
x.sum(-1); x.sum(axis=1, keepdims=True); torch.sum(x, 1, dtype=torch.float64)
x.sum(dtype=torch.float32); b.sum(); i.sum(1); torch.mean(x); torch.mean(x, 1, keepdim=True)
z.mean((0, 2)); x.mean(dtype=torch.float64); torch.prod(x); torch.prod(x, 1)
x.prod(0, keepdim=True); i.prod(); torch.prod(x, 1, dtype=torch.float64); torch.std(x)
torch.std(x, 1); torch.std(x, dim=0, unbiased=False); torch.std(x, 1, correction=0, keepdim=True)
x.std(unbiased=False); z.std((0, 2)); torch.var(x); torch.var(x, 1)
torch.var(x, (0, 1), correction=2); x.var(0); torch.var_mean(x); torch.var_mean(x, 1)
torch.std_mean(x, 1, keepdim=True); torch.std_mean(x, unbiased=False); torch.max(x); torch.min(x)
torch.max(x, 1); torch.min(x, 0, keepdim=True); x.max(1).values; x.min(1).indices
x.max(dim=-1)[1]; torch.amax(x, 1); torch.amin(x, (0, 1)); torch.amax(x)
z.amax((0, 2), keepdim=True); torch.aminmax(x); torch.aminmax(x, dim=1)
x.aminmax(dim=0, keepdim=True); torch.argmax(x); torch.argmax(x, 1); torch.argmin(x)
torch.argmin(x, 0, keepdim=True); x.argmax(-1); torch.any(b); torch.any(b, 1); torch.all(b)
torch.all(b, 0, keepdim=True); x.any(); x.all(1); b.any((0, 1)); torch.norm(x); torch.norm(x, 1)
torch.norm(x, dim=1); torch.norm(x, 3, 1, True); torch.norm(x, float("inf")); x.norm(p=1, dim=0)
x.norm("fro"); torch.norm(x, -float("inf")); x.norm(dim=(0, 1)); x.norm(0); torch.logsumexp(x, 1)
torch.logsumexp(x, (0, 1), keepdim=True); x.logsumexp(0); torch.special.logsumexp(x, 0)
torch.cumsum(x, 1); torch.cumsum(x, dim=0); x.cumsum(-1, dtype=torch.float64); torch.cumprod(x, 1)
b.cumsum(0); torch.cummax(x, 1); torch.cummin(x, 0); torch.logcumsumexp(x, 1)
torch.count_nonzero(i); torch.count_nonzero(i, 1); torch.median(x); torch.median(x, 1)
torch.median(v); torch.nanmedian(x); x.median(0, keepdim=True); torch.nanmedian(x, 1)
torch.mode(n, 1); torch.mode(n, 0, keepdim=True); torch.mode(torch.tensor([3, 1, 3, 2, 2]))
torch.quantile(x, 0.3); torch.quantile(x, torch.tensor([0.1, 0.5, 0.9], dtype=x.dtype))
torch.quantile(x, 0.25, dim=1)
torch.quantile(x, torch.tensor([0.1, 0.6], dtype=x.dtype), dim=0, keepdim=True)
torch.quantile(v, 0.4, interpolation="lower"); torch.quantile(v, 0.4, interpolation="higher")
torch.quantile(v, 0.4, interpolation="midpoint"); torch.quantile(v, 0.4, interpolation="nearest")
torch.nanquantile(x, 0.3); torch.nansum(torch.tensor([1.0, float("nan"), 2.0]))
torch.nansum(x, 1); torch.nanmean(torch.tensor([1.0, float("nan"), 2.0])); torch.nanmean(x, 1)
x.nansum(); x.nanmean(dim=0, keepdim=True); torch.trapezoid(x); torch.trapezoid(x, dx=0.5, dim=0)
torch.trapz(x); torch.diff(x); torch.diff(x, dim=0); torch.diff(z, n=2); torch.cov(x)
torch.corrcoef(x); torch.cumulative_trapezoid(x); torch.gradient(v)[0]; torch.renorm(x, 2, 0, 1.0)
!x.long().mean(); !torch.sum(x, 2); !torch.max(x, 5); !torch.argmax(x, dim=3)
!torch.max(torch.zeros(0))
"""

ORDER = """
torch.sort(x); torch.sort(x, 0, descending=True); x.sort(1, True).values
torch.sort(x, stable=True, dim=1); torch.sort(n, 1); torch.argsort(x)
torch.argsort(x, 0, descending=True); x.argsort(1); torch.msort(x); torch.topk(x, 2)
torch.topk(x, 1, dim=0); torch.topk(x, 2, largest=False); x.topk(2, 1, True, True).values
torch.kthvalue(x, 2); torch.kthvalue(x, 1, 0, True); x.kthvalue(3); torch.unique(n)
torch.unique(n, return_inverse=True); torch.unique(n, return_counts=True); torch.unique(n, dim=0)
torch.unique(n, sorted=True, return_inverse=True, return_counts=True); n.unique()
torch.unique_consecutive(torch.tensor([1, 1, 2, 2, 1]))
torch.unique_consecutive(torch.tensor([1, 1, 2, 2, 1]), return_inverse=True, return_counts=True)
torch.searchsorted(v.sort().values, w); torch.searchsorted(v.sort().values, w, right=True)
torch.searchsorted(x.sort(1).values, y); torch.searchsorted(torch.tensor([1.0, 2.0, 3.0]), 2.0)
torch.searchsorted(torch.tensor([1, 2, 3]), torch.tensor([2, 5]), side="right")
torch.bucketize(x, torch.tensor([-0.5, 0.0, 0.5], dtype=x.dtype))
torch.bucketize(n, torch.tensor([0, 1, 2]), right=True); torch.bincount(n.reshape(-1))
torch.bincount(n.reshape(-1), minlength=6); torch.bincount(j.reshape(-1), v.detach().repeat(2))
torch.histc(x.detach(), 4, -1, 1); torch.histc(x.detach(), bins=5)
torch.histogram(x.detach(), 4).hist; torch.isin(n, torch.tensor([0, 2])); torch.isin(n, 1)
torch.isin(torch.tensor([1, 5]), n, invert=True); torch.combinations(v)
torch.combinations(v, 2, with_replacement=True); !torch.topk(x, 9); !torch.kthvalue(x, 7)
"""

SHAPES = """
torch.reshape(x, (3, 2)); x.reshape(-1); x.reshape(3, -1); x.view(3, 2); x.view(-1)
x.view_as(torch.zeros(6)); x.reshape_as(torch.zeros(3, 2)); torch.flatten(z); torch.flatten(z, 1)
z.flatten(0, 1); s.flatten(); torch.unflatten(z, 2, (2, 2)); z.unflatten(-1, (2, -1))
torch.ravel(z); torch.squeeze(z[:1]); torch.squeeze(z[:1], 0); x[:1].squeeze(1)
z[:1, :1].squeeze((0, 1)); torch.unsqueeze(x, 1); x.unsqueeze(-1); torch.transpose(z, 0, 2)
z.transpose(-1, 1); torch.swapaxes(z, 0, 1); torch.swapdims(z, 0, 1); torch.permute(z, (2, 0, 1))
z.permute(1, 2, 0); torch.movedim(z, 0, 2); torch.moveaxis(z, (0, 1), (2, 0)); torch.t(x); v.t()
x.t(); x.T; z.mT; x.H; x.mH; x.expand(4, 2, 3); v.expand(2, -1); v.expand_as(x)
torch.broadcast_to(v, (2, 3)); x.broadcast_to(2, 2, 3); torch.broadcast_tensors(x, v)
torch.broadcast_shapes((2, 1), (3,)); x.repeat(2, 1); v.repeat(2, 2)
torch.repeat_interleave(x, 2); torch.repeat_interleave(x, 2, dim=1)
torch.repeat_interleave(v, torch.tensor([1, 0, 2])); x.repeat_interleave(torch.tensor([2, 1]), 0)
torch.tile(x, (2, 2)); x.tile(2); torch.stack([x, y]); torch.stack((x, y), 1)
torch.stack([x, y], dim=-1); torch.cat([x, y]); torch.cat((x, y), 1); torch.concat([x, k])
torch.concatenate([x, y], dim=-1); torch.cat([x, torch.zeros(0, dtype=x.dtype)])
torch.cat([i, x]); torch.hstack([x, y]); torch.hstack([v, w]); torch.vstack([x, y])
torch.vstack([v, w]); torch.row_stack([v, w]); torch.dstack([x, y]); torch.column_stack([v, w])
torch.split(x, 2, 1); torch.split(z, [1, 3], 2); z.split(1); torch.split_with_sizes(x, [1, 2], 1)
torch.chunk(z, 2, 2); v.chunk(2); torch.tensor_split(v, 2); torch.tensor_split(z, (1, 3), 2)
z.tensor_split(3, dim=2); torch.hsplit(x, 3); torch.vsplit(x, 2); torch.dsplit(z, 2)
x.hsplit([1]); torch.unbind(x); x.unbind(1); torch.unsafe_chunk(v, 2); torch.unsafe_split(v, 2)
torch.narrow(x, 1, 1, 2); x.narrow(0, 0, 1); torch.select(x, 1, 2); z.select(0, 1)
torch.roll(x, 1); torch.roll(x, (1, 2), (0, 1)); x.roll(-1, 1); torch.flip(x, (0, 1)); x.flip(1)
x.flip([0]); torch.fliplr(x); torch.flipud(x); torch.rot90(x); torch.rot90(z, 2, (0, 2))
torch.rot90(x, -1); torch.diagonal(m); torch.diagonal(z, 1, 1, 2); m.diagonal(-1); torch.diag(m)
torch.diag(v); torch.diag(v, 1); m.diag(-1); torch.diag_embed(x); torch.diag_embed(v, 1)
torch.diag_embed(x, dim1=0, dim2=2); torch.diagflat(x); v.diagflat(-1)
torch.diagonal_scatter(m, v); torch.select_scatter(x, v, 0, 1)
torch.slice_scatter(x, torch.zeros(2, 1, dtype=x.dtype), 1, 1, 2); torch.tril(m); torch.triu(m, 1)
m.tril(-1); z.triu(); torch.meshgrid(v, s.reshape(1), indexing="ij")
torch.meshgrid(v, w, indexing="xy"); torch.cartesian_prod(v, w); torch.cartesian_prod(v)
x.unfold(1, 2, 1); z.unfold(2, 2, 2); torch.as_strided(x, (2, 2), (1, 2))
x.as_strided((3,), (2,), 1); x.contiguous(); x.t().contiguous(); x.is_contiguous()
x.t().is_contiguous(); x[:, 1:].is_contiguous(); x.stride(); x.t().stride(); z.stride(1)
z.permute(2, 0, 1).stride(); x[1:, ::2].stride(); x[1].storage_offset()
x.expand(2, 2, 3).stride(); x[:, 1].storage_offset(); torch.atleast_1d(s); torch.atleast_2d(v)
torch.atleast_3d(x); torch.block_diag(x, m); torch.adjoint(m); m.adjoint(); torch.numel(x)
x.numel(); x.nelement(); x.dim(); x.ndim; x.ndimension(); x.size(); x.size(1); x.shape; len(x)
x.nbytes; x.itemsize; x.element_size(); x.shape.numel(); torch.is_nonzero(s); s.is_nonzero()
torch.narrow_copy(x, 1, 0, 2); torch.ravel(x.t()); x.sum_to_size(1, 3); torch.clone(x); x.clone()
torch.constant_pad_nd(x, (1, 2), 0.5); torch.vander(v.detach())
torch.vander(v.detach(), 2, increasing=True); torch.squeeze(x); x.view(2, 3, 1)[:, :, 0]
x.view(torch.int64).shape if not x.requires_grad else x; x.resolve_conj(); x.resolve_neg()
torch.conj(x); x.conj(); x.real; torch.real(x); torch.is_same_size(x, y); x.is_same_size(v)
x.is_set_to(y); !x.view(4); !x.reshape(5, -1); !x.t().view(-1); !z.t(); !torch.cat([x, v])
!torch.stack([x, v]); !x.split([1, 1], 1); !x.expand(4, 4); !torch.transpose(x, 0, 2)
!x.narrow(1, 2, 5); !x.select(1, 7); !x.unsqueeze(4); !x.permute(0, 0); !x.squeeze(3)
!x.repeat(2)
"""

INDEXING = """
x[0]; x[1, 2]; x[-1]; x[:, 1]; x[..., 0]; x[None]; x[:, None]; x[0, :2]; x[:, ::2]; x[b]
x[:, [2, 0, 0]]; x[[0, 1], [2, 0]]; z[:, 1]; z[..., 1:3]; z[0, ..., 2]; x[torch.tensor([1, 0])]
x[torch.tensor(1)]; x[:, n[0]]; z[:, [0, 2], 1]; x[b[:, 0]]; x[j, n]; x[True]
x[torch.tensor([True, False])]; x[torch.tensor([-1])]; z[[1, 0], :, [0, 3]]; z[1:, [2, 1]]; x[()]
x[range(2)]; torch.gather(x, 1, n); torch.gather(x, 0, j); x.gather(1, n[:, :1])
x.gather(1, n[:1]); torch.take(x, i.abs()); torch.take_along_dim(x, n, 1)
torch.take_along_dim(x, x.argsort(1), dim=1); torch.take_along_dim(x, i.abs())
torch.index_select(x, 1, torch.tensor([2, 0])); x.index_select(0, torch.tensor([1, 1]))
v.index_select(0, torch.tensor([1])); torch.masked_fill(x, b, 7.0)
x.masked_fill(b, torch.tensor(2.0, dtype=x.dtype)); torch.masked_select(x, b); x.masked_select(c)
torch.masked_scatter(x, b, y); x.masked_scatter(b, torch.arange(6.0).to(x.dtype))
torch.scatter(x, 1, x.argsort(1), y); torch.scatter(x, 1, torch.tensor([[0], [2]]), 5.0)
x.scatter(0, j[:1], y); torch.scatter_add(x, 1, n, y); x.scatter_add(0, j, y)
x.scatter(1, n, y, reduce="add") if not x.requires_grad else x
torch.scatter_reduce(x, 1, n, y, "sum"); torch.scatter_reduce(x, 1, n, y, "amax")
torch.scatter_reduce(x, 1, n, y, "mean", include_self=False)
torch.scatter_reduce(x, 1, n, p, "prod"); torch.index_add(x, 1, torch.tensor([0, 0, 2]), y)
x.index_add(0, torch.tensor([1, 1]), y, alpha=2)
torch.index_fill(x, 1, torch.tensor([0, 2]), 5.0)
torch.index_copy(x, 1, torch.tensor([2, 0, 1]), y)
torch.index_put(x, (torch.tensor([0, 1]), torch.tensor([2, 0])), p[0, :2])
x.index_put((torch.tensor([0, 0]), torch.tensor([2, 2])), v[:2], accumulate=True)
torch.nonzero(i); torch.nonzero(b, as_tuple=True); i.nonzero(); torch.argwhere(b)
torch.put(x, torch.tensor([1, 5]), v[:2]); x.put(torch.tensor([0]), s.reshape(1), accumulate=True)
torch.tril_indices(3, 3); torch.triu_indices(3, 4, 1); (p + 1).acosh_(); (p + 1).arccosh_()
m.clone().addr_(v, w); v.clone().addmv_(m, w); m.clone().addbmm_(z, z.mT)
torch.zeros(2, 3, 3, dtype=x.dtype).baddbmm_(z, z.mT)
x.clone().index_fill_(1, torch.tensor([0]), 3.0); x.clone().index_add_(0, torch.tensor([1, 0]), y)
x.clone().index_copy_(0, torch.tensor([1, 0]), y); x.clone().scatter_(1, x.argsort(1), y)
x.clone().scatter_add_(1, n, y); x.clone().masked_fill_(b, 1.5); x.clone().masked_scatter_(b, y)
x.clone().index_put_((torch.tensor([0]),), v); x.clone().put_(torch.tensor([1, 2]), v[:2])
x.clone().fill_diagonal_(4.0); x.clone().scatter_reduce_(1, n, y, "sum"); torch.embedding(k, n)
torch.one_hot(n) if hasattr(torch, "one_hot") else n; !x[5]; !x[0, 7]; !x[0, 0, 0]; !s[0]
!x[::-1]; !x[torch.tensor([True])]; !x[torch.tensor([9])]; !x[1.5]; !x.gather(1, i.double())
!x.index_select(0, n); !torch.masked_select(x, i); !x["a"]
"""

LINALG = """
torch.matmul(x, m); x.matmul(v); torch.mm(x, m); torch.bmm(z, z.transpose(1, 2)); torch.mv(x, v)
torch.dot(v, w); torch.vdot(v, w); torch.inner(x, y); torch.inner(v, w); torch.outer(v, w)
torch.ger(v, w); v @ w; x @ v; z @ z.mT; v @ m; z @ torch.ones(4, dtype=x.dtype)
torch.addmm(torch.ones(2, 3, dtype=x.dtype), x, m); torch.addmm(y, x, m, beta=0.5, alpha=2)
x.addmm(y, m); torch.addmv(v[:2], x, w); torch.addr(m, v, w)
torch.addbmm(torch.ones(3, 3, dtype=x.dtype), z, z.mT)
torch.baddbmm(torch.ones(2, 3, 3, dtype=x.dtype), z, z.mT, beta=2, alpha=0.5)
torch.chain_matmul(x, m, m); torch.linalg.multi_dot([x, m, v]); torch.einsum("ij,kj->ik", x, y)
torch.einsum("ii->i", m); torch.einsum("bij,bkj->bik", z, z); torch.einsum("i,j", v, w)
torch.tensordot(z, k, ([1], [1])); torch.tensordot(x, m, 1); torch.kron(x, m); torch.kron(v, w)
torch.trace(m); m.trace(); torch.cross(v, w, dim=0); torch.cross(x, y, dim=1)
torch.linalg.cross(x, y); torch.linalg.vecdot(x, y); torch.linalg.norm(x); torch.linalg.norm(x, 1)
torch.linalg.norm(v, 3); torch.linalg.norm(x, "fro"); torch.linalg.norm(x, dim=1)
torch.linalg.vector_norm(x); torch.linalg.vector_norm(x, 1, dim=1)
torch.linalg.vector_norm(x, float("inf")); torch.linalg.matrix_norm(x)
torch.linalg.matrix_norm(x, 1); torch.linalg.matrix_norm(z, float("inf"))
torch.linalg.matrix_norm(x, 2); torch.linalg.norm(m, "nuc"); torch.det(m); torch.linalg.det(m)
m.det(); torch.linalg.det(z[:, :, :3]); torch.logdet(m @ m.T); torch.slogdet(m)
torch.linalg.slogdet(m); torch.linalg.inv(m); torch.inverse(m); m.inverse()
torch.linalg.solve(m, v); torch.linalg.solve(m, k.t()); torch.linalg.solve(z[:, :, :3], x)
torch.linalg.cholesky(m @ m.T + 2 * torch.eye(3, dtype=x.dtype))
torch.cholesky(m @ m.T + 2 * torch.eye(3, dtype=x.dtype))
torch.linalg.cholesky(m @ m.T + 2 * torch.eye(3, dtype=x.dtype), upper=True)
torch.linalg.eigvalsh(m @ m.T); torch.linalg.eigh(m @ m.T).eigenvalues
torch.linalg.eigh(m @ m.T).eigenvectors.abs(); torch.linalg.svdvals(x)
torch.linalg.svd(x, full_matrices=False)[1]; torch.linalg.svd(x, full_matrices=False).U.abs()
torch.svd(x)[1]; torch.linalg.qr(k).R.abs(); torch.linalg.qr(k).Q.abs()
torch.linalg.qr(m)[0].abs(); torch.qr(k)[1].abs(); k.qr()[0].abs()
torch.linalg.solve_triangular(m.triu(), k.t(), upper=True)
torch.linalg.solve_triangular(m.tril(), v.reshape(3, 1), upper=False)
torch.triangular_solve(k.t(), m.triu())[0]; torch.cholesky_solve(k.t(), m.tril())
torch.cholesky_inverse(m.tril() + torch.eye(3, dtype=x.dtype)); torch.linalg.pinv(m)
torch.pinverse(m); torch.matrix_power(m, 3); torch.linalg.matrix_power(m, 0)
torch.linalg.matrix_power(m, -1); torch.linalg.matrix_rank(m.detach())
torch.linalg.lstsq(k, torch.ones(4, 1, dtype=x.dtype)).solution; torch.linalg.cond(m)
torch.linalg.diagonal(z); torch.linalg.vander(v.detach()); torch.linalg.matmul(x, m)
!torch.mm(x, y); !torch.matmul(x, s); !torch.dot(v, x[0, :2]); !torch.mm(v, w); !torch.bmm(x, y)
!torch.mv(x, torch.zeros(2, dtype=x.dtype)); !torch.linalg.inv(x)
!torch.linalg.cholesky(-torch.eye(2, dtype=x.dtype))
!torch.linalg.inv(torch.zeros(2, 2, dtype=x.dtype)); !torch.addmm(y, x, y)
"""

CREATION = """
torch.tensor([1.5, 2]); torch.tensor([1, 2]); torch.tensor(3); torch.tensor([True])
torch.tensor([[1, 2.5]], dtype=torch.float64); torch.tensor([]); torch.as_tensor([1, 2])
torch.asarray([1.0, 2.0]); torch.scalar_tensor(2); torch.zeros(2, 3); torch.zeros((2,))
torch.zeros([2, 1], dtype=torch.int32); torch.zeros(2, 3, requires_grad=True).requires_grad
torch.ones(3); torch.ones(2, 2, dtype=torch.bool); torch.empty(2, 3).shape
torch.empty((2, 2), dtype=torch.int64).dtype; torch.empty_strided((2, 2), (2, 1)).shape
torch.full((2, 2), 1.5); torch.full((2,), 7); torch.full((2,), True)
torch.full((2, 3), 2, dtype=torch.float64); torch.eye(3); torch.eye(2, 3); torch.arange(5)
torch.arange(1, 4); torch.arange(0, 2, 0.5); torch.arange(5, 0, -2); torch.arange(3.0)
torch.arange(1, 2.5, dtype=torch.float64); torch.arange(0, 1, 0.1); torch.range(1, 3)
torch.linspace(0, 1, 5); torch.linspace(0, 10, 3, dtype=torch.int64)
torch.linspace(2, -2, steps=9); torch.logspace(0, 2, 3); torch.logspace(0, 3, 4, base=2.0)
torch.zeros_like(x); torch.ones_like(x); torch.full_like(x, 3.0); torch.full_like(i, 3)
torch.empty_like(x).shape; torch.zeros_like(i); torch.ones_like(x, dtype=torch.int64)
x.new_zeros(2); x.new_ones(2, 2); x.new_full((2,), 3.0); x.new_tensor([1, 2])
x.new_empty(3).shape; i.new_zeros((2, 2)); x.new_zeros((2, 2), dtype=torch.int32)
torch.rand(2, 3).shape; torch.randn(4).dtype; torch.randint(3, (2, 2)).dtype
torch.randint(2, 5, (4,)).shape; torch.randperm(5).sort().values
torch.normal(0.0, torch.ones(3)).shape; torch.normal(torch.zeros(2), 1.0).shape
torch.normal(0, 1, (2, 2)).shape; torch.bernoulli(torch.ones(3)); torch.bernoulli(torch.zeros(3))
torch.multinomial(torch.tensor([0.0, 1.0, 0.0]), 1)
torch.multinomial(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 3, replacement=True)
torch.multinomial(torch.ones(4), 4).sort().values; torch.rand_like(x).dtype
torch.randn_like(x).shape; torch.randint_like(x, 3).dtype; torch.poisson(torch.zeros(2))
torch.rand(3, generator=torch.Generator()).shape
torch.randperm(4, generator=torch.Generator().manual_seed(1)).sort().values
torch.Generator().manual_seed(3).initial_seed(); torch.dropout(x, 0.0, True)
torch.dropout(x, 0.5, False); torch.manual_seed(4).initial_seed(); torch.initial_seed() >= 0
type(torch.seed()).__name__; torch.set_rng_state(torch.get_rng_state())
torch.zeros(3).uniform_(2, 3).round().shape; torch.zeros(3).normal_(1, 2).shape
torch.zeros(3).random_(0, 1); torch.zeros(3).exponential_().ge(0); torch.zeros(3).bernoulli_(1.0)
torch.ones(3).bernoulli(0.0); torch.zeros(2).geometric_(0.5).ge(1)
torch.zeros(2).log_normal_().gt(0); torch.zeros(2).cauchy_().shape; torch.is_tensor(x)
torch.is_tensor(1); torch.is_floating_point(x); torch.is_floating_point(i); torch.is_complex(x)
torch.is_signed(x); torch.is_neg(x); torch.newaxis
issubclass(torch.linalg.LinAlgError, RuntimeError); torch.result_type(x, i)
torch.result_type(i, 1.5); torch.promote_types(torch.int32, torch.float32)
torch.promote_types(torch.uint8, torch.int8); torch.can_cast(torch.float64, torch.float32)
torch.can_cast(torch.float32, torch.int64); torch.get_default_dtype()
torch.set_default_dtype(torch.float32); torch.finfo(torch.float32).eps
torch.finfo(torch.float64).max; torch.finfo(torch.float32).tiny; torch.finfo(torch.float16).bits
torch.bfloat16; torch.bfloat16.itemsize; torch.BFloat16Tensor([1]); torch.finfo(torch.bfloat16)
x.bfloat16(); x.to(torch.bfloat16); x.bfloat16().float(); x.bfloat16() + n
x.bfloat16() * 0.1; x.bfloat16() + x.half(); x.bfloat16().type(); p.detach().bfloat16() ** 0.3 % 0.7
torch.iinfo(torch.int32).max; torch.iinfo(torch.uint8).min; torch.iinfo(torch.int64).bits
torch.finfo().min; str(torch.device("cpu")); repr(torch.device("cpu"))
torch.device("cpu") == x.device; torch.is_grad_enabled(); torch.is_inference_mode_enabled()
torch.is_inference(x); x.is_inference(); torch.get_num_threads() > 0
torch.set_num_threads(torch.get_num_threads()); torch.pi; torch.e; torch.inf; torch.nan
torch.typename(x); torch.get_default_device().type; torch.float32.is_floating_point
torch.int8.itemsize; torch.float16; torch.half; torch.bool.is_floating_point
torch.int64.is_signed; torch.uint8.is_signed; torch.float64.is_complex; torch.double; torch.float
torch.long; torch.int; torch.short; torch.int16; torch.set_printoptions(precision=4)
torch.Size([2, 3]); torch.Size([2, 3]).numel(); torch.Tensor([1, 2]); torch.Tensor(2, 3).shape
torch.FloatTensor([1, 2]); torch.LongTensor([1, 2]); torch.DoubleTensor([1]); torch.IntTensor([1])
torch.BoolTensor([True]); torch.ByteTensor([1]); torch.HalfTensor([1]); torch.ShortTensor([1])
torch.CharTensor([1]); isinstance(x, torch.Tensor); torch.preserve_format; torch.contiguous_format
torch.channels_last; torch.strided
"""

CONVERSION = """
x.to(torch.float32); x.to("cpu"); x.to(torch.int64); x.to(i); x.to(dtype=torch.float64)
x.to("cpu", torch.float32); x.to(x.device); x.float(); x.double(); x.half(); x.int(); x.long()
x.short(); x.char(); p.byte(); x.bool(); i.float(); x.type(torch.float32); x.type(); x.type_as(i)
i.type(); b.type(); x.to(torch.float32, copy=True); x.cpu(); x.detach(); x.detach().requires_grad
x.data; s.item(); s.tolist(); x.tolist(); i.tolist(); x.detach().numpy().shape
x.detach().numpy().dtype.name; x.is_floating_point(); i.is_floating_point(); x.is_complex()
x.is_signed(); x.device.type; x.layout; x.is_cuda; x.is_sparse; x.is_quantized; x.is_leaf
x.requires_grad; (x * 2).is_leaf; x.grad; x.dtype; float(s); int(s); bool(s); round(s.item(), 3)
complex(s); "%.3f" % s; f"{s:.3f}"; hash(x) == id(x); s.__format__(".2f"); x.nbytes
x.get_device(); x.data_ptr() > 0; torch.tensor(x.detach().tolist()).dtype; x.is_pinned()
x.is_conj(); x.is_neg(); torch.is_conj(x); x.retains_grad; x.output_nr; (x * 1)._version
x[0]._base is x; x.clone().copy_(y); x.clone().copy_(v); x.clone().fill_(2.5); x.clone().fill_(s)
x.clone().zero_(); x.clone().requires_grad_().requires_grad; x.clone().detach_().requires_grad
torch.fill(x, 2.0); torch.zero_(x.clone()); torch.detach(x); 1.5 in torch.tensor([1.5, 2])
x.__contains__(5.0); [r.shape for r in x]; list(v.detach())[0]; torch.numel(i); reversed(v)
x.is_cpu; x.is_meta; x.is_mps; x.is_nested; x.dim_order()
x.register_hook(lambda g: None) is None if x.requires_grad else 0
(x * 1).retain_grad() if x.requires_grad else 0; x.new(2).shape; x.element_size()
x.detach().resize_(2, 2).shape; !x.item(); !bool(x); !float(x)
!x.numpy() if x.requires_grad else torch.ones(2, requires_grad=True).numpy()
!torch.tensor([[1, 2], [3]]); !torch.zeros(2, -1); !torch.tensor("a"); !len(s); !iter(s)
!torch.ones(2, dtype=torch.int64, requires_grad=True); !torch.ones(2).long().requires_grad_()
!torch.tensor([1.5]).__index__(); !torch.tensor([1, 2]).__index__(); !i.clone().add_(1.5)
!torch.zeros(3).add_(torch.zeros(2, 3)); !x.clone().mul_(torch.ones(4))
!torch.ones(3).expand(2, 3).add_(1); !i.clone().sqrt_(); !torch.arange(0, 5, -1)
!torch.ones(2, requires_grad=True).add_(1); !torch.ones(2, requires_grad=True)[0].add_(1)
!torch.multinomial(torch.ones(2), 3)
"""

IN_PLACE = """
add_(y); sub_(y); mul_(y); div_(y); pow_(2); add_(y, alpha=2); sub_(1); mul_(2)
div_(y, rounding_mode="floor"); remainder_(0.7); fmod_(0.7); floor_divide_(0.3); addcmul_(y, p)
addcdiv_(y, p); lerp_(y, 0.3); clamp_(-0.5, 0.5); clip_(0, 1); clamp_min_(0); clamp_max_(0)
exp_(); exp2_(); expm1_(); abs_(); neg_(); negative_(); square_(); sin_(); cos_(); tan_(); tanh_()
sinh_(); cosh_(); asinh_(); atan_(); sigmoid_(); relu_(); erf_(); erfc_(); round_(); floor_()
ceil_(); trunc_(); fix_(); frac_(); sign_(); sgn_(); sinc_(); deg2rad_(); rad2deg_()
nan_to_num_(); arctan_(); arcsinh_(); absolute_(); digamma_(); lgamma_(); multiply_(y)
subtract_(y); divide_(y); true_divide_(y); atan2_(y); arctan2_(y); hypot_(y); copysign_(y)
heaviside_(y); xlogy_(p); float_power_(2); renorm_(2, 0, 1.0); eq_(y); ne_(y); lt_(y); le_(y)
gt_(y); ge_(y); greater_(y); less_(y); masked_fill_(b, 2.0); tril_(); triu_(1); cumsum_(1)
cumprod_(1); addmm_(x, m); t_(); transpose_(0, 1); unsqueeze_(0); squeeze_(); swapaxes_(0, 1)
swapdims_(0, 1); not_equal_(y); greater_equal_(y); less_equal_(y)
"""
POSITIVE_IN_PLACE = """
log_(); log2_(); log10_(); log1p_(); sqrt_(); rsqrt_(); reciprocal_(); pow_(1.5); ldexp_(n)
"""
UNIT_IN_PLACE = """
asin_(); acos_(); atanh_(); erfinv_(); arcsin_(); arccos_(); arctanh_(); logit_(0.1)
polygamma_(1)
"""
INTEGER_IN_PLACE = """
logical_not_(); logical_and_(n); logical_or_(n); logical_xor_(n); bitwise_and_(n); bitwise_or_(n)
bitwise_xor_(n); bitwise_not_(); gcd_(n); lcm_(n); bitwise_left_shift_(n); bitwise_right_shift_(n)
__iand__(n); __ior__(n); __ixor__(n); __ilshift__(n); __irshift__(n)
"""


def _listed(text: str, prefix: str = "") -> list[str]:
    parts = (p.strip() for line in text.strip().splitlines() for p in line.split(";"))
    return [prefix + p for p in parts if p]


EDGES = """
s.softmax(0); s.log_softmax(-1); torch.softmax(s, 0); s.logsumexp(0); s.logsumexp(-1, keepdim=True)
torch.nn.functional.softmax(s, 0); torch.nn.functional.log_softmax(s, -1); (x[:0] * 1.0).softmax(1)
(x[:0] * 1.0).softmax(0); (x[:, :0] / 2).softmax(1); (x[:0] / 2).log_softmax(1); x[:0].logsumexp(0)
x[:0].logsumexp(1); x[:, :0].logsumexp(1); x[:0].logsumexp((0, 1)); s.median(); s.median(0)
x[:0].median(); x[:0].nanmedian(); x[:0].median(1); s.max(0); s.min(-1, True); s.amax(0)
s.argmax(); s.argmin(0, keepdim=True); x[:0].max(1); x[:0].min(1); x[:0].argmax(1); x[:0].amax(1)
x[:0].aminmax(dim=1); s.aminmax(dim=0); x[:0].sum(0); x[:0].mean(0); x[:0].prod(1); x[:0].norm()
s.cumsum(0); s.cumprod(0); x[:0].cumsum(0); s.cummax(0); s.logcumsumexp(0); s.sort(); s.argsort()
x[:0].sort(0); s.topk(1); s.kthvalue(1); s.mode(); s.flip(()); s.roll(1)
s.movedim(0, -1); s.transpose(0, 0); s.t(); s.flatten(); s.squeeze(0); s.diff() if s.ndim else s
x[:0] @ y.T; x[:, :0] @ y.T[:0]; v[:0] @ w[:0]; x[:0].chunk(2); v[:0].chunk(3); v[:0].split(2)
x[:0].repeat(2, 1); torch.cat([x[:0], y]); torch.einsum("ij,kj->ik", x[:0], y)
torch.nn.functional.one_hot(n[:0], 3); torch.nn.functional.mse_loss(x[:0], y[:0]); x[:0].nansum()
z[0, :, torch.tensor([0, 1])]; z[0, torch.tensor([0, 1])]; z[torch.tensor([0, 1]), :, 1]
z[-1, ..., torch.tensor([[0, 1]])]; z[None, 0, :, [0, 1]]; z[0, 1:, [0, 1]]
z[torch.tensor(1), :, [0, 1]]; z[0, None, [0, 1]]; z[True, 0]; z[0, False]; z[True, [0, 1]]
z[:, True]; z[[[0, 1], [2, 1]]]; z[[torch.tensor([0, 1]), torch.tensor([2, 1])]]
z[[0, slice(1, 3)]]; z[torch.tensor([1, 0], dtype=torch.uint8)]; z[[]]; z[0, []]; z[:, [], 1]
!s.softmax(1); !s.log_softmax(-2); !s.max(1); !x[:0].max(); !x[:0].max(0); !x[:0].argmax(0)
!x[:0].argmax(); !x[:0].amax(); !x[:0].median(0); !x[:0].kthvalue(1, 0); !x.split(0); !i // 0
torch.einsum(x, [0, 1], y, [2, 1], [0, 2]); torch.einsum(x, [0, 1], y, [0, 1])
torch.einsum(z, [Ellipsis, 0], [0, Ellipsis]); torch.nn.functional.relu(i)
!i % 0; !i.fmod(0); !torch.tensor(2**63); !i.norm(); !x[:0].mode(0)
"""

CASES: list[str] = [
    *(case for text in (
        ARITHMETIC, ELEMENTWISE, REDUCTIONS, ORDER, SHAPES, INDEXING, LINALG, CREATION, CONVERSION,
        EDGES,
    ) for case in _listed(text)),
    *_listed(IN_PLACE, "x.clone()."),
    *_listed(POSITIVE_IN_PLACE, "p.clone()."),
    *_listed(UNIT_IN_PLACE, "(u / 2 + 0.5).clone()."),
    *_listed(INTEGER_IN_PLACE, "i.clone()."),
    *layer_expressions.CASES,
]  # fmt: skip

SHAPES_OF = {
    "x": (2, 3), "y": (2, 3), "p": (2, 3), "u": (2, 3), "v": (3,), "w": (3,), "s": (),
    "z": (2, 3, 4), "m": (3, 3), "k": (4, 3),
}  # fmt: skip
RANGES = {"p": (0.5, 2.0), "u": (-0.9, 0.9)}
PROFILES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "uint8", "bool")
"""The element type that the inputs have; gradients are compared for the first."""


def other_profiles(case: str) -> tuple[str, ...]:
    """The element types, beside the first, that an expression is compared for."""
    floats = [p for p in PROFILES if "float" in p]
    return tuple(floats[1:]) if case in layer_expressions.CASES else PROFILES[1:]


def inputs(dtype: str) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays that expressions name: multiples of 1/1024, or small integers."""
    arrays = {}
    for name, shape in SHAPES_OF.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        low, high = RANGES.get(name, (-2.0, 2.0))
        drawn = np.round(rng.uniform(low, high, shape) * 1024) / 1024
        if "float" in dtype:  # NumPy has no bfloat16
            arrays[name] = np.asarray(drawn, "f4" if dtype == "bfloat16" else dtype)
        elif dtype == "bool":
            arrays[name] = np.asarray(drawn > 0)
        else:
            whole = np.round(drawn * 3)
            arrays[name] = np.asarray(np.abs(whole) if dtype == "uint8" else whole, dtype)
    rng = np.random.default_rng(5)
    arrays["i"] = rng.integers(-5, 6, (2, 3))
    arrays["n"] = np.array([[0, 2, 1], [2, 2, 0]])
    arrays["j"] = np.array([[0, 1, 1], [1, 0, 1]])
    arrays["b"] = np.array([[True, False, True], [False, False, True]])
    arrays["c"] = np.array([[True, True, False], [False, True, False]])
    return arrays


def tensors(torch: Any, dtype: str) -> dict[str, Any]:
    """The inputs as tensors; the floating-point ones are leaves of the graph in float64."""
    made = {name: torch.tensor(array) for name, array in inputs(dtype).items()}
    if dtype == "bfloat16":
        made.update({name: made[name].bfloat16() for name in SHAPES_OF})
    if dtype == "float64":
        for name in SHAPES_OF:
            made[name].requires_grad_()
    return made


def weights(shape: tuple[int, ...], number: int) -> np.ndarray[Any, Any]:
    """What the elements of result ``number`` are multiplied by to get one number."""
    size = int(np.prod(shape))
    return np.asarray(np.cos(np.arange(size) + number)).reshape(shape)


def checksum(array: np.ndarray[Any, Any], number: int) -> Any:
    """The weighted sum of the finite values of result ``number``."""
    finite = np.where(np.isfinite(array) & (np.abs(array) < 1e12), array, 0.0)
    return np.sum(finite * weights(array.shape, number))


def flat(torch: Any, result: Any) -> list[Any]:
    """A result's tensors and other values, tuples and lists unpacked."""
    if isinstance(result, (tuple, list)) and not isinstance(result, torch.Size):
        return [part for item in result for part in flat(torch, item)]
    return [result]


def mentioned(case: str) -> tuple[set[str], set[str]]:
    """The functions of the module and the methods that an expression uses."""
    functions = set(re.findall(r"torch\.((?:special\.|linalg\.)?\w+)", case))
    return functions, set(re.findall(r"\.(\w+)", case))
