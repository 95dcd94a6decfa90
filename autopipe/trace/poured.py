"""Makes an object what a changed copy of it is, so that whoever holds it or a part of it sees the change."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_BY_REFERENCE = (type, torch.Tensor, nn.Module)


def poured(new: Any, old: Any) -> Any:
    """Return ``old``, changed in place to what ``new`` is, or ``new`` where it cannot be changed.

    Args:
        new: Any value.
        old: What it was made from.

    Example:
        >>> inner = []
        >>> poured({"x": [1, 2], "y": (3,)}, {"x": inner, "z": 4})
        {'x': [1, 2], 'y': (3,)}
        >>> inner
        [1, 2]
    """
    return _Pouring().value(new, old)


class _Pouring:
    """One change, each object of it met once."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}

    def value(self, new: Any, old: Any) -> Any:
        if id(new) in self._done:
            return self._done[id(new)]
        if new is old or type(new) is not type(old) or isinstance(new, _BY_REFERENCE):
            return new
        if type(new) is tuple and len(new) == len(old):
            return tuple(map(self.value, new, old))
        if isinstance(new, dict | list) or hasattr(new, "__dict__"):
            self._done[id(new)] = old
            self._pour(new, old)
            return old
        return new

    def _pour(self, new: Any, old: Any) -> None:
        if isinstance(new, list):
            old[:] = [self.value(item, old[i] if i < len(old) else None) for i, item in enumerate(new)]
        if isinstance(new, dict):
            items = {key: self.value(item, old.get(key)) for key, item in new.items()}
            old.clear()
            old.update(items)
        if hasattr(new, "__dict__"):
            before = vars(old)
            attributes = {name: self.value(item, before.get(name)) for name, item in vars(new).items()}
            before.clear()
            before.update(attributes)
