"""The arguments of one run: what they were before it, and what it left in them."""

from __future__ import annotations

from typing import Any

import torch

from autopipe.ir.structure import tensors_in
from autopipe.verify.inputs import Call, copied


class Given:
    """A copy of the arguments for one run, which may change it.

    Args:
        call: The arguments.
    """

    def __init__(self, call: Call) -> None:
        """Copy, and remember."""
        self.args, self.kwargs = copied(call)
        self.tensors = tensors_in(self.both)
        self._versions = {id(tensor): tensor._version for tensor in self.tensors}

    @property
    def both(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)``."""
        return self.args, self.kwargs

    def left(self) -> list[torch.Tensor]:
        """Return the tensors among the arguments that the run put or wrote there."""
        return [
            tensor for tensor in tensors_in(self.both) if self._versions.get(id(tensor)) != tensor._version
        ]
