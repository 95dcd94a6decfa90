"""The loss of a step: of the user's ``loss_fn``, or the model's own, weighted over the microbatches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from autopipe.errors import ArgumentError
from autopipe.ir.traced import TracedModel

Reduction = Literal["mean", "sum"]


def microbatch_weights(reduction: Reduction, samples: Sequence[int]) -> tuple[float, ...]:
    """Return what each microbatch's loss is multiplied with.

    Args:
        reduction: "mean": its share of the samples, so that the sum is the mean over the batch; "sum": 1.
        samples: ``[n_microbatches]`` samples of each.

    Returns:
        ``[n_microbatches]`` weights.

    Raises:
        ArgumentError: If the reduction is unknown.

    Example:
        >>> microbatch_weights("mean", [3, 1])
        (0.75, 0.25)
    """
    if reduction == "sum":
        return (1.0,) * len(samples)
    if reduction == "mean":
        return tuple(n / sum(samples) for n in samples)
    raise ArgumentError(f"there is no loss_reduction {reduction!r}.", remedy='loss_reduction="mean" or "sum"')


@dataclass(frozen=True, slots=True)
class Objective:
    """What a step minimises.

    Args:
        loss_fn: Called with the output, and the target where one is given; None: the model's own loss.
        targets: ``[n_microbatches]`` targets; None where there is none.
        weights: ``[n_microbatches]`` what each loss is multiplied with.
        own_leaf: Without loss_fn, which output leaf is the loss.
    """

    loss_fn: Callable[..., Any] | None
    targets: Sequence[Any] | None
    weights: tuple[float, ...]
    own_leaf: int | None

    def loss(self, traced: TracedModel, leaves: Sequence[Any], microbatch: int) -> torch.Tensor:
        """Return the loss of one microbatch, not yet weighted.

        Raises:
            ArgumentError: If ``loss_fn`` returned anything but one number as a tensor, or it has no gradient.
        """
        if self.loss_fn is None:
            assert self.own_leaf is not None
            own = leaves[self.own_leaf]
            assert isinstance(own, torch.Tensor)
            return _scalar_with_gradient(own, "the model's own loss")
        output = traced.out_structure.fill(leaves)
        judged = (output,) if self.targets is None else (output, self.targets[microbatch])
        loss = self.loss_fn(*judged)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, torch.Tensor) else repr(loss)
            raise ArgumentError(f"loss_fn returned {found}.", why="A loss is one number, as a tensor.")
        return _scalar_with_gradient(loss, "what loss_fn returned")


def _scalar_with_gradient(loss: torch.Tensor, what: str) -> torch.Tensor:
    if not loss.requires_grad:
        raise ArgumentError(
            f"{what} has no gradient.",
            why="Nothing that it was computed from requires one, or it was detached on the way.",
            remedy="parameters with requires_grad=True, and a loss without .detach() or .item();\n"
            "engine.forward(...) if nothing is to be trained",
        )
    return loss.reshape(())


def own_loss_leaf(traced: TracedModel) -> int:
    """Find which output leaf is the model's own loss.

    Args:
        traced: The captured model.

    Returns:
        The index of the leaf that is the output itself, its ``.loss`` or its ``["loss"]``.

    Raises:
        ArgumentError: If there is none, or if it is no scalar.
    """
    marks = [torch.empty((), device="meta") for _ in traced.out_names]
    output = traced.out_structure.fill(marks)
    loss = _own_loss(output)
    found = next((index for index, mark in enumerate(marks) if mark is loss), None)
    if found is None:
        raise ArgumentError(
            f"the model returns a {type(output).__name__} without a loss of its own.",
            remedy="engine.step(..., target=target, loss_fn=loss_fn), or the arguments that make the model\n"
            "return its loss, such as labels=",
        )
    name = traced.out_names[found]
    spec = None if name is None else traced.info[name].spec
    if spec is None or any(size != 1 for size in spec.shape):
        raise ArgumentError(
            f"the model's output is {spec}, which is no loss.",
            why="A loss is one number, as a tensor.",
            remedy="engine.step(..., target=target, loss_fn=loss_fn)",
        )
    return found


def _own_loss(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        return output.get("loss")
    return getattr(output, "loss", None)
