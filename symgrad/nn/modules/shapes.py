"""Layers that pad, resize and rearrange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from symgrad.nn import functional as F
from symgrad.nn.module import Module
from symgrad.nn.windows import Numbers

Array = Any


class Flatten(Module):
    """Joins the axes from ``start_dim`` to ``end_dim``."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Array) -> Array:
        """``[N, ...]`` to ``[N, elements]``, by the defaults."""
        return F.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """The axes."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Splits an axis into several."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, unflattened_size

    def forward(self, input: Array) -> Array:
        """The axis ``dim`` becomes axes of ``unflattened_size``."""
        return F.unflatten(input, self.dim, tuple(self.unflattened_size))

    def extra_repr(self) -> str:
        """The axis and its new sizes."""
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Upsample(Module):
    """Images resized; see ``functional.interpolate``."""

    def __init__(
        self, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
        align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size, self.mode, self.align_corners = size, mode, align_corners
        self.recompute_scale_factor = recompute_scale_factor
        self.scale_factor = (
            tuple(float(f) for f in scale_factor)
            if isinstance(scale_factor, tuple)
            else None
            if scale_factor is None
            else float(scale_factor)
        )

    def forward(self, input: Array) -> Array:
        """``[N, C, *spatial]`` to ``[N, C, *spatial']``."""
        return F.interpolate(
            input, self.size, self.scale_factor, self.mode, self.align_corners,
            self.recompute_scale_factor,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """The sizes and the mode."""
        if self.scale_factor is not None:
            return f"scale_factor={self.scale_factor!r}, mode={self.mode!r}"
        return f"size={self.size!r}, mode={self.mode!r}"


class UpsamplingNearest2d(Upsample):
    """Images resized by copying the nearest pixel."""

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, mode="nearest")


class UpsamplingBilinear2d(Upsample):
    """Images resized between pixels, the corners keeping their values."""

    def __init__(self, size: Any = None, scale_factor: Any = None) -> None:
        super().__init__(size, scale_factor, mode="bilinear", align_corners=True)


class PixelShuffle(Module):
    """Channels into pixels; see ``functional.pixel_shuffle``."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Array) -> Array:
        """``[..., C r^2, H, W]`` to ``[..., C, H r, W r]``."""
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        """The factor."""
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """Pixels into channels; see ``functional.pixel_unshuffle``."""

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: Array) -> Array:
        """``[..., C, H r, W r]`` to ``[..., C r^2, H, W]``."""
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        """The factor."""
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """Groups of channels take turns; see ``functional.channel_shuffle``."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, input: Array) -> Array:
        """``[N, C, *spatial]`` to the same."""
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        """How many groups."""
        return f"groups={self.groups}"


class Unfold(Module):
    """Sliding blocks of images as columns; see ``functional.unfold``."""

    def __init__(
        self, kernel_size: Numbers, dilation: Numbers = 1, padding: Numbers = 0,
        stride: Numbers = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.kernel_size, self.dilation = kernel_size, dilation
        self.padding, self.stride = padding, stride

    def forward(self, input: Array) -> Array:
        """``[N, C, H, W]`` to ``[N, C kh kw, blocks]``."""
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        """The windows."""
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, "
            f"stride={self.stride}"
        )


class Fold(Unfold):
    """Sliding blocks added up in images; see ``functional.fold``."""

    def __init__(
        self, output_size: Numbers, kernel_size: Numbers, dilation: Numbers = 1,
        padding: Numbers = 0, stride: Numbers = 1,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, dilation, padding, stride)
        self.output_size = output_size

    def forward(self, input: Array) -> Array:
        """``[N, C kh kw, blocks]`` to ``[N, C, H, W]``."""
        windows = (self.kernel_size, self.dilation, self.padding, self.stride)
        return F.fold(input, self.output_size, *windows)

    def extra_repr(self) -> str:
        """The images' size and the windows."""
        return f"output_size={self.output_size}, {super().extra_repr()}"


class _Pad(Module):
    """Images widened."""

    rank: ClassVar[int]
    mode: ClassVar[str]

    def __init__(self, padding: int | Sequence[int]) -> None:
        super().__init__()
        self.padding = (padding,) * (2 * self.rank) if isinstance(padding, int) else tuple(padding)

    def forward(self, input: Array) -> Array:
        """The last axes become longer."""
        return F.pad(input, self.padding, self.mode)

    def extra_repr(self) -> str:
        """The widths."""
        return f"{self.padding}"


class ZeroPad1d(_Pad):
    """``[..., L]`` widened by zeros."""

    rank, mode = 1, "constant"


class ZeroPad2d(_Pad):
    """``[..., H, W]`` widened by zeros: (left, right, top, bottom)."""

    rank, mode = 2, "constant"


class ZeroPad3d(_Pad):
    """``[..., D, H, W]`` widened by zeros."""

    rank, mode = 3, "constant"


class ReflectionPad1d(_Pad):
    """``[..., L]`` widened by its mirror image."""

    rank, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """``[..., H, W]`` widened by its mirror image."""

    rank, mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """``[..., D, H, W]`` widened by its mirror image."""

    rank, mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """``[..., L]`` widened by its ends."""

    rank, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """``[..., H, W]`` widened by its border."""

    rank, mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """``[..., D, H, W]`` widened by its border."""

    rank, mode = 3, "replicate"


class CircularPad1d(_Pad):
    """``[..., L]`` continued periodically."""

    rank, mode = 1, "circular"


class CircularPad2d(_Pad):
    """``[..., H, W]`` continued periodically."""

    rank, mode = 2, "circular"


class CircularPad3d(_Pad):
    """``[..., D, H, W]`` continued periodically."""

    rank, mode = 3, "circular"


class _ConstantPad(_Pad):
    mode = "constant"

    def __init__(self, padding: int | Sequence[int], value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Array) -> Array:
        """The last axes become longer."""
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        """The widths and the number."""
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPad):
    """``[..., L]`` widened by a number."""

    rank = 1


class ConstantPad2d(_ConstantPad):
    """``[..., H, W]`` widened by a number."""

    rank = 2


class ConstantPad3d(_ConstantPad):
    """``[..., D, H, W]`` widened by a number."""

    rank = 3
