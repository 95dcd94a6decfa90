"""What a model calls that is not in its own file."""

from __future__ import annotations

import torch


def refuse_large(x: torch.Tensor) -> None:
    """Look at values, as libraries' checks do."""
    if x.sum() > 1000:
        x.add_(1)


class Counting:
    """A mixin of modules that have their forward elsewhere."""

    def is_positive(self, x: torch.Tensor) -> bool:
        return bool(x.sum() > 0)
