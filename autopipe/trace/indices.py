"""Indices of the example that reach outside of a table: the model would raise, and so does the capture.

Fake tensors have no values, so an example of tokens beyond the vocabulary would be captured, and fail in the
first step. Where an argument itself is what an embedding or a loss looks up, its values are there to see.
"""

from __future__ import annotations

from typing import Any

import torch

from autopipe.trace.effects import storage_of
from autopipe.trace.foreign import has_no_values, outside_modes

_aten = torch.ops.aten
_LOOKUPS: dict[Any, str] = {
    _aten.embedding.default: "embedding",
    _aten._embedding_bag.default: "embedding",
    _aten._embedding_bag_forward_only.default: "embedding",
    _aten.nll_loss_forward.default: "loss",
    _aten.nll_loss2d_forward.default: "loss",
}
_IGNORE_INDEX = 4
"""The argument of a loss that says which class does not count."""


class OutOfRange(BaseException):
    """The example has indices that the model cannot look up; no module may catch this.

    Args:
        what: Which index, and of how many.
    """

    def __init__(self, what: str) -> None:
        """Take what is wrong."""
        super().__init__(what)
        self.what = what


class Indices:
    """The integers among the arguments."""

    def __init__(self) -> None:
        """Start with none."""
        self._real: dict[int, tuple[str, torch.Tensor]] = {}

    def know(self, fake: torch.Tensor, real: torch.Tensor) -> None:
        """Note an argument and the fake tensor that stands for it."""
        is_integer = not real.is_floating_point() and not real.is_complex() and real.dtype is not torch.bool
        if is_integer and real.numel() and not has_no_values(real) and real.layout == torch.strided:
            self._real[storage_of(fake)] = (str(fake.numel()), real)

    def written(self, storage: int) -> None:
        """Forget an argument that the model writes into."""
        self._real.pop(storage, None)

    def check(self, operator: Any, args: tuple[Any, ...]) -> None:
        """Raise where an operator looks up what is not there.

        Raises:
            OutOfRange: If the example has such an index.
        """
        kind = _LOOKUPS.get(operator)
        if kind is None or not self._real:
            return
        count, real = self._real.get(storage_of(args[1]), ("", None))
        if real is None or count != str(args[1].numel()):
            return
        if kind == "embedding":
            rows = int(args[0].shape[0])
            _check_range(real, rows, f"an embedding of {rows} rows")
            return
        scores = args[0]
        classes = int(scores.shape[1 if scores.dim() > 1 else 0])
        ignored = args[_IGNORE_INDEX] if len(args) > _IGNORE_INDEX else -100
        _check_range(real, classes, f"a loss over {classes} classes", ignored)


def _check_range(real: torch.Tensor, size: int, table: str, ignored: int = 0) -> None:  # 0 is in range
    with outside_modes():
        wrong = real[((real < 0) | (real >= size)) & (real != ignored)]
        first = next(iter(wrong.tolist()), None)
    if first is not None:
        raise OutOfRange(f"the index {first} is out of range for {table}")
