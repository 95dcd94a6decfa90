"""Conditions in a graph: one that is never true, and one that is checked in every run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from autopipe.errors import CaptureError
from autopipe.ir.traced import NodeInfo

_TRUTH = (torch.Tensor.__bool__, torch.is_nonzero, torch.Tensor.is_nonzero)
_BELOW = (torch.lt, torch.Tensor.lt, torch.Tensor.__lt__)


def is_never(condition: Any, args: tuple[Any, ...]) -> bool:
    """Whether a condition is that a draw from [0, 1) is below 0: a layer that is dropped with probability 0.

    Args:
        condition: What the model's Python called.
        args: Its arguments, nodes in the places of tensors.
    """
    node = args[0] if condition in _TRUTH else None
    if not isinstance(node, fx.Node) or node.target not in _BELOW or len(node.args) != 2:
        return False
    draw, limit = node.args
    is_draw = isinstance(draw, fx.Node) and draw.target in (torch.rand, torch.rand_like)
    return is_draw and isinstance(limit, int | float) and limit <= 0


def is_drawn(node: Any, info: Mapping[str, NodeInfo]) -> bool:
    """Whether a value is made of random numbers and nothing else: layers that are dropped at random.

    Args:
        node: The node of the value, or a plain value.
        info: What is known of the nodes.

    Complexity: linear in what the value is made of.
    """
    todo, draws = [node], 0
    while todo:
        found = todo.pop()
        if not isinstance(found, fx.Node) or found.op != "call_function":
            return False
        draws += found.name in info and info[found.name].is_random
        todo += found.all_input_nodes
    return draws > 0


class Decision:
    """Checks in a run that the model would not refuse.

    Args:
        condition: Function of tensors that returns a bool.
        value: What it must return.
        where: File, line and source of the branch.
        refusal: What the model raises otherwise.
    """

    def __init__(self, condition: Any, value: bool, where: str, refusal: str) -> None:
        """Keep all four."""
        self.condition, self.value, self.where, self.refusal = condition, value, where, refusal
        self.__name__ = self.__qualname__ = "decision"
        self.__module__ = __name__

    def __call__(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the first argument.

        Raises:
            CaptureError: If the condition is not what it must be.
        """
        if bool(self.condition(tensor, *args, **kwargs)) is not self.value:
            raise CaptureError(
                f"the model refuses these values: {self.refusal}",
                where=self.where,
                why="The model raises here without the split as well.",
                remedy="arguments that the model accepts.",
            )
        return tensor
