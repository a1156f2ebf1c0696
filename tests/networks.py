"""Three small networks and the loop that trains them, for PyTorch or for symgrad's tensors.

Written as their users write: the module that plays ``torch`` is an argument.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from references import draw

STEPS = 20


def mlp(torch: Any) -> Any:
    """Two hidden layers, with dropout switched off."""
    nn = torch.nn
    return nn.Sequential(
        nn.Linear(12, 24), nn.ReLU(), nn.Dropout(0.0), nn.Linear(24, 16), nn.Tanh(),
        nn.Linear(16, 5),
    )  # fmt: skip


def cnn(torch: Any) -> Any:
    """Two convolutions with batch norms, pooling, a classifier."""
    nn = torch.nn

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(8)
            self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
            self.bn2 = nn.BatchNorm2d(12)
            self.pool = nn.MaxPool2d(2)
            self.fc = nn.Linear(12, 5)

        def forward(self, x: Any) -> Any:
            x = self.pool(nn.functional.relu(self.bn1(self.conv1(x))))
            x = nn.functional.gelu(self.bn2(self.conv2(x)))
            return self.fc(x.mean((2, 3)))

    return Net()


def transformer(torch: Any) -> Any:
    """An embedding, an encoder block, a classifier of the mean."""
    nn = torch.nn

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(11, 16)
            self.block = nn.TransformerEncoderLayer(
                16, 4, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.norm = nn.LayerNorm(16)
            self.head = nn.Linear(16, 5)

        def forward(self, tokens: Any) -> Any:
            x = self.block(self.embedding(tokens))
            return self.head(self.norm(x).mean(1))

    return Net()


def inputs(name: str) -> tuple[Any, Any]:
    """A batch of eight, and its classes."""
    labels = (np.arange(8) * 3 + 1) % 5
    if name == "transformer":
        return np.floor(draw("curves/tokens", (8, 7), 0, 11)).astype(np.int64), labels
    return draw(f"curves/{name}", (8, 12) if name == "mlp" else (8, 3, 10, 10)), labels


def optimizer_of(torch: Any, name: str, model: Any) -> tuple[Any, Any]:
    """Another optimiser and schedule for each network."""
    optim = torch.optim
    if name == "mlp":
        optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9, nesterov=True)
        return optimizer, optim.lr_scheduler.StepLR(optimizer, 8, 0.5)
    if name == "cnn":
        optimizer = optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)
        return optimizer, optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    return optimizer, optim.lr_scheduler.OneCycleLR(optimizer, 0.01, STEPS)


NETWORKS = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def train(torch: Any, name: str) -> list[float]:
    """The losses of twenty steps from the same beginning."""
    model = NETWORKS[name](torch)
    weights = {}
    for key, value in model.state_dict().items():
        if value.ndim > 1:
            bound = (3 / np.prod(value.shape[1:])) ** 0.5
            drawn = draw(f"curves/{name}/{key}", tuple(value.shape), -bound, bound)
            weights[key] = torch.tensor(drawn)
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if "weight" in key else 0.0)
    x, y = map(torch.tensor, inputs(name))
    optimizer, schedule = optimizer_of(torch, name, model)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.05)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        if name == "transformer":
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses
