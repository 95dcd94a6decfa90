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

_FLOATS_ONLY: frozenset[Any] = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        *("gelu", "silu", "silu_", "mish", "mish_", "hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_"),
        *("celu", "softplus", "log_sigmoid_forward", "hardshrink", "glu", "huber_loss", "smooth_l1_loss"),
        *("_softmax", "_log_softmax", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "bernoulli"),
    )
)
"""Their fake kernels take integers, their real ones do not."""

_LOSSES_OF_CLASSES: frozenset[Any] = frozenset(
    (torch.ops.aten.nll_loss_forward.default, torch.ops.aten.nll_loss2d_forward.default)
)

_MATRIX_PRODUCTS: frozenset[Any] = frozenset(
    getattr(torch.ops.aten, name).default
    for name in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "vdot", "linear", "addbmm")
)
"""Their fake kernels take tensors of several dtypes, their real ones do not."""


_CTC_LOSS: Any = torch.ops.aten._ctc_loss.Tensor
"""Has no fake kernel where the lengths are tensors, though they size only what it keeps for its backward."""


def without_kernel(func: Any, args: tuple[Any, ...]) -> Any:
    """Return fake results of an operator that has no fake kernel, or None: it has one."""
    if func is not _CTC_LOSS:
        return None
    scores, classes = args[0], args[1]
    n_times, n_rows = scores.shape[:2]
    return scores.new_empty((n_rows,)), scores.new_empty((n_rows, n_times, 2 * classes.shape[-1] + 1))


def running_statistics_written(func: Any, args: tuple[Any, ...]) -> list[torch.Tensor]:
    """Return the running statistics that a batch norm in training writes."""
    is_training = len(args) > _BATCH_NORM_TRAINING and args[_BATCH_NORM_TRAINING] is True
    if not is_training or func.name() not in _BATCH_NORMS:
        return []
    return [running for running in args[3:5] if isinstance(running, torch.Tensor)]


def refuse_dtypes(func: Any, args: tuple[Any, ...]) -> None:
    """Check that a real kernel would take the dtypes that a fake one is given.

    Raises:
        RuntimeError: If a matrix product gets tensors of several dtypes, an activation gets integers, or a
            loss gets classes that are not of int64 or uint8.
    """
    if func in _FLOATS_ONLY and not (args[0].is_floating_point() or args[0].is_complex()):
        raise RuntimeError(f"{func} is not implemented for {args[0].dtype}.")
    if func in _LOSSES_OF_CLASSES and args[1].dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"{func} takes classes of int64 or uint8, not of {args[1].dtype}.")
    if func not in _MATRIX_PRODUCTS:
        return
    dtypes = [arg.dtype for arg in args if isinstance(arg, torch.Tensor)]
    if len(set(dtypes)) > 1:
        found = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise RuntimeError(f"{func} takes tensors of one dtype, not of {found}.")


def storages_written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> set[int]:
    """Return the memory that an operator writes, by its schema."""
    return {storage_of(tensor) for tensor in tensors_written(func, args, kwargs)}


def tensors_written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Return the tensors that an operator writes, by its schema."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    found = [given.get(argument.name) for argument in func._schema.arguments if argument.is_write]
    return tensors_in(found)


def drops_nothing(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operator is only random by the dropout that it was asked for, and that is none."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    return (defaults | given).get("dropout_p") == 0.0
