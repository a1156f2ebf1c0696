"""ResNet-18 and its kin, with torchvision's parameter names.

K. He et al., "Deep residual learning for image recognition" (2015).
"""

from __future__ import annotations

from typing import Any

from symgrad import nn
from symgrad.nn import functional as F

Array = Any


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    def __init__(self, channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Array) -> Array:
        """``[N, C, H, W]`` to ``[N, out, H / stride, W / stride]``."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A residual network of basic blocks.

    ``small_images`` swaps the 7x7 stem of stride 4 in all for a 3x3 one of stride 1, for
    images of about 32 pixels.
    """

    def __init__(
        self,
        layers: tuple[int, int, int, int],
        num_classes: int = 1000,
        in_channels: int = 3,
        *,
        small_images: bool = False,
    ) -> None:
        super().__init__()
        kernel, stride, padding = (3, 1, 1) if small_images else (7, 2, 3)
        self.conv1 = nn.Conv2d(in_channels, 64, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, 1)
        channels = 64
        for number, blocks in enumerate(layers):
            width, first = 64 << number, 1 if number == 0 else 2
            stack = [BasicBlock(channels, width, first)]
            stack += [BasicBlock(width, width) for _ in range(blocks - 1)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*stack))
            channels = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                shape = module.state_dict()["weight"].shape
                module.weight = nn.Parameter(nn.init.kaiming_normal_fan_out(shape))

    def forward(self, x: Array) -> Array:
        """Images ``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.flatten(self.avgpool(x), 1))


def resnet18(
    num_classes: int = 1000, in_channels: int = 3, *, small_images: bool = False
) -> ResNet:
    """The network of 18 layers: 11,689,512 parameters for 1,000 classes."""
    return ResNet((2, 2, 2, 2), num_classes, in_channels, small_images=small_images)


def resnet34(
    num_classes: int = 1000, in_channels: int = 3, *, small_images: bool = False
) -> ResNet:
    """The network of 34 layers."""
    return ResNet((3, 4, 6, 3), num_classes, in_channels, small_images=small_images)
