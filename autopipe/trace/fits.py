"""Whether arguments fit a model at all: what the model itself refuses is no fault of the capture."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import nn

from autopipe.errors import ArgumentError
from autopipe.ir.structure import map_tensors, tensors_in
from autopipe.trace.foreign import has_no_values
from autopipe.trace.source import line_of_error
from autopipe.trace.streams import kept_streams
from autopipe.trace.trials import LIMIT_BYTES

_WIDTH = 100
"""How many characters of a signature are printed."""


def refuse_arguments_that_do_not_bind(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Check that the arguments are those that ``forward`` takes.

    Args:
        model: The model.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Raises:
        ArgumentError: If one is missing, or unknown, or given twice.
    """
    signature = _signature(model)
    if signature is None:
        return
    try:
        # Of the decorator, if there is one: it may take what it does not pass on.
        inspect.signature(model.forward, follow_wrapped=False).bind(*args, **kwargs)
    except TypeError as error:
        raise ArgumentError(
            f"the arguments do not fit {_spelled(model, signature)}: {error}.",
            where=_where(model),
            why=_given(signature, args, kwargs),
            remedy="one microbatch of just the arguments that the model is called with.",
        ) from error


def refuse_ragged_tensors(paths: Sequence[str], tensors: Sequence[torch.Tensor]) -> None:
    """Check that every tensor has one size a dimension.

    Args:
        paths: How a user would write each.
        tensors: The tensors among the arguments.

    Raises:
        ArgumentError: If one is nested.
    """
    for path, tensor in zip(paths, tensors, strict=True):
        if tensor.is_nested:
            raise ArgumentError(
                f"{path} is a nested tensor, whose rows have lengths of their own.",
                why="Stages are planned, and microbatches cut, by the sizes of tensors.",
                remedy="torch.nested.to_padded_tensor(x, 0.0) and a mask",
            )


def refuse_arguments_that_fail(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run a copy of the model on the arguments, to see whether it is the model that refuses them.

    Models and arguments without data, and models above 1 GiB, are not run.

    Args:
        model: The model; it is left as it is.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Raises:
        ArgumentError: If the model raises, unsplit, too.
    """
    given = tensors_in((args, kwargs))
    weights = [*model.parameters(), *model.buffers()]
    if any(map(has_no_values, [*given, *weights])):
        return
    if sum(weight.numel() * weight.element_size() for weight in weights) > LIMIT_BYTES:
        return
    try:
        real = copy.deepcopy(model)
        args, kwargs = map_tensors(lambda tensor: tensor.detach().clone(), (args, kwargs))
    except Exception:  # what cannot be copied is not run
        return
    devices = {tensor.device for tensor in [*given, *weights] if tensor.is_cuda}
    try:
        with kept_streams(), torch.random.fork_rng(devices=sorted(devices, key=str)):
            real.forward(*args, **kwargs)
    except Exception as error:
        raise _does_not_fit(model, real, error, args, kwargs) from error


def out_of_range(
    model: nn.Module, what: str, trace: TracebackType | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ArgumentError:
    """Return the error of an example whose indices are in no table of the model.

    Args:
        model: The model.
        what: Which index, of which table.
        trace: Where the capture met it.
        args: Positional arguments.
        kwargs: Keyword arguments.
    """
    signature, fqn, line = _signature(model), _innermost_module(model, trace), line_of_error(trace)
    given = _given(signature, args, kwargs) if signature is not None else ""
    return ArgumentError(
        f"the example does not fit {_spelled(model, signature)}: {what}.",
        where=" ".join(part for part in (f"in {fqn}" if fqn else _where(model), line) if part),
        why=f"The model itself raises here, unsplit. {given}",
        remedy='indices that are in range; or an example without values: torch.empty(..., device="meta")',
    )


def _does_not_fit(
    model: nn.Module, real: nn.Module, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> ArgumentError:
    signature = _signature(model)
    first_line = (str(error).strip().splitlines() or [""])[0]
    fqn = _innermost_module(real, error.__traceback__)
    line = line_of_error(error.__traceback__)
    given = _given(signature, args, kwargs) if signature is not None else ""
    return ArgumentError(
        f"the arguments do not fit {_spelled(model, signature)}: {type(error).__name__}: {first_line}",
        where=" ".join(part for part in (f"in {fqn}" if fqn else _where(model), line) if part),
        why=f"The model itself raises this, unsplit. {given}",
        remedy="arguments that model(*args, **kwargs) takes.",
    )


def _innermost_module(model: nn.Module, trace: TracebackType | None) -> str:
    fqns = {id(module): fqn for fqn, module in model.named_modules()}
    found = ""
    while trace is not None:
        found = fqns.get(id(trace.tb_frame.f_locals.get("self")), found)
        trace = trace.tb_next
    return found


def _signature(model: nn.Module) -> inspect.Signature | None:
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None
    plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)


def _spelled(model: nn.Module, signature: inspect.Signature | None) -> str:
    text = str(signature) if signature is not None else "(...)"
    return "forward" + (text if len(text) <= _WIDTH else f"{text[:_WIDTH]} ...)")


def _where(model: nn.Module) -> str:
    return f"in {type(model).__qualname__}.forward"


def _given(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    names = [p.name for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    positional = [names[i] if i < len(names) else f"argument {i}" for i in range(len(args))]
    named = [*zip(positional, args, strict=True), *kwargs.items()]
    return "It was given " + ", ".join(f"{name}: {_described(value)}" for name, value in named) + "."


def _described(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, bool | int | float | str | type(None)):
        return repr(value)
    return f"a {type(value).__name__}"
