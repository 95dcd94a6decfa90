"""Dropout that does nothing returns its very argument, during capture as in a plain run.

torch's Python kernel of ``aten.dropout`` copies instead, so that a write in place after a dropout in eval
mode would look as if it left the dropout's argument alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._C import DispatchKey

_KEYS = (DispatchKey.CompositeImplicitAutograd, DispatchKey.Autograd)


@contextmanager
def eager_dropout() -> Iterator[None]:
    """Let ``aten.dropout`` alias inside as its C++ kernel does."""
    op: Any = torch.ops.aten.dropout.default
    before = {key: op.py_kernels[key] for key in _KEYS if key in op.py_kernels}

    def dropout(input: torch.Tensor, p: float, train: bool | None) -> torch.Tensor:
        if not train or p == 0:
            return input
        drawn: torch.Tensor = torch.ops.aten.native_dropout(input, p, train)[0]
        return drawn

    try:
        for key in before:
            op.py_kernels[key] = dropout
            op._uncache_dispatch(key)
        yield
    finally:
        for key, kernel in before.items():
            op.py_kernels[key] = kernel
            op._uncache_dispatch(key)
