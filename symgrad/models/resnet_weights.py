"""The weights that torchvision publishes for residual networks.

Version 1 reproduces the papers with a simple recipe, version 2 comes of torchvision's longer
one and prefers images of 232 pixels cropped to 224.
"""

from __future__ import annotations

from functools import partial

from symgrad.hub import TORCHVISION
from symgrad.models.categories import Meta
from symgrad.models.transforms import ImageClassification
from symgrad.models.weights import Weights, WeightsEnum

_RECIPES = "https://github.com/pytorch/vision/"
_RESNET = f"{_RECIPES}tree/main/references/classification#resnet"
_RESNEXT = f"{_RECIPES}tree/main/references/classification#resnext"
_WIDE = f"{_RECIPES}pull/912#issue-445437439"
_NEW = f"{_RECIPES}issues/3995#new-recipe"
_FIXRES = f"{_RECIPES}issues/3995#new-recipe-with-fixres"


def _weights(
    file: str, parameters: int, accuracy: tuple[float, float], work: float, size: float,
    recipe: str, resize_size: int = 256,
) -> Weights:  # fmt: skip
    """One entry: accuracies are those of the first and the first five guesses in per cent,
    ``work`` thousand millions of multiplications an image, ``size`` megabytes."""
    meta = Meta(
        num_params=parameters,
        min_size=(1, 1),
        recipe=recipe,
        _metrics={"ImageNet-1K": {"acc@1": accuracy[0], "acc@5": accuracy[1]}},
        _ops=work,
        _file_size=size,
    )
    transforms = partial(ImageClassification, crop_size=224, resize_size=resize_size)
    return Weights(TORCHVISION + file, transforms, meta)


class ResNet18_Weights(WeightsEnum):  # noqa: N801  (torchvision's names)
    """Weights of ``resnet18``."""

    IMAGENET1K_V1 = _weights(
        "resnet18-f37072fd.pth", 11689512, (69.758, 89.078), 1.814, 44.661, _RESNET
    )
    DEFAULT = IMAGENET1K_V1


class ResNet34_Weights(WeightsEnum):  # noqa: N801
    """Weights of ``resnet34``."""

    IMAGENET1K_V1 = _weights(
        "resnet34-b627a593.pth", 21797672, (73.314, 91.420), 3.664, 83.275, _RESNET
    )
    DEFAULT = IMAGENET1K_V1


class ResNet50_Weights(WeightsEnum):  # noqa: N801
    """Weights of ``resnet50``."""

    IMAGENET1K_V1 = _weights(
        "resnet50-0676ba61.pth", 25557032, (76.130, 92.862), 4.089, 97.781, _RESNET
    )
    IMAGENET1K_V2 = _weights(
        "resnet50-11ad3fa6.pth", 25557032, (80.858, 95.434), 4.089, 97.79,
        f"{_RECIPES}issues/3995#issuecomment-1013906621", 232,
    )  # fmt: skip
    DEFAULT = IMAGENET1K_V2


class ResNet101_Weights(WeightsEnum):  # noqa: N801
    """Weights of ``resnet101``."""

    IMAGENET1K_V1 = _weights(
        "resnet101-63fe2227.pth", 44549160, (77.374, 93.546), 7.801, 170.511, _RESNET
    )
    IMAGENET1K_V2 = _weights(
        "resnet101-cd907fc2.pth", 44549160, (81.886, 95.780), 7.801, 170.53, _NEW, 232
    )
    DEFAULT = IMAGENET1K_V2


class ResNet152_Weights(WeightsEnum):  # noqa: N801
    """Weights of ``resnet152``."""

    IMAGENET1K_V1 = _weights(
        "resnet152-394f9c45.pth", 60192808, (78.312, 94.046), 11.514, 230.434, _RESNET
    )
    IMAGENET1K_V2 = _weights(
        "resnet152-f82ba261.pth", 60192808, (82.284, 96.002), 11.514, 230.474, _NEW, 232
    )
    DEFAULT = IMAGENET1K_V2


class ResNeXt50_32X4D_Weights(WeightsEnum):  # noqa: N801
    """Weights of ``resnext50_32x4d``."""

    IMAGENET1K_V1 = _weights(
        "resnext50_32x4d-7cdf4587.pth", 25028904, (77.618, 93.698), 4.23, 95.789, _RESNEXT
    )
    IMAGENET1K_V2 = _weights(
        "resnext50_32x4d-1a0047aa.pth", 25028904, (81.198, 95.340), 4.23, 95.833, _NEW, 232
    )
    DEFAULT = IMAGENET1K_V2


class ResNeXt101_32X8D_Weights(WeightsEnum):  # noqa: N801
    """Weights of ``resnext101_32x8d``."""

    IMAGENET1K_V1 = _weights(
        "resnext101_32x8d-8ba56ff5.pth", 88791336, (79.312, 94.526), 16.414, 339.586, _RESNEXT
    )
    IMAGENET1K_V2 = _weights(
        "resnext101_32x8d-110c445d.pth", 88791336, (82.834, 96.228), 16.414, 339.673, _FIXRES, 232
    )
    DEFAULT = IMAGENET1K_V2


class ResNeXt101_64X4D_Weights(WeightsEnum):  # noqa: N801
    """Weights of ``resnext101_64x4d``."""

    IMAGENET1K_V1 = _weights(
        "resnext101_64x4d-173b62eb.pth", 83455272, (83.246, 96.454), 15.46, 319.318,
        f"{_RECIPES}pull/5935", 232,
    )  # fmt: skip
    DEFAULT = IMAGENET1K_V1


class Wide_ResNet50_2_Weights(WeightsEnum):  # noqa: N801
    """Weights of ``wide_resnet50_2``."""

    IMAGENET1K_V1 = _weights(
        "wide_resnet50_2-95faca4d.pth", 68883240, (78.468, 94.086), 11.398, 131.82, _WIDE
    )
    IMAGENET1K_V2 = _weights(
        "wide_resnet50_2-9ba9bcbe.pth", 68883240, (81.602, 95.758), 11.398, 263.124, _FIXRES, 232
    )
    DEFAULT = IMAGENET1K_V2


class Wide_ResNet101_2_Weights(WeightsEnum):  # noqa: N801
    """Weights of ``wide_resnet101_2``."""

    IMAGENET1K_V1 = _weights(
        "wide_resnet101_2-32ee1156.pth", 126886696, (78.848, 94.284), 22.753, 242.896, _WIDE
    )
    IMAGENET1K_V2 = _weights(
        "wide_resnet101_2-d733dc28.pth", 126886696, (82.510, 96.020), 22.753, 484.747, _NEW, 232
    )
    DEFAULT = IMAGENET1K_V2
