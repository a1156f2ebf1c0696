"""ResNet-18 in training: its arrays, its compiled step and its compiled evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from symgrad import nn
from symgrad.api import jit, value_and_grad
from symgrad.models import resnet18
from symgrad.nn import functional as F
from symgrad.optim.sgd import SGDRule

Array = Any
Arrays = dict[str, Array]


class Network:
    """A ResNet-18 whose parameters, momentum and running statistics go from step to step.

    One step is one native program: forward, cross-entropy, backward and optimiser.
    """

    def __init__(
        self, classes: int, channels: int, optimizer: SGDRule, *, small_images: bool, seed: int
    ) -> None:
        nn.init.manual_seed(seed)
        self._model = resnet18(num_classes=classes, in_channels=channels, small_images=small_images)
        self.parameters, self.state = nn.arrays(self._model)
        self.momentum: Arrays = optimizer.init(self.parameters)
        self._step = self._compiled_step(optimizer)
        self._evaluation = self._compiled_evaluation()

    def _compiled_step(self, optimizer: SGDRule) -> Any:
        def loss_of(parameters: Arrays, state: Arrays, images: Array, labels: Array) -> Any:
            model = self._model.train()
            logits, state = nn.functional_call(model, parameters, state, images)
            correct = np.sum(np.argmax(logits, axis=1) == labels)
            return F.cross_entropy(logits, labels), (state, correct)

        gradient_of = value_and_grad(loss_of, has_aux=True)

        def training_step(
            parameters: Arrays, momentum: Arrays, state: Arrays, images: Array, labels: Array,
            rate: Array,
        ) -> Any:  # fmt: skip
            (loss, (state, correct)), grads = gradient_of(parameters, state, images, labels)
            parameters, momentum = optimizer.apply(parameters, grads, momentum, rate)
            return loss, correct, parameters, momentum, state

        return jit(training_step, donate_argnums=(0, 1, 2))

    def _compiled_evaluation(self) -> Any:
        def evaluation(parameters: Arrays, state: Arrays, images: Array, labels: Array) -> Any:
            model = self._model.eval()
            logits, _ = nn.functional_call(model, parameters, state, images)
            losses = F.cross_entropy(logits, labels, reduction="none")
            return losses, np.argmax(logits, axis=1) == labels

        return jit(evaluation)

    def compile(self, images: Array, labels: Array) -> None:
        """Makes both programs for batches like this one; runs nothing."""
        rate = np.float32(0)
        self._step.compile(self.parameters, self.momentum, self.state, images, labels, rate)
        self._evaluation.compile(self.parameters, self.state, images, labels)

    def step(self, images: Array, labels: Array, rate: float) -> tuple[float, int]:
        """Trains on a batch; its loss and how many images were classified rightly."""
        loss, correct, self.parameters, self.momentum, self.state = self._step(
            self.parameters, self.momentum, self.state, images, labels, np.float32(rate)
        )
        return float(loss), int(correct)

    def evaluate(self, batches: Iterable[tuple[Array, Array]]) -> tuple[float, float]:
        """Mean loss and accuracy over batches of which the first ``len(labels)`` images count."""
        losses, hits = [], []
        for images, labels in batches:
            filled = np.resize(labels, len(images))
            loss, hit = self._evaluation(self.parameters, self.state, images, filled)
            losses.append(loss[: len(labels)])
            hits.append(hit[: len(labels)])
        return float(np.concatenate(losses).mean()), float(np.concatenate(hits).mean())
