"""What tensors refuse to do, in torch's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symgrad.tensors.state import is_grad_enabled

if TYPE_CHECKING:
    from symgrad.tensors.handle import Tensor

LEAF_FLAGS = (
    "you can only change requires_grad flags of leaf variables. If you want to use a computed "
    "variable in a subgraph that doesn't require differentiation use var_no_grad = var.detach()."
)
NON_LEAF_GRAD = (
    "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its .grad "
    "attribute won't be populated during autograd.backward(). If you indeed want the .grad field "
    "to be populated for a non-leaf Tensor, use .retain_grad() on the non-leaf Tensor. If you "
    "access the non-leaf Tensor by mistake, make sure you access the leaf Tensor instead."
)
OVERLAP = (
    "unsupported operation: more than one element of the written-to tensor refers to a single "
    "memory location. Please clone() the tensor before performing the operation."
)
LEFT_OUT = (
    "A view was created in no_grad mode and is being modified inplace with grad mode enabled. "
    "Given that this use case is ambiguous and error-prone, it is forbidden. You can clarify your "
    "code by moving both the view and the inplace either both inside the no_grad block (if you "
    "don't want the inplace to be tracked) or both outside (if you want the inplace to be tracked)."
)
BY_HAND = (
    "{} is a view and {} modified inplace. This view was created inside a custom Function (or "
    "because an input was returned as-is) and the autograd logic to handle view+inplace would "
    "override the custom backward associated with the custom Function, leading to incorrect "
    "gradients. This behavior is forbidden. You can fix this by cloning the output of the custom "
    "Function."
)


def check_leaf(tensor: Tensor) -> None:
    """Refuses to turn a leaf into something else."""
    if not is_grad_enabled():
        return
    if tensor._requires_grad and tensor._node is None:
        raise RuntimeError(
            "a leaf Variable that requires grad is being used in an in-place operation."
        )
    if tensor._base is not None and tensor._base._requires_grad and tensor._base.is_leaf:
        raise RuntimeError(
            "a view of a leaf Variable that requires grad is being used in an in-place operation."
        )


def check_writable(tensor: Tensor, operand_tracked: bool) -> None:
    """Refuses in-place writes that the graph could not follow."""
    view = tensor._tracer._view
    if view is not None and view.write is None and tensor.numel():
        raise RuntimeError(OVERLAP)
    if tensor._is_left_out and is_grad_enabled():
        raise RuntimeError(LEFT_OUT)
    if tensor._by_hand is not None and is_grad_enabled():
        raise RuntimeError(BY_HAND.format(tensor._by_hand[0], "is being"))
    if tensor.requires_grad or operand_tracked:
        check_leaf(tensor)


def check_gradient(tensor: Tensor, new: Tensor | None) -> None:
    """Refuses a gradient that cannot be the tensor's."""
    if new is tensor:
        raise RuntimeError("can't assign Variable as its own grad")
    if new is not None and new.shape != tensor.shape:
        raise RuntimeError(
            f"assigned grad has data of a different size: {list(new.shape)} for a tensor of "
            f"{list(tensor.shape)}"
        )
    if new is not None and new._dtype != tensor._dtype:
        raise RuntimeError(
            f"attempting to assign a gradient with dtype '{new.dtype.scalar_name.lower()}' to "
            f"a tensor with grad_dtype '{tensor.dtype.scalar_name}'. The gradient must match the "
            "tensor's dtype"
        )
