"""The example of a model: what the user gave, or what the model carries with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from autopipe.errors import ArgumentError, a_type
from autopipe.ir.structure import tensors_in

REMEDY = "autopipe.split(model, n_stages, (tokens,)) with one microbatch: real, fake or meta tensors."
BY_NAME = 'example_kwargs={"input_ids": tokens}'


def example_of(
    model: nn.Module, args: tuple[Any, ...] | None, kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that a model is captured with: one microbatch.

    Args:
        model: The model; ``dummy_inputs`` (transformers) or ``example_input_array`` (Lightning) is taken
            where the caller gives nothing.
        args: Positional arguments, or None.
        kwargs: Keyword arguments, or None.

    Returns:
        Positional and keyword arguments.

    Raises:
        ArgumentError: If there is no example, if it is no tuple or dict, or if no tensor is in it.

    Example:
        >>> example_of(nn.Linear(2, 2), None, {"input": 1.0})
        Traceback (most recent call last):
        ...
        autopipe.errors.ArgumentError: the example has no tensor in it.
          Try: autopipe.split(model, n_stages, (tokens,)) with one microbatch: real, fake or meta tensors.
    """
    if args is None and kwargs is None:
        args, kwargs = _carried(model)
    if args is not None and not isinstance(args, tuple):
        raise ArgumentError(
            f"example_args is {a_type(args)}, not a tuple.",
            why="It holds the positional arguments of one call of the model.",
            remedy="example_args=(tokens,), with the comma.",
        )
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ArgumentError(
            f"example_kwargs is {a_type(kwargs)}, not a dict from argument names to values.", remedy=BY_NAME
        )
    for key in kwargs or ():
        if not isinstance(key, str):
            raise ArgumentError(
                f"example_kwargs: the key {key!r} is {a_type(key)}, not the name of an argument.",
                remedy=BY_NAME,
            )
    example = tuple(args or ()), dict(kwargs or {})
    if not tensors_in(example):
        raise ArgumentError(
            "the example has no tensor in it.",
            remedy=REMEDY,
        )
    return example


def _carried(model: nn.Module) -> tuple[tuple[Any, ...] | None, Mapping[str, Any] | None]:
    """Return the example that the model itself has."""
    dummy = getattr(model, "dummy_inputs", None)
    if isinstance(dummy, Mapping):
        return (), dict(dummy)
    array = getattr(model, "example_input_array", None)
    if isinstance(array, Mapping):
        return (), dict(array)
    if array is not None:
        return (array if isinstance(array, tuple) else (array,)), {}
    raise ArgumentError(
        f"autopipe needs an example of the arguments of {type(model).__name__}.",
        why="The model carries none (dummy_inputs or example_input_array).",
        remedy=REMEDY,
    )
