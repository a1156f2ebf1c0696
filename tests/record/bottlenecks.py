"""Record networks of bottleneck blocks: ``python tests/record/bottlenecks.py`` (needs torch)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
import references as R

Dict = dict[str, Tensor]


def forward(net: R.Bottlenecks, p: Dict, s: Dict, x: Tensor, train: bool) -> Tensor:
    """torchvision's network as a function; running statistics in ``s`` change in place."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
        if train:
            s[f"{name}.num_batches_tracked"] += 1
        return F.batch_norm(x, mean, var, p[f"{name}.weight"], p[f"{name}.bias"], train)

    x = F.relu(norm(F.conv2d(x, p["conv1.weight"], None, 2, 3), "bn1"))
    x = F.max_pool2d(x, 3, 2, 1)
    spread = 1
    for layer, blocks in enumerate(net.layers, 1):
        step, first_spread = (1 if layer == 1 else 2), spread
        if layer > 1 and net.dilated[layer - 2]:
            step, spread = 1, spread * step
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            stride, dilation = (step, first_spread) if block == 0 else (1, spread)
            y = F.relu(norm(F.conv2d(x, p[f"{name}.conv1.weight"]), f"{name}.bn1"))
            y = F.conv2d(y, p[f"{name}.conv2.weight"], None, stride, dilation, dilation, net.groups)
            y = F.relu(norm(y, f"{name}.bn2"))
            y = norm(F.conv2d(y, p[f"{name}.conv3.weight"]), f"{name}.bn3")
            if block == 0:
                x = F.conv2d(x, p[f"{name}.downsample.0.weight"], None, stride)
                x = norm(x, f"{name}.downsample.1")
            x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), p["fc.weight"], p["fc.bias"])


def results(net: R.Bottlenecks) -> dict[str, Tensor]:
    """Everything that is recorded of a network."""
    p = {k: torch.tensor(v, requires_grad=True) for k, v in net.parameters("float64").items()}
    s = {k: torch.tensor(v) for k, v in net.state("float64").items()}
    images, labels = (torch.tensor(x) for x in net.batch("float64"))
    found = {"eval/logits": forward(net, p, s, images, False)}
    logits = forward(net, p, s, images, True)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    found |= {"train/loss": loss, "train/logits": logits}
    found |= {f"train/gradients/{k}": v.grad for k, v in p.items()}
    return found | {f"train/state/{k}": v for k, v in s.items() if "num_batches" not in k}


def main() -> None:
    arrays = {}
    for name, net in R.BOTTLENECKS.items():
        for key, value in results(net).items():
            array = value.detach().numpy()
            whole = "logits" in key or "loss" in key
            arrays[f"{name}/{key}"] = array if whole else R.fingerprint(array)
    path = R.DATA / "bottlenecks.npz"
    R.write_record(path, {}, arrays)
    print(f"{len(arrays)} results, {path.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
