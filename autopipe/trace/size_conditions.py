"""Conditions on sizes that only a run knows: ``assert len(x[mask]) == len(features)``.

The capture has no number for such a size, but it knows the tensors that have it::

    len(x[mask]) == len(features)      the condition during capture: u0 == u1
    u0, u1                             dimension 0 of x[mask], dimension 0 of features
    SizeCondition("_0 == _1", (0, 0))  in a run, called with the two tensors
"""

from __future__ import annotations

import torch

from autopipe.ir.tensor import evaluate_size


class SizeCondition:
    """A condition on sizes of tensors, to be asked in a run.

    Args:
        text: A Python expression over ``_0``, ``_1``, ... and the names of symbolic sizes.
        dims: Of which dimension of each tensor ``_0``, ``_1``, ... is the size.
        names: The symbolic sizes in it.

    Example:
        >>> SizeCondition("_0 == 2*_1", (0, 1))(torch.ones(6), torch.ones(2, 3))
        True
    """

    def __init__(self, text: str, dims: tuple[int, ...], names: tuple[str, ...] = ()) -> None:
        """Keep all three."""
        self.text, self.dims, self.names = text, dims, names

    def __call__(self, *given: torch.Tensor | int) -> bool:
        """Return whether it holds.

        Args:
            given: The tensors, then the values of the symbolic sizes.
        """
        tensors, sizes = given[: len(self.dims)], given[len(self.dims) :]
        values = dict(zip(self.names, map(int, sizes), strict=True))
        for index, (tensor, dim) in enumerate(zip(tensors, self.dims, strict=True)):
            assert isinstance(tensor, torch.Tensor)
            values[f"_{index}"] = tensor.shape[dim]
        return bool(evaluate_size(self.text, values))
