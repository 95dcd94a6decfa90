"""Which node each tensor stands for, known by the tensor's identity."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from autopipe.errors import CaptureError
from autopipe.ir.traced import NodeInfo
from autopipe.trace.effects import storage_of
from autopipe.trace.foreign import has_no_values
from autopipe.trace.program import Program
from autopipe.trace.source import user_line


class Values:
    """The tensors met so far: results of nodes, the model's parameters and buffers, constants.

    Args:
        program: The graph that the nodes are in.
        mode: Makes the fake tensors of the capture.
    """

    def __init__(self, program: Program, mode: FakeTensorMode) -> None:
        """Start with no tensor known."""
        self._program, self._mode = program, mode
        self._fake_of: dict[int, torch.Tensor] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.real_of: dict[int, torch.Tensor] = {}
        self._examples: dict[str, torch.Tensor] = {}
        self._node_of: dict[int, fx.Node] = {}
        self._alive: list[torch.Tensor] = []
        self._at_place: dict[tuple[Any, ...], fx.Node] = {}
        self._original: dict[int, torch.Tensor] = {}
        self._attributes: dict[str, fx.Node] = {}
        self._owned: dict[int, tuple[str, bool]] = {}

    def know(self, tensor: torch.Tensor, node: fx.Node) -> None:
        """From now on ``tensor`` stands for the value of ``node``."""
        self._node_of[id(tensor)] = node
        self._alive.append(tensor)
        self._at_place[_place(tensor)] = node
        self._program.effects.aliases(storage_of(tensor), id(tensor), node.name)

    def own(self, fake: torch.Tensor, real: torch.Tensor, fqn: str, *, is_parameter: bool) -> None:
        """Note that ``fake`` stands for the model's parameter, buffer or constant of this name."""
        self._owned[id(fake)] = (fqn, is_parameter)
        self.real_of[id(fake)] = real
        self._fake_of[id(real)] = fake
        self._alive += [fake, real]
        self._program.effects.lies_in(storage_of(fake), fqn)

    def exemplify(self, name: str, example: torch.Tensor) -> None:
        """Note the argument of the example that a placeholder stands for."""
        self._examples[name] = example

    def examples_among(self, tensors: Iterable[torch.Tensor]) -> dict[int, torch.Tensor]:
        """Return the examples of those tensors that are arguments of the model, unchanged and with values."""
        found = {}
        for tensor in tensors:
            node = self._node_of.get(id(tensor))
            if node is not None and node.op == "placeholder" and not has_no_values(self._examples[node.name]):
                found[id(tensor)] = self._examples[node.name]
        return found

    def is_foreign(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is none of the capture: what the model holds besides parameters and buffers."""
        if isinstance(tensor, FakeTensor):
            return tensor.fake_mode is not self._mode
        return not is_traceable_wrapper_subclass(tensor)

    def fake_of(self, real: torch.Tensor) -> torch.Tensor:
        """Return the fake tensor of another: a parameter in other clothes, or a constant of the model."""
        if id(real) not in self._fake_of:
            fake = self._like(real)
            name = f"_constant_{len(self.constants)}"
            self.constants[name] = real
            self.own(fake, real, name, is_parameter=False)
        return self._fake_of[id(real)]

    def constant_of(self, real: torch.Tensor) -> str:
        """Return the name of a tensor that is none of the capture."""
        return self._owned[id(self.fake_of(real))][0]

    def _like(self, tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, FakeTensor):
            return self._mode.from_tensor(tensor, static_shapes=True)
        with self._mode, torch.no_grad():
            fake = torch.empty_strided(
                tensor.shape, tensor.stride(), dtype=tensor.dtype, device=self._program.device
            )
        return fake.requires_grad_(tensor.requires_grad)

    def owned_by(self, module: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the parameters and the buffers of a module and its children, by canonical FQN."""
        of_module = (module.parameters(), module.buffers())
        parameters, buffers = ([self._fake_of.get(id(t), t) for t in tensors] for tensors in of_module)
        return self._by_name(parameters), self._by_name(buffers)

    def _by_name(self, tensors: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {self._owned[id(t)][0]: t for t in tensors if id(t) in self._owned}

    def owned_among(self, tensors: Iterable[torch.Tensor]) -> list[tuple[str, bool]]:
        """Return the name of each parameter (True) and buffer (False) among some tensors."""
        return list(dict.fromkeys(self._owned[id(tensor)] for tensor in tensors if id(tensor) in self._owned))

    def is_known(self, tensor: torch.Tensor) -> bool:
        """Whether the graph has the value of this very tensor."""
        return id(tensor) in self._node_of

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """Return the node whose value a tensor is; a real tensor never met before is a constant of the model.

        Raises:
            CaptureError: If the tensor was made by something that could not be recorded.
        """
        if self.is_foreign(tensor):
            return self.node_of(self.fake_of(tensor))
        if id(tensor) in self._node_of:
            return self._node_of[id(tensor)]
        if id(tensor) in self._owned:
            node = self._attribute(self._owned[id(tensor)][0], tensor)
            self.know(tensor, node)
            return node
        if _place(tensor) in self._at_place:
            return self._at_place[_place(tensor)]
        module = self._program.modules[-1]
        raise CaptureError(
            f"a {self._program.spec(tensor)} came from a call that torch does not report, or from inside a "
            "module that is kept whole and does not return it.",
            where=f"in {module or 'the model'}, at {user_line()}",
            remedy=f'let the module run its own Python with opaque=("{module}",)',
        )

    def alias(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return an alias of a tensor, for a call that returned its very argument."""
        alias: torch.Tensor = torch.ops.aten.alias.default(tensor)
        self._original[id(alias)] = self._original.get(id(tensor), tensor)
        self._alive.append(alias)
        return alias

    def is_the_same(self, tensor: torch.Tensor, other: torch.Tensor) -> bool:
        """Whether a plain run has ``other`` in the place of a tensor, such as after ``x.to(x.device)``."""
        original = self._original.get(id(tensor), tensor)
        return original is other or self.real_of.get(id(original)) is other

    def untouched_in(self, storage: int) -> list[torch.Tensor]:
        """Return the model's arguments and attributes in a storage that still stand for themselves."""
        return [
            tensor
            for tensor in self._alive
            if id(tensor) in self._node_of
            and self._node_of[id(tensor)].op in ("placeholder", "get_attr")
            and storage_of(tensor) == storage
        ]

    def attribute(self, tensor: torch.Tensor) -> fx.Node:
        """Return the node that reads a parameter, buffer or constant where it lies."""
        return self._attribute(self._owned[id(tensor)][0], tensor)

    def _attribute(self, name: str, tensor: torch.Tensor) -> fx.Node:
        """Return the ``get_attr`` node of a parameter, buffer or constant, made where it is first used."""
        if name not in self._attributes:
            node = self._program.graph.create_node("get_attr", name)
            self._attributes[name] = node
            self._program.info[node.name] = NodeInfo(key=name, fqn=name, spec=self._program.spec(tensor))
        return self._attributes[name]


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    with suppress(Exception):
        return (
            storage_of(tensor),
            tensor.dtype,
            str(tensor.shape),
            str(tensor.stride()),
            str(tensor.storage_offset()),
        )
    return (id(tensor),)
