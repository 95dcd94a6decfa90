"""The keywords of a step that the model may have too: whose each is, with no silent collision."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from autopipe.errors import ArgumentError


def settled(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    target: Any,
    loss_fn: Callable[..., Any] | None,
    return_output: bool,
) -> tuple[Any, dict[str, Any]]:
    """Decide whose the keywords of a step are.

    ``loss_fn`` and ``return_output`` are the step's: a model that has one of them gets its own by position.
    ``target`` is the step's where there is a loss_fn to take it, else the model's.

    Args:
        model: The user's model.
        args: Positional arguments of the model.
        kwargs: Keyword arguments of the model.
        target: As given to the step.
        loss_fn: As given to the step.
        return_output: As given to the step.

    Returns:
        The target of the loss, and the keyword arguments of the model.

    Raises:
        ArgumentError: If a keyword could be the step's or the model's, or if there is nobody to take it.
    """
    parameters = inspect.signature(model.forward).parameters
    by_position = _given_by_position(model, args)
    for name, is_given in (("loss_fn", loss_fn is not None), ("return_output", bool(return_output))):
        if is_given and name in parameters and name not in by_position:
            raise ArgumentError(
                f"{name} could be the step's or the model's own.",
                why=f"{type(model).__name__}.forward has an argument of that name, and engine.step takes it.",
                remedy=f"give the model's by position, also where it is the default; {name}= is the step's",
            )
    if loss_fn is not None and not callable(loss_fn):
        raise ArgumentError(f"loss_fn is {loss_fn!r}.", remedy="loss_fn=torch.nn.functional.cross_entropy")
    if target is None or loss_fn is not None:
        return target, kwargs
    if "target" in parameters and "target" not in by_position:
        return None, {**kwargs, "target": target}
    raise ArgumentError(
        "there is a target, but nothing that takes it.",
        why=f"Without loss_fn the loss is the model's own, and {type(model).__name__}.forward has no target.",
        remedy="engine.step(..., target=target, loss_fn=loss_fn), or the name of the model's own argument",
    )


def _given_by_position(model: nn.Module, args: tuple[Any, ...]) -> frozenset[str]:
    found = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return frozenset(names[: len(args)])
