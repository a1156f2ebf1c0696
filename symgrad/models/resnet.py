"""Residual networks with torchvision's names, of parameters, arguments and builders.

K. He et al., "Deep residual learning for image recognition" (2015); the wide ones are
S. Zagoruyko and N. Komodakis, "Wide residual networks" (2016), the ones of many groups
S. Xie et al., "Aggregated residual transformations for deep neural networks" (2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from symgrad import nn
from symgrad.ir.errors import UsageError
from symgrad.models.builders import builder
from symgrad.models.resnet_weights import (
    ResNet18_Weights,
    ResNet34_Weights,
    ResNet50_Weights,
    ResNet101_Weights,
    ResNet152_Weights,
    ResNeXt50_32X4D_Weights,
    ResNeXt101_32X8D_Weights,
    ResNeXt101_64X4D_Weights,
    Wide_ResNet50_2_Weights,
    Wide_ResNet101_2_Weights,
)
from symgrad.nn import functional as F

Array = Any
Norm = Callable[[int], nn.Module]


def _conv3x3(
    channels: int, out_channels: int, stride: int = 1, groups: int = 1, dilation: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, stride, dilation, dilation, groups, bias=False)


def _conv1x1(channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 1, stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    expansion = 1

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Norm | None = None,
    ) -> None:
        super().__init__()
        norm = norm_layer or nn.BatchNorm2d
        if groups != 1 or base_width != 64:
            raise UsageError("BasicBlock only supports groups=1 and base_width=64")
        if dilation > 1:
            raise UsageError("BasicBlock: dilation > 1 is for networks of Bottleneck blocks")
        self.conv1 = _conv3x3(inplanes, planes, stride)
        self.bn1 = norm(planes)
        self.relu = nn.ReLU()
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = norm(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Array) -> Array:
        """``[N, C, H, W]`` to ``[N, planes, H / stride, W / stride]``."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, and a shortcut around them.

    The stride is that of the 3x3 convolution, as in torchvision ("ResNet V1.5"), not of
    the first one as in the paper.
    """

    expansion = 4

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Norm | None = None,
    ) -> None:
        super().__init__()
        norm = norm_layer or nn.BatchNorm2d
        width = planes * base_width // 64 * groups
        self.conv1 = _conv1x1(inplanes, width)
        self.bn1 = norm(width)
        self.conv2 = _conv3x3(width, width, stride, groups, dilation)
        self.bn2 = norm(width)
        self.conv3 = _conv1x1(width, planes * self.expansion)
        self.bn3 = norm(planes * self.expansion)
        self.relu = nn.ReLU()
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Array) -> Array:
        """``[N, C, H, W]`` to ``[N, 4 planes, H / stride, W / stride]``."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A residual network: a stem, four stages of blocks, the mean over the image, a classifier.

    The arguments are torchvision's.  ``zero_init_residual`` starts every block as the
    identity; ``replace_stride_with_dilation`` tells for each of the last three stages whether
    it keeps its images' size.  Two arguments are our own: ``in_channels``, and
    ``small_images``, which swaps the 7x7 stem of stride 4 in all for a 3x3 one of stride 1,
    for images of about 32 pixels.  Weights are drawn as torchvision's: normal with variance
    ``2 / fan_out`` in convolutions.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        groups: int = 1,
        width_per_group: int = 64,
        replace_stride_with_dilation: Sequence[bool] | None = None,
        norm_layer: Norm | None = None,
        *,
        in_channels: int = 3,
        small_images: bool = False,
    ) -> None:
        super().__init__()
        dilated = tuple(replace_stride_with_dilation or (False, False, False))
        if len(dilated) != 3:
            raise UsageError(
                "replace_stride_with_dilation should be None or a 3-element tuple, got "
                f"{replace_stride_with_dilation}"
            )
        norm = norm_layer or nn.BatchNorm2d
        kernel, stride, padding = (3, 1, 1) if small_images else (7, 2, 3)
        self.conv1 = nn.Conv2d(in_channels, 64, kernel, stride, padding, bias=False)
        self.bn1 = norm(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, 1)
        stage = _Stages(block, groups, width_per_group, norm)
        self.layer1 = stage(64, layers[0])
        self.layer2 = stage(128, layers[1], stride=2, dilate=dilated[0])
        self.layer3 = stage(256, layers[2], stride=2, dilate=dilated[1])
        self.layer4 = stage(512, layers[3], stride=2, dilate=dilated[2])
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, (BasicBlock, Bottleneck)):
                last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                nn.init.zeros_(last.weight)

    def forward(self, x: Array) -> Array:
        """Images ``[N, C, H, W]`` to logits ``[N, num_classes]``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.flatten(self.avgpool(x), 1))


class _Stages:
    """Makes one stage of blocks after the other, keeping count of channels and dilation."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], groups: int, width: int, norm: Norm
    ) -> None:
        self._block, self._groups, self._width, self._norm = block, groups, width, norm
        self._channels, self._dilation = 64, 1

    def __call__(
        self, planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        first_dilation = self._dilation
        if dilate:
            self._dilation, stride = self._dilation * stride, 1
        channels, out_channels = self._channels, planes * self._block.expansion
        downsample = None
        if stride != 1 or channels != out_channels:
            downsample = nn.Sequential(
                _conv1x1(channels, out_channels, stride), self._norm(out_channels)
            )
        self._channels = out_channels
        first = self._made(channels, planes, stride, downsample, first_dilation)
        others = [
            self._made(out_channels, planes, 1, None, self._dilation) for _ in range(1, blocks)
        ]
        return nn.Sequential(first, *others)

    def _made(
        self, channels: int, planes: int, stride: int, shortcut: nn.Module | None, dilation: int
    ) -> nn.Module:
        return self._block(
            channels, planes, stride, shortcut, self._groups, self._width, dilation, self._norm
        )


@builder(ResNet18_Weights)
def resnet18(**options: Any) -> ResNet:
    """The network of 18 layers: 11,689,512 parameters for 1,000 classes."""
    return ResNet(BasicBlock, (2, 2, 2, 2), **options)


@builder(ResNet34_Weights)
def resnet34(**options: Any) -> ResNet:
    """The network of 34 layers: 21,797,672 parameters for 1,000 classes."""
    return ResNet(BasicBlock, (3, 4, 6, 3), **options)


@builder(ResNet50_Weights)
def resnet50(**options: Any) -> ResNet:
    """The network of 50 layers: 25,557,032 parameters for 1,000 classes."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **options)


@builder(ResNet101_Weights)
def resnet101(**options: Any) -> ResNet:
    """The network of 101 layers: 44,549,160 parameters for 1,000 classes."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **options)


@builder(ResNet152_Weights)
def resnet152(**options: Any) -> ResNet:
    """The network of 152 layers: 60,192,808 parameters for 1,000 classes."""
    return ResNet(Bottleneck, (3, 8, 36, 3), **options)


@builder(ResNeXt50_32X4D_Weights, groups=32, width_per_group=4)
def resnext50_32x4d(**options: Any) -> ResNet:
    """50 layers, their 3x3 convolutions in 32 groups of 4 channels."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **options)


@builder(ResNeXt101_32X8D_Weights, groups=32, width_per_group=8)
def resnext101_32x8d(**options: Any) -> ResNet:
    """101 layers, their 3x3 convolutions in 32 groups of 8 channels."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **options)


@builder(ResNeXt101_64X4D_Weights, groups=64, width_per_group=4)
def resnext101_64x4d(**options: Any) -> ResNet:
    """101 layers, their 3x3 convolutions in 64 groups of 4 channels."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **options)


@builder(Wide_ResNet50_2_Weights, width_per_group=128)
def wide_resnet50_2(**options: Any) -> ResNet:
    """50 layers, their 3x3 convolutions of twice the channels."""
    return ResNet(Bottleneck, (3, 4, 6, 3), **options)


@builder(Wide_ResNet101_2_Weights, width_per_group=128)
def wide_resnet101_2(**options: Any) -> ResNet:
    """101 layers, their 3x3 convolutions of twice the channels."""
    return ResNet(Bottleneck, (3, 4, 23, 3), **options)
