"""What torch's operators do that their fake kernels and schemas do not tell."""

from __future__ import annotations

from typing import Any

import torch

from autopipe.ir.structure import tensors_in
from autopipe.trace.effects import storage_of

_BATCH_NORMS = (
    "aten::native_batch_norm",
    "aten::_native_batch_norm_legit",
    "aten::_batch_norm_with_update",
    "aten::cudnn_batch_norm",
    "aten::miopen_batch_norm",
)
_BATCH_NORM_TRAINING = 5
"""The schema says that the running statistics (arguments 3 and 4) are only read; training writes them."""

CONVOLUTIONS: frozenset[Any] = frozenset(
    getattr(torch, f"conv{kind}{n}d") for kind in ("", "_transpose") for n in (1, 2, 3)
)

_MATRIX_PRODUCTS: frozenset[Any] = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "vdot", "linear", "addbmm")
)
"""Their fake kernels take tensors of several dtypes, their real ones do not."""


def running_statistics_written(func: Any, args: tuple[Any, ...]) -> list[torch.Tensor]:
    """Return the running statistics that a batch norm in training writes."""
    is_training = len(args) > _BATCH_NORM_TRAINING and args[_BATCH_NORM_TRAINING] is True
    if not is_training or func.name() not in _BATCH_NORMS:
        return []
    return [running for running in args[3:5] if isinstance(running, torch.Tensor)]


def refuse_mixed_dtypes(func: Any, args: tuple[Any, ...]) -> None:
    """Check that a matrix product gets tensors of one dtype.

    Raises:
        RuntimeError: If it does not, as its real kernel would.
    """
    if func not in _MATRIX_PRODUCTS:
        return
    dtypes = [arg.dtype for arg in args if isinstance(arg, torch.Tensor)]
    if len(set(dtypes)) > 1:
        found = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise RuntimeError(f"{func} takes tensors of one dtype, not of {found}.")


def storages_written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[int]:
    """Return the memory that an operator writes, by its schema."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    found = [given.get(argument.name) for argument in func._schema.arguments if argument.is_write]
    return {storage_of(tensor) for tensor in tensors_in(found)}


def drops_nothing(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator is only random by the dropout that it was asked for, and that is none."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    return (defaults | given).get("dropout_p") == 0.0
