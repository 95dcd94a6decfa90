"""Python values as arguments of fx nodes: tensors and symbolic sizes become nodes, plain values stay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx
from torch.fx.node import base_types

from autopipe.errors import ArgumentError
from autopipe.ir.structure import Structure, tensors_in
from autopipe.ir.tensor import SizeExpression
from autopipe.ir.traced import NodeInfo
from autopipe.trace.data_dependent_number import DataDependentNumber
from autopipe.trace.glue import Held, Rebuild
from autopipe.trace.program import Program
from autopipe.trace.values import Values

_CONSTANTS = (*(t for t in base_types if t is not torch.Tensor), type(None), type(Ellipsis))
_SIZES = (torch.SymInt, torch.SymFloat, torch.SymBool)


class FxArguments:
    """Turns what a call was given into what its node is given.

    Args:
        program: The graph that the nodes are in.
        values: Which node each tensor stands for.
    """

    def __init__(self, program: Program, values: Values) -> None:
        """Start with no symbolic size known."""
        self._program, self.values = program, values
        self._size_nodes: dict[str, fx.Node] = {}
        self._held: list[tuple[fx.Node, Any, Structure]] = []
        self._objects: dict[int, tuple[fx.Node, Any]] = {}
        self._are_lists_objects = False

    def of_call(
        self, args: Any, kwargs: dict[str, Any], *, may_change: bool = False
    ) -> tuple[Any, dict[str, Any]]:
        """Return all arguments of one call; an object that is given twice is one.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
            may_change: Whether the call may put other tensors into a list or a dict, as into an object.
        """
        self._objects, self._are_lists_objects = {}, may_change
        try:
            return self.of(args), {key: self.of(value) for key, value in kwargs.items()}
        finally:
            self._are_lists_objects = False

    @property
    def objects(self) -> list[tuple[fx.Node, Any]]:
        """The objects among the arguments of the last call, each with the node that makes it."""
        return list(self._objects.values())

    def of(self, value: Any) -> Any:
        """Return a value as an fx argument: tensors and sizes as nodes, containers of them taken along."""
        if isinstance(value, torch.Tensor):
            return self.values.node_of(value)
        if isinstance(value, _SIZES):
            return self._size(value)
        if isinstance(value, DataDependentNumber):
            value.refuse()
        if isinstance(value, slice):
            return slice(*(self.of(part) for part in (value.start, value.stop, value.step)))
        return self._container(value) if type(value) in _CONTAINERS else self._other(value)

    def _container(self, value: Any) -> Any:
        if self._are_lists_objects and type(value) in (list, dict) and tensors_in(value):
            return self._other(value)
        if type(value) is dict:
            if not all(isinstance(key, str) for key in value):
                return self._other(value)
            return {key: self.of(item) for key, item in value.items()}
        return _CONTAINERS[type(value)](self.of(item) for item in value)

    def _other(self, value: Any) -> Any:
        if isinstance(value, _CONSTANTS) and type(value).__module__ in ("builtins", "torch"):
            return value
        if id(value) in self._objects:
            return self._objects[id(value)][0]
        structure, holes = Structure.of(value)
        if holes:
            arguments = tuple(self.of(hole) for hole in holes)
            node = self._program.graph.call_function(Rebuild(structure), arguments)
            self._program.describe(node, "rebuild", None)
        else:
            node = self._program.graph.call_function(Held(value))
            self._program.describe(node, "held", None)
            self._held.append((node, value, structure))
        self._objects[id(value)] = node, value
        return node

    def settle_objects(self) -> None:
        """Let a run begin with objects as they were when a leaf got them, if the model changed them since.

        Such as a cache, empty when a leaf looked at it, that the model's Python filled later on.
        """
        for node, value, structure in self._held:
            try:
                now, holes = Structure.of(value)
            except ArgumentError:
                now, holes = structure, [value]
            if holes or now != structure:
                node.target = Rebuild(structure)

    def _size(self, value: Any) -> Any:
        """Return a symbolic number as a node, or as the number that it turned out to be."""
        sizes = self._program.sizes
        printed = bool(value) if isinstance(value, torch.SymBool) else sizes.printed_number(value)
        if not isinstance(printed, str):
            return printed
        if printed not in self._size_nodes:
            names: dict[str, Any] = {name: self._size_nodes[name] for name in sizes.names_in(value)}
            node = self._program.graph.call_function(SizeExpression(printed), kwargs=names)
            self._program.info[node.name] = NodeInfo(key=f"size|{printed}", fqn="")
            self._size_nodes[printed] = node
        return self._size_nodes[printed]

    def sizes_of(self, tensors: Iterable[torch.Tensor]) -> dict[str, Any]:
        """Return the node of each symbolic size that the shapes of some tensors are made of, by name."""
        sizes = [size for tensor in tensors for size in tensor.shape if isinstance(size, torch.SymInt)]
        names = {name for size in sizes for name in self._program.sizes.names_in(size)}
        return {name: self._size_nodes[name] for name in sorted(names)}

    def size_placeholder(self, name: str) -> None:
        """Add the placeholder of a symbolic size."""
        self._size_nodes[name] = self._program.graph.placeholder(name)

    def input_placeholder(self, name: str, tensor: torch.Tensor) -> None:
        """Add the placeholder of a tensor among the model's arguments."""
        node = self._program.graph.placeholder(name)
        region, spec = self._program.region(), self._program.spec(tensor)
        self._program.info[node.name] = NodeInfo(key=name, fqn="", spec=spec, region=region)
        self.values.know(tensor, node)


_CONTAINERS: dict[type, Any] = {tuple: tuple, torch.Size: tuple, list: list, dict: dict}
