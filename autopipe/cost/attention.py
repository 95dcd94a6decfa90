"""Attention in the form that is to be priced: as a GPU would run it, and with its products in sight."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_N_BEFORE_DROPOUT = 4  # query, key, value, mask


class FusedAttention(TorchFunctionMode):
    """Lets attention with dropout take the fused kernel: a GPU has one, a CPU only without dropout."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Leave out ``dropout_p``."""
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.scaled_dot_product_attention:
            kwargs.pop("dropout_p", None)
            if len(args) > _N_BEFORE_DROPOUT:
                args = (*args[:_N_BEFORE_DROPOUT], 0.0, *args[_N_BEFORE_DROPOUT + 1 :])
        return func(*args, **kwargs)


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Keep nn.MultiheadAttention and nn.TransformerEncoderLayer out of their one operation for inference.

    Nothing is known of that operation but its name; the products that it fuses are the same.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
