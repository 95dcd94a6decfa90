"""Captures a model: runs its own Python once on fake tensors, and writes down every call.

The sizes of the example stay open where the model allows it. If an attempt fails, the next one keeps fewer of
them open; if it meets a module that cannot be seen through, the next one keeps that module whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from autopipe.errors import AutopipeError, CaptureError
from autopipe.ir.structure import Structure
from autopipe.ir.traced import AttributeWrite, TracedModel
from autopipe.trace.attempt import Attempt, Example
from autopipe.trace.branches import DEPENDS_ON_DATA, Branches, RandomBranch, UnknownBranch, depends_on_data
from autopipe.trace.fits import (
    out_of_range,
    refuse_arguments_that_do_not_bind,
    refuse_arguments_that_fail,
    refuse_ragged_tensors,
)
from autopipe.trace.foreign import outside_modes, with_plain_sizes
from autopipe.trace.indices import OutOfRange
from autopipe.trace.leaves import refuse_hooks_around
from autopipe.trace.repeats import why_not_repeatable
from autopipe.trace.silence import silenced_torch
from autopipe.trace.sizes import ATTEMPTS, FIXED_BATCH_ATTEMPTS, Openness
from autopipe.trace.source import line_of_error

_KEPT_WHOLE = (
    "move these lines into a module inside the model: it is then kept whole and runs its own Python."
)
_log = logging.getLogger("autopipe")


def capture(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
    *,
    opaque: Callable[[str], bool] = lambda _fqn: False,
    batch_dims: Sequence[int | None] | None = None,
    fixed_sizes: bool = False,
) -> TracedModel:
    """Capture a model as one fx graph, without running it on data.

    Args:
        model: Any model, on any device, meta included. It is left as it was.
        args: Positional arguments of one microbatch; real, fake or meta tensors anywhere inside.
        kwargs: Keyword arguments.
        opaque: Says of a module's FQN whether it must be kept whole.
        batch_dims: The batch dimension of each tensor among the arguments, in order; None reads it off the
            sizes.
        fixed_sizes: Keep the batch as it is, and only what is a length open; for sizes that no graph with an
            open batch is right for.

    Returns:
        The graph for this signature (see ``Signature``), sizes open where the model allows it.

    Raises:
        ArgumentError: If the model does not take these arguments, split or not.
        CaptureError: If the model itself, outside all modules that can be kept whole, depends on data.

    Example:
        >>> traced = capture(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), (torch.ones(2, 4),))
        >>> [node.name for node in traced.compute_nodes()], str(traced.info["_1"].spec)
        (['_0', '_1'], 'f32[B, 8]')
    """
    refuse_hooks_around(model)
    refuse_arguments_that_do_not_bind(model, args, kwargs or {})
    structure, holes = Structure.of((args, kwargs or {}))
    refuse_ragged_tensors(structure.paths, holes)
    holes = with_plain_sizes(holes)
    dims = list(batch_dims) if batch_dims is not None else guessed_batch_dims(holes)
    example = Example(structure, tuple(holes), tuple(dims))
    attempts = FIXED_BATCH_ATTEMPTS if fixed_sizes else ATTEMPTS
    try:
        with silenced_torch(), outside_modes():
            found = _first_that_works(model, example, opaque, attempts)
    except OutOfRange as met:
        raise out_of_range(model, met.what, met.__traceback__, args, kwargs or {}) from met
    if isinstance(found, Exception):
        raise _explained(found) from found
    return found


def _first_that_works(
    model: nn.Module,
    example: Example,
    opaque: Callable[[str], bool],
    attempts: Sequence[Openness],
) -> TracedModel | Exception:
    """Return the first capture that works, or what the last attempt raised."""
    whole: dict[str, str] = {}
    branches = Branches()

    def new(openness: Openness, starting_from: Sequence[AttributeWrite] = ()) -> Attempt:
        return Attempt(model, example, openness, opaque, whole, branches, starting_from)

    failure: Exception = CaptureError("no attempt to capture the model worked.")
    for openness in attempts:
        while True:
            attempt = new(openness)
            try:
                traced = attempt.run()
                if not _is_for_the_example(traced):
                    break
                if not traced.sets or _is_repeated(traced, attempt, new(openness, traced.sets)):
                    return traced
                whole |= attempt.found_whole
            except UnknownBranch as met:
                whole |= attempt.found_whole
                branches.learn(met.place, partial(_start_again, new, openness))
            except Exception as error:
                found = dict(attempt.found_whole.items() - whole.items())
                if not found and not attempt.has_news:
                    _log.debug("capture with %s failed: %s", openness, error)
                    if openness is attempts[0] and not isinstance(error, DEPENDS_ON_DATA):
                        refuse_arguments_that_fail(model, *example.structure.fill(example.tensors))
                    failure = error
                    break
                whole |= _innermost(found)
    return failure


def _innermost(found: dict[str, str]) -> dict[str, str]:
    """Return the modules that hold no others of them.

    What a child changed before it failed is changed twice by then, which may be all that its parents failed
    for: the next attempt sees whether they do without that.
    """
    return {fqn: why for fqn, why in found.items() if not any(other.startswith(f"{fqn}.") for other in found)}


def _is_repeated(traced: TracedModel, attempt: Attempt, second: Attempt) -> bool:
    """Whether a second call of the model is like the first; if not, note who has to be kept whole.

    Raises:
        CaptureError: If that is the model itself.
    """
    try:
        why = why_not_repeatable(traced, second.run(), traced.sets, second.writes)
    except Exception as error:
        why = f"the second call ends with {type(error).__name__}: {error}"
    if why:
        attempt.calls.keep_setters_whole(why, {write.fqn for write in second.writes})
    return not why


def _start_again(new: Callable[[Openness], Attempt], openness: Openness) -> None:
    new(openness).run()


def _is_for_the_example(traced: TracedModel) -> bool:
    """Whether no size turned out to be fixed at another value than the example has."""
    fixed = ((name, size) for name, size in traced.derived_sizes.items() if isinstance(size, int))
    return all(traced.sizes[name] == size for name, size in fixed)


def guessed_batch_dims(holes: Sequence[Any]) -> list[int | None]:
    """Return dimension 0 for every tensor whose first size is that of the first tensor, else None."""
    sizes = [hole.shape[0] if isinstance(hole, torch.Tensor) and hole.dim() else None for hole in holes]
    first = next((size for size in sizes if size is not None), None)
    return [0 if size is not None and size == first else None for size in sizes]


def _explained(error: Exception) -> CaptureError:
    if isinstance(error, AutopipeError):
        where = error.where or line_of_error(error.__traceback__)
        return CaptureError(error.what, where, error.why, error.remedy or _KEPT_WHOLE)
    where, first_line = line_of_error(error.__traceback__), (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, RandomBranch):
        return CaptureError(
            "the model branches on random numbers, so it has no single graph.",
            where=where,
            why="Such as a loop that leaves out some layers at random.",
            remedy="set the probability at that line to 0; or let each layer decide for itself in a module "
            "around it:\nreturn x if torch.rand([]) < p else layer(x). Only these are kept whole then.",
        )
    if depends_on_data(error):
        return CaptureError(
            "the model branches on the values of a tensor, so it has no single graph.",
            where=where,
            why=f"{type(error).__name__}: {first_line}",
            remedy="torch.where or torch.cond; or move these lines into a module inside the model: it is "
            "then kept whole and runs its own Python.\nIf it is the model's own loss: leave the labels out, "
            "and give the step a loss_fn.",
        )
    return CaptureError(
        "the model cannot be captured as one graph.",
        where=where,
        why=f"{type(error).__name__}: {first_line}",
        remedy=f"run the model once on the example to see that it works; {_KEPT_WHOLE}",
    )
