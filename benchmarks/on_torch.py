"""PyTorch's side of the comparison, with its own layers and optimiser.

Eager, or with the ways ``compile`` (torch.compile with its default, inductor) and ``frozen``
(the same, with the weights of inference as constants); ``channels_last`` is a memory layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import cases
import science
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Call = Callable[[], Any]


def version() -> str:
    """Library and version."""
    return f"PyTorch {torch.__version__}"


Function = TypeVar("Function", bound=Callable[..., Any])
_ways: set[str] = set()


def set_up(threads: int, ways: Sequence[str]) -> None:
    """Threads of one operation, and how to do the job."""
    torch.set_num_threads(threads)
    _ways.update(ways)
    if "frozen" in ways:
        from torch._inductor import config

        config.freezing = True


def compiled(f: Function) -> Function:
    """The function, compiled if that is the way."""
    return torch.compile(f) if {"compile", "frozen"} & _ways else f


def arrays(result: Any) -> list[Any]:
    """The arrays of a result."""
    parts = result if isinstance(result, tuple) else (result,)
    return [part.detach().numpy() for part in parts]


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.downsample = None
        if inner != outer:
            shortcut = nn.Conv2d(inner, outer, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(y)).add_(shortcut), inplace=True)


class ResNet18(nn.Module):
    """The architecture and the names of torchvision's."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inner = 64
        for i, outer in enumerate((64, 128, 256, 512), 1):
            blocks = Residual(inner, outer, 1 if inner == outer else 2), Residual(outer, outer, 1)
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
            inner = outer
        self.fc = nn.Linear(512, classes)
        with torch.no_grad():
            for name, tensor in (*self.named_parameters(), *self.named_buffers()):
                if tensor.is_floating_point():
                    tensor.copy_(torch.from_numpy(cases.weight(name, tuple(tensor.shape))))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def _resnet18(batch: int, size: int) -> tuple[ResNet18, Tensor]:
    memory = torch.channels_last if "channels_last" in _ways else torch.contiguous_format
    x = torch.from_numpy(cases.images(batch, size))
    return ResNet18().to(memory_format=memory), x.to(memory_format=memory)


def resnet18_train(batch: int, size: int) -> Call:
    """Forward, cross-entropy, backward, SGD with momentum."""
    model, x = _resnet18(batch, size)
    y = torch.from_numpy(cases.labels(batch, 1000))
    return _training(lambda: F.cross_entropy(model(x), y), model.parameters())


resnet18_loop = resnet18_train_arrays = resnet18_train
"""PyTorch's step is that loop, and its tensors are arrays."""


def resnet18_infer(batch: int, size: int) -> Call:
    """Forward with running statistics."""
    model, x = _resnet18(batch, size)
    infer = compiled(model.eval())
    return torch.inference_mode()(lambda: infer(x))


resnet18_infer_arrays = resnet18_infer


def _gradient(f: Callable[..., Tensor], *inputs: Any) -> Call:
    """Value and gradients."""
    leaves = [torch.as_tensor(x).requires_grad_() for x in inputs]
    f = compiled(f)

    def call() -> tuple[Tensor, ...]:
        value = f(*leaves)
        return value, *torch.autograd.grad(value, leaves)

    return call


def matmul(a: tuple[int, ...], b: tuple[int, ...], dtype: str) -> Call:
    """PyTorch's BLAS."""
    x, y = map(torch.from_numpy, cases.matmul_inputs(a, b, dtype))
    return lambda: x @ y


def rosenbrock() -> Call:
    """Value and gradient."""
    return _gradient(cases.rosenbrock, cases.rosenbrock_input())


def nested() -> Call:
    """Value and gradient of sin(sin(...(x)))."""

    def sines(x: Tensor) -> Tensor:
        return science.nested_sines(x, cases.NESTED_DEPTH, torch.sin)

    return _gradient(sines, torch.tensor(cases.NESTED_INPUT, dtype=torch.float64))


def unrolled(n: int) -> Call:
    """Value and gradient of ``y = sin(x c_i + y)``, n times."""
    x, coefficients = cases.unrolled_inputs(n)

    def chain(x: Tensor) -> Tensor:
        return science.chain_of_sines(x, coefficients, torch)

    return _gradient(chain, x)


def greeks(dtype: str) -> Call:
    """The price of each call option, and its derivatives by all five inputs."""

    def price(s: Tensor, k: Tensor, t: Tensor, r: Tensor, v: Tensor) -> Tensor:
        return science.option_prices(s, k, t, r, v, torch, torch.erfc)

    return _gradient(price, *cases.option_inputs(dtype))


def gmm(d: int, k: int, n: int) -> Call:
    """Value and gradient by all parameters of the mixture."""
    rows, columns = map(torch.from_numpy, science.triangle(d))
    *parameters, x = map(torch.from_numpy, science.mixture_inputs(d, k, n))

    def value(weights: Tensor, means: Tensor, factors: Tensor) -> Tensor:
        q = torch.diag_embed(torch.exp(factors[:, :d]))
        q = q.index_put((torch.arange(k)[:, None], rows, columns), factors[:, d:])
        return science.mixture(weights, means, factors, x, q, torch.exp, torch.logsumexp)

    return _gradient(value, *parameters)


def bundle_adjustment(**sizes: int) -> Call:
    """Errors of all observations, and the Jacobian's blocks by camera, point and weight."""
    inputs = map(torch.from_numpy, science.bundle_inputs(**sizes))
    cameras, points, weights, features, camera, point = inputs

    def residuals() -> tuple[Tensor, ...]:
        wrt = cameras[:, camera], points[:, point], weights
        reprojection = partial(science.reprojection, feature=features, m=torch)
        errors, pullback = torch.func.vjp(reprojection, *wrt)
        one, zero = torch.ones_like(weights), torch.zeros_like(weights)
        rows = []
        for ct in ((one, zero), (zero, one)):
            by_camera, by_point, by_weight = pullback(ct)
            rows.append(torch.cat((by_camera, by_point, by_weight[None])))
        return torch.stack(errors), 1 - weights * weights, torch.stack(rows), -2 * weights

    return compiled(residuals)


def mlp() -> Call:
    """Three linear layers with ReLU between, cross-entropy, SGD with momentum."""
    parameters = {k: nn.Parameter(torch.from_numpy(v)) for k, v in cases.mlp_parameters().items()}
    x, y = torch.from_numpy(cases.mlp_images()), torch.from_numpy(cases.labels(128, 10))

    def loss() -> Tensor:
        h = F.relu(F.linear(x, parameters["w0"], parameters["b0"]))
        h = F.relu(F.linear(h, parameters["w1"], parameters["b1"]))
        return F.cross_entropy(F.linear(h, parameters["w2"], parameters["b2"]), y)

    return _training(loss, parameters.values())


def transformer_block(batch: int, length: int, width: int, by_hand: bool = False) -> Call:
    """Gradients of a GPT-2 block by all parameters and by its input; gives the last.

    Attention is PyTorch's own kernel also where symgrad's is written out.
    """
    arrays, inputs = cases.block_parameters(width), cases.block_inputs(batch, length, width)
    p = {k: torch.from_numpy(v).requires_grad_() for k, v in arrays.items()}
    x, ct = torch.from_numpy(inputs[0]).requires_grad_(), torch.from_numpy(inputs[1])

    @compiled
    def loss() -> Tensor:
        h = F.layer_norm(x, (width,), p["ln1_w"], p["ln1_b"])
        qkv = (h @ p["qkv_w"] + p["qkv_b"]).view(batch, length, 3, cases.HEADS, -1)
        q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = x + a.transpose(1, 2).reshape(batch, length, width) @ p["proj_w"] + p["proj_b"]
        h = F.layer_norm(y, (width,), p["ln2_w"], p["ln2_b"])
        h = F.gelu(h @ p["fc_w"] + p["fc_b"], approximate="tanh")
        return ((y + h @ p["out_w"] + p["out_b"]) * ct).sum()

    return lambda: torch.autograd.grad(loss(), [*p.values(), x])[-1]


def _training(loss: Callable[[], Tensor], parameters: Any) -> Call:
    optimiser = torch.optim.SGD(parameters, lr=cases.LEARNING_RATE, momentum=cases.MOMENTUM)
    loss = compiled(loss)

    def step() -> Tensor:
        optimiser.zero_grad()
        found = loss()
        found.backward()
        optimiser.step()
        return found

    return step
