"""Attention takes no symbolic bool: what the sizes decide is decided before torch looks at it, by a guard.

``is_causal=causal and q_len > 1`` is a bool in a plain run. During capture it is a symbolic one, which torch
refuses before any mode sees the call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional


@contextmanager
def booleans_decided() -> Iterator[None]:
    """Let ``scaled_dot_product_attention`` take symbolic bools."""
    attention = functional.scaled_dot_product_attention

    def decided(*args: Any, **kwargs: Any) -> torch.Tensor:
        return attention(*map(_decided, args), **{name: _decided(value) for name, value in kwargs.items()})

    functional.scaled_dot_product_attention = decided
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = attention


def _decided(argument: Any) -> Any:
    return bool(argument) if isinstance(argument, torch.SymBool) else argument
