"""Whether a forward changed its arguments: Python may fill a dict, append to a list, write into a tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from autopipe.ir.changed_arguments import ChangedArguments
from autopipe.ir.structure import Structure


class AfterCall:
    """Compares the arguments of one call before and after it.

    Args:
        args: Positional arguments; the very objects that the call gets, as it may change them.
        kwargs: Keyword arguments.
        tensors: The tensors among them.
    """

    def __init__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: Sequence[torch.Tensor]
    ) -> None:
        """Look before the call."""
        self._given, self._tensors = (args, kwargs), list(tensors)
        self._each = {f"[0][{index}]": value for index, value in enumerate(args)}
        self._each |= {f"[1][{name!r}]": value for name, value in kwargs.items()}
        self._before = {path: Structure.of(value) for path, value in self._each.items()}

    def left(self) -> list[Any]:
        """Return the tensors that the call left in its arguments.

        Raises:
            ArgumentError: If it put an object there that cannot be looked into.
        """
        return Structure.of(self._given)[1]

    def changed(self, node_of: Callable[[Any], Any], out: Any) -> ChangedArguments | None:
        """Return what the call left of its arguments, None if it changed nothing in them.

        Args:
            node_of: The node behind a tensor.
            out: What the call returned.
        """
        changed = [path for path, value in self._each.items() if self._is_changed(path, value, node_of)]
        if not changed:
            return None
        structure, holes = Structure.of(self._given)
        nodes = [node_of(hole) for hole in holes]
        places = {id(tensor): index for index, tensor in enumerate(self._tensors)}
        returned = {id(part) for part in _parts(out)}
        return ChangedArguments(
            structure,
            names=tuple(node.name if isinstance(node, fx.Node) else None for node in nodes),
            inputs=tuple(places.get(id(hole)) for hole in holes),
            lost=tuple(path for path in changed if id(self._each[path]) not in returned),
        )

    def _is_changed(self, path: str, value: Any, node_of: Callable[[Any], Any]) -> bool:
        (before, tensors), (after, holes) = self._before[path], Structure.of(value)
        return before != after or any(
            hole is not tensor or node_of(hole).op != "placeholder"
            for hole, tensor in zip(holes, tensors, strict=True)
            if isinstance(tensor, torch.Tensor)
        )


def _parts(value: Any) -> Iterator[Any]:
    """Yield a value, and what is in it as far as pytree looks."""
    yield value
    children = pytree.tree_leaves(value, is_leaf=lambda part: part is not value)
    for child in children:
        if child is not value:
            yield from _parts(child)
