"""Branches on the values of arguments, decided by the example and checked again in every run.

``if labels.max() >= n_classes: raise ...`` has no single graph. Where nothing but the arguments decides, the
example says which way to go, and the graph gets a node that raises if another call would go the other way. It
is the last resort: a module that branches on data is kept whole where that is possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from autopipe.errors import CaptureError
from autopipe.ir.traced import NodeInfo

_TRUTH = (torch.Tensor.__bool__, torch.is_nonzero, torch.Tensor.is_nonzero)
_COMPARISONS = (torch.equal, torch.Tensor.equal, torch.allclose, torch.Tensor.allclose)


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


class Decision:
    """Checks in a run that a condition is what it was for the example.

    Args:
        condition: Function of tensors that returns a bool.
        value: What it returned for the example.
        where: File, line and source of the branch.
    """

    def __init__(self, condition: Any, value: bool, where: str) -> None:
        """Keep all three."""
        self.condition, self.value, self.where = condition, value, where
        self.__name__ = self.__qualname__ = "decision"
        self.__module__ = __name__

    def __call__(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the first argument.

        Raises:
            CaptureError: If the condition is not what it was for the example.
        """
        if bool(self.condition(tensor, *args, **kwargs)) is not self.value:
            raise CaptureError(
                f"the model takes another branch than for the example: a condition is {not self.value} now.",
                where=self.where,
                why="The model itself branches on the values of its arguments; its graph is the example's.",
                remedy="move the branch into a module inside the model: it is then kept whole and runs its "
                "own Python; or split with an example that goes this way.",
            )
        return tensor


class Decider:
    """Computes conditions from the example's own values.

    Args:
        values: The example's tensors and sizes, by placeholder.
        attributes: Buffers and constants, by name.
        info: What is known of the nodes.
    """

    def __init__(
        self, values: Mapping[str, Any], attributes: Mapping[str, torch.Tensor], info: Mapping[str, NodeInfo]
    ) -> None:
        """Keep all three; nothing is computed yet."""
        self._values, self._attributes, self._info = values, attributes, info

    def decide(self, condition: Any, args: Any, kwargs: Any) -> bool | None:
        """Return what a condition is for the example.

        Args:
            condition: What the model's Python called.
            args: Its arguments, nodes in the places of tensors.
            kwargs: Its keyword arguments, alike.

        Returns:
            None if it is no condition, or more than arguments and buffers decides.
        """
        if condition not in _TRUTH and condition not in _COMPARISONS:
            return None
        needed = self._all_before(args, kwargs)
        found: dict[fx.Node, Any] = {}
        try:
            with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
                for node in needed:
                    found[node] = self._compute(node, found)
                given = fx.node.map_arg((args, kwargs), found.__getitem__)
                return bool(condition(*given[0], **given[1]))
        except _NotDecidable:
            return None

    def _compute(self, node: fx.Node, found: dict[fx.Node, Any]) -> Any:
        if node.op == "call_function" and not self._info.get(node.name, NodeInfo("", "")).is_random:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), found.__getitem__)
            return node.target(*args, **kwargs)  # type: ignore[operator]
        known = {"placeholder": self._values, "get_attr": self._attributes}.get(node.op, {})
        value = known.get(str(node.target))
        if value is None or isinstance(value, FakeTensor):
            raise _NotDecidable
        if isinstance(value, torch.Tensor):
            if value.is_meta:
                raise _NotDecidable
            return value.detach().clone()
        return value

    def _all_before(self, args: Any, kwargs: Any) -> list[fx.Node]:
        """Return what makes the arguments, and what writes into any of that, in program order."""
        needed: set[fx.Node] = set()
        fx.node.map_arg((args, kwargs), lambda node: _add_with_inputs(node, needed))
        graph = next(iter(needed)).graph if needed else fx.Graph()
        writers = [node for node in graph.nodes if node.name in self._info and self._info[node.name].writes]
        while more := [node for node in writers if node not in needed and needed & set(node.all_input_nodes)]:
            for node in more:
                _add_with_inputs(node, needed)
        return [node for node in graph.nodes if node in needed]


def _add_with_inputs(node: fx.Node, needed: set[fx.Node]) -> None:
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting += node.all_input_nodes


class _NotDecidable(Exception):
    """A value depends on a module, a parameter, random numbers, or an argument that is not real."""
