"""A tensor as bytes of a length that both ends know, followed by what only the sender knows.

::

    [ the elements, contiguous ][ flags, 8 bytes ]

The flags say whether there is a tensor at all, whether it requires a gradient, and whether it is of another
shape or dtype than both ends agreed on. Such a tensor follows as a message of its own, after a description.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from math import prod

import torch

from autopipe.ir.tensor import DTYPE_BYTES

N_FLAG_BYTES = 8
N_DESCRIPTION_BYTES = 8 * 66  # dtype, number of dimensions, at most 64 sizes

_DTYPES = tuple(getattr(torch, name) for name in DTYPE_BYTES if hasattr(torch, name))


class Flags(IntFlag):
    """What only the sender knows."""

    THERE = 1
    REQUIRES_GRAD = 2
    OTHER_LAYOUT = 4


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

    def view(self, buffer: torch.Tensor) -> torch.Tensor:
        """Return the tensor that the first bytes of a buffer are."""
        return buffer[: self.nbytes].view(self.dtype).view(self.shape)

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
        ``[agreed.nbytes + 8]`` bytes; without the elements if the tensor is of another layout.

    Example:
        >>> message = packed(torch.arange(3.0), Layout((3,), torch.float32), requires_grad=False)
        >>> len(message), flags_of(message)
        (20, <Flags.THERE: 1>)
    """
    buffer = agreed.buffer()
    flags = Flags(0)
    if tensor is not None:
        flags |= Flags.THERE
        if requires_grad:
            flags |= Flags.REQUIRES_GRAD
        if Layout.of(tensor) != agreed:
            flags |= Flags.OTHER_LAYOUT
        else:
            with torch.no_grad():
                agreed.view(buffer).copy_(tensor.detach())
    buffer[agreed.nbytes] = int(flags)
    return buffer


def flags_of(buffer: torch.Tensor) -> Flags:
    """Return the flags of a message."""
    return Flags(int(buffer[-N_FLAG_BYTES]))
