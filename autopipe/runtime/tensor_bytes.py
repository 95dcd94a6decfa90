"""A tensor as bytes of a length that both ends know, followed by what only the sender knows.

::

    [ the elements, as they lie in memory, without gaps ][ flags, order of the dimensions: 16 bytes ]

The flags say whether there is a tensor at all, whether it requires a gradient, and whether it is of another
shape or dtype than both ends agreed on. Such a tensor follows as a message of its own, after a description.
The order says which dimension is the outermost in memory and so on, so that what is transposed or
channels-last arrives so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from math import prod

import torch

from autopipe.ir.tensor import DTYPE_BYTES

N_FLAG_BYTES = 16
_LONGEST_ORDER = N_FLAG_BYTES - 1
N_DESCRIPTION_BYTES = 8 * 66  # dtype, number of dimensions, at most 64 sizes

_DTYPES = tuple(getattr(torch, name) for name in DTYPE_BYTES if hasattr(torch, name))


class Flags(IntFlag):
    """What only the sender knows."""

    THERE = 1
    REQUIRES_GRAD = 2
    OTHER_LAYOUT = 4
    REORDERED = 8


@dataclass(frozen=True, slots=True)
class Layout:
    """Shape and dtype of a tensor in a message.

    Example:
        >>> Layout((2, 3), torch.bfloat16).nbytes
        12
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Layout:
        """Return the layout of a tensor."""
        return cls(tuple(tensor.shape), tensor.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return prod(self.shape) * self.dtype.itemsize

    def buffer(self) -> torch.Tensor:
        """Return memory for a message of this layout."""
        return torch.empty(self.nbytes + N_FLAG_BYTES, dtype=torch.uint8)

    def view(self, buffer: torch.Tensor, order: Sequence[int] = ()) -> torch.Tensor:
        """Return the tensor that the first bytes of a buffer are, its dimensions in some order in memory."""
        elements = buffer[: self.nbytes].view(self.dtype)
        if not order:
            return elements.view(self.shape)
        places = [order.index(dim) for dim in range(len(order))]
        return elements.view([self.shape[dim] for dim in order]).permute(places)

    def described(self) -> torch.Tensor:
        """Return the layout as a message."""
        numbers = [_DTYPES.index(self.dtype), len(self.shape), *self.shape]
        found = torch.zeros(N_DESCRIPTION_BYTES // 8, dtype=torch.int64)
        found[: len(numbers)] = torch.tensor(numbers)
        return found.view(torch.uint8)

    @classmethod
    def read(cls, description: torch.Tensor) -> Layout:
        """Return the layout that ``described`` made a message of."""
        dtype, n_dims, *sizes = description.view(torch.int64).tolist()
        return cls(tuple(sizes[:n_dims]), _DTYPES[dtype])


NOTHING = Layout((0,), torch.uint8)
"""Of a message that is not expected to hold a tensor."""


def packed(tensor: torch.Tensor | None, agreed: Layout, *, requires_grad: bool) -> torch.Tensor:
    """Return a message; the tensor is copied, so that its owner may change it at once.

    Args:
        tensor: Of any strides, on any device; None: there is none.
        agreed: The layout that the receiver expects.
        requires_grad: Whether the receiver should.

    Returns:
        ``[agreed.nbytes + 16]`` bytes; without the elements if the tensor is of another layout.

    Example:
        >>> message = packed(torch.arange(3.0), Layout((3,), torch.float32), requires_grad=False)
        >>> len(message), flags_of(message)
        (28, <Flags.THERE: 1>)
    """
    buffer = agreed.buffer()
    flags = flags_for(tensor, agreed, requires_grad=requires_grad)
    order: tuple[int, ...] = ()
    if tensor is not None and Flags.OTHER_LAYOUT not in flags:
        order = order_for(tensor)
        write_elements(tensor, agreed, buffer, order)
    _write_tail(buffer, flags, order)
    return buffer


def flags_for(tensor: torch.Tensor | None, agreed: Layout, *, requires_grad: bool) -> Flags:
    """Return what a receiver that expects a layout must be told of a tensor."""
    if tensor is None:
        return Flags(0)
    flags = Flags.THERE
    if requires_grad:
        flags |= Flags.REQUIRES_GRAD
    if Layout.of(tensor) != agreed:
        flags |= Flags.OTHER_LAYOUT
    return flags


def order_for(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the dimensions from the outermost in memory to the innermost; () if that is their own order.

    Example:
        >>> order_for(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last))
        (0, 2, 3, 1)
    """
    strides = tensor.stride()
    if tensor.is_contiguous() or 0 in strides or tensor.dim() > _LONGEST_ORDER:
        return ()
    order = tuple(sorted(range(tensor.dim()), key=lambda dim: -strides[dim]))
    return order if order != tuple(range(tensor.dim())) else ()


def write_elements(
    tensor: torch.Tensor, layout: Layout, buffer: torch.Tensor, order: Sequence[int] = ()
) -> None:
    """Copy the elements of a tensor of this layout into the first bytes of a buffer, on any device."""
    with torch.no_grad():
        layout.view(buffer, order).copy_(tensor.detach())


def tail_alone(flags: Flags, order: Sequence[int] = ()) -> torch.Tensor:
    """Return a message of flags and order, and no elements."""
    buffer = NOTHING.buffer()
    _write_tail(buffer, flags, order)
    return buffer


def _write_tail(buffer: torch.Tensor, flags: Flags, order: Sequence[int]) -> None:
    if order:
        flags |= Flags.REORDERED
        buffer[1 - N_FLAG_BYTES :][: len(order)] = torch.tensor(order, dtype=torch.uint8)
    buffer[-N_FLAG_BYTES] = int(flags)


def flags_of(buffer: torch.Tensor) -> Flags:
    """Return the flags of a message."""
    return Flags(int(buffer[-N_FLAG_BYTES]))


def order_of(buffer: torch.Tensor, layout: Layout) -> tuple[int, ...]:
    """Return the order of the dimensions in memory that a message tells, () for their own."""
    if Flags.REORDERED not in flags_of(buffer):
        return ()
    return tuple(buffer[1 - N_FLAG_BYTES :][: len(layout.shape)].tolist())
