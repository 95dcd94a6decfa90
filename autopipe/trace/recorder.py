"""Writes down what the model does to fake tensors: one fx node a call, and what each call reads, writes and aliases.

Every tensor that is met is known by its identity. A call that changes a tensor in place makes a new value; from then
on the tensor stands for that value, so that later readers take it (SSA)::

    y = conv(x)          %conv = call_module[conv](x)
    relu_(y)             %relu_ = call_function[relu_](%conv)       y now stands for %relu_
    z = y + 1            %add = call_function[add](%relu_, 1)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import fx
from torch.fx.node import base_types

from autopipe.errors import CaptureError
from autopipe.ir.structure import Structure, is_hole, tensors_in
from autopipe.ir.tensor import SizeExpression, TensorSpec
from autopipe.ir.traced import NodeInfo, Region
from autopipe.trace.effects import Effects, storage_of
from autopipe.trace.glue import Held, Rebuild, passed_through, tensor_leaf, written
from autopipe.trace.sizes import Sizes
from autopipe.trace.source import user_line

FX_CONSTANTS = (*(t for t in base_types if t is not torch.Tensor), type(None), type(Ellipsis))


def dtype_name(dtype: torch.dtype) -> str:
    """Return ``"float32"`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def current_region(device_type: str) -> Region:
    """Return the modes that are on in this thread."""
    types = sorted({"cpu", device_type})
    autocast = tuple(
        (t, dtype_name(torch.get_autocast_dtype(t))) for t in types if torch.is_autocast_enabled(t)
    )
    return Region(torch.is_grad_enabled(), torch.is_inference_mode_enabled(), autocast)


class Recorder:
    """The graph that is being written.

    Args:
        sizes: The symbolic sizes of this capture.
        device: The device that the example is captured on.
    """

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        """Start with an empty graph."""
        self.graph = fx.Graph()
        self.info: dict[str, NodeInfo] = {}
        self.constants: dict[str, torch.Tensor] = {}
        self.effects = Effects()
        self.sizes, self.device = sizes, device
        self.is_random = False
        self.modules: list[str] = [""]
        self._node_of: dict[int, fx.Node] = {}
        self._alive: list[torch.Tensor] = []
        self._at_place: dict[tuple[Any, ...], fx.Node] = {}
        self._attributes: dict[str, fx.Node] = {}
        self._owned: dict[int, tuple[str, bool]] = {}
        self.real_of: dict[int, torch.Tensor] = {}
        self._size_nodes: dict[str, fx.Node] = {}
        self._ordinals: dict[str, int] = {}
        self._journal: list[tuple[int, fx.Node | None]] = []

    # -- values ------------------------------------------------------------------------------------------------

    def know(self, tensor: torch.Tensor, node: fx.Node) -> None:
        """From now on ``tensor`` stands for the value of ``node``."""
        self._journal.append((id(tensor), self._node_of.get(id(tensor))))
        self._node_of[id(tensor)] = node
        self._alive.append(tensor)
        self._at_place[_place(tensor)] = node
        self.effects.aliases(storage_of(tensor), id(tensor), node.name)

    def own(self, fake: torch.Tensor, real: torch.Tensor, fqn: str, *, is_parameter: bool) -> None:
        """Note that ``fake`` stands for the model's parameter or buffer of this name."""
        self._owned[id(fake)] = (fqn, is_parameter)
        self.real_of[id(fake)] = real
        self._alive.append(fake)

    def owned(self, module: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the parameters and the buffers of a module and its children, by canonical FQN."""
        parameters = {self._owned[id(t)][0]: t for t in module.parameters() if id(t) in self._owned}
        buffers = {self._owned[id(t)][0]: t for t in module.buffers() if id(t) in self._owned}
        return parameters, buffers

    def is_known(self, tensor: torch.Tensor) -> bool:
        """Whether the graph has the value of this very tensor."""
        return id(tensor) in self._node_of

    def node_of(self, tensor: torch.Tensor) -> fx.Node:
        """Return the node whose value a tensor is; a tensor met for the first time is a constant of the model.

        Raises:
            CaptureError: If the tensor was made by something that could not be recorded.
        """
        if id(tensor) in self._node_of:
            return self._node_of[id(tensor)]
        if id(tensor) in self._owned:
            node = self.attribute(self._owned[id(tensor)][0], tensor)
            self.know(tensor, node)
            return node
        if _place(tensor) in self._at_place:
            return self._at_place[_place(tensor)]
        if isinstance(tensor, torch._subclasses.FakeTensor):
            raise CaptureError(
                f"a {TensorSpec(tuple(self.spec(tensor).shape), dtype_name(tensor.dtype))} came from a call that "
                "torch does not report.",
                where=f"in {self.modules[-1] or 'the model'}, at {user_line()}",
                remedy=f'let the module run its own Python with opaque=("{self.modules[-1]}",)',
            )
        name = f"_constant_{len(self.constants)}"
        self.constants[name] = tensor
        self.own(tensor, tensor, name, is_parameter=False)
        return self.node_of(tensor)

    def _owned_among(self, tensors: Iterable[torch.Tensor]) -> list[tuple[str, bool]]:
        return list(dict.fromkeys(self._owned[id(tensor)] for tensor in tensors if id(tensor) in self._owned))

    def attribute(self, name: str, tensor: torch.Tensor) -> fx.Node:
        """Return the ``get_attr`` node of a parameter, a buffer or a constant, made where it is first used."""
        if name not in self._attributes:
            node = self.graph.create_node("get_attr", name)
            self._attributes[name] = node
            self.info[node.name] = NodeInfo(key=name, fqn=name, spec=self.spec(tensor))
        return self._attributes[name]

    def spec(self, tensor: torch.Tensor) -> TensorSpec:
        """Return what is known of a tensor."""
        shape = tuple(self.sizes.printed(size) for size in tensor.shape)
        return TensorSpec(shape, dtype_name(tensor.dtype), tensor.requires_grad)

    # -- arguments ---------------------------------------------------------------------------------------------

    def argument(self, value: Any) -> Any:
        """Return a value as an fx argument: tensors and sizes as nodes, containers of them taken along."""
        if isinstance(value, torch.Tensor):
            return self.node_of(value)
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return self.size(value)
        if type(value) in (tuple, torch.Size):
            return tuple(self.argument(item) for item in value)
        if type(value) is list:
            return [self.argument(item) for item in value]
        if type(value) is dict and all(isinstance(key, str) for key in value):
            return {key: self.argument(item) for key, item in value.items()}
        if isinstance(value, slice):
            return slice(*(self.argument(part) for part in (value.start, value.stop, value.step)))
        if isinstance(value, FX_CONSTANTS) and type(value).__module__ in ("builtins", "torch"):
            return value
        return self._object(value)

    def _object(self, value: Any) -> fx.Node:
        structure, holes = Structure.of(value)
        if not holes:
            node = self.graph.call_function(Held(value))
            self._describe(node, "held", None)
            return node
        node = self.graph.call_function(Rebuild(structure), tuple(self.argument(hole) for hole in holes))
        self._describe(node, "rebuild", None)
        return node

    def size(self, value: Any) -> Any:
        """Return a symbolic size as a node, or as the int that it turned out to be."""
        printed = self.sizes.printed(value) if isinstance(value, torch.SymInt) else _constant_of(value)
        if not isinstance(printed, str):
            return printed
        if printed not in self._size_nodes:
            names = {name: self._size_nodes[name] for name in self.sizes.names_in(value)}
            node = self.graph.call_function(SizeExpression(printed), kwargs=names)
            self.info[node.name] = NodeInfo(key=f"size|{printed}", fqn="")
            self._size_nodes[printed] = node
        return self._size_nodes[printed]

    def size_placeholder(self, name: str) -> None:
        """Add the placeholder of a symbolic size."""
        self._size_nodes[name] = self.graph.placeholder(name)

    def input_placeholder(self, name: str, tensor: torch.Tensor) -> None:
        """Add the placeholder of a tensor among the arguments."""
        node = self.graph.placeholder(name)
        self.info[node.name] = NodeInfo(
            key=name, fqn="", spec=self.spec(tensor), region=current_region(self.device.type)
        )
        self.know(tensor, node)

    # -- calls -------------------------------------------------------------------------------------------------

    def call(
        self,
        op: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        run: Callable[[], Any],
        **known: Any,
    ) -> Any:
        """Run a call on fake tensors, and write it down.

        Args:
            op: "call_module" or "call_function".
            target: FQN or function.
            args: Positional arguments, fake tensors inside.
            kwargs: Keyword arguments.
            run: Makes the call.
            known: Fields of NodeInfo that the caller knows (parameters, buffers, fqn, opaque_because).

        Returns:
            What the call returned; a tensor that is one of the arguments comes back as an alias of it, so that the
            two can be told apart.
        """
        read = tensors_in((args, kwargs))
        buffers: dict[str, torch.Tensor] = known.pop("own_buffers", {})
        watched = [*read, *buffers.values()]
        versions = [_version(tensor) for tensor in watched]
        fx_args, fx_kwargs = self.argument(args), {key: self.argument(value) for key, value in kwargs.items()}
        region = current_region(self.device.type)
        self.is_random = False
        out = run()
        all_changed = _unique(t for t, before in zip(watched, versions, strict=True) if _version(t) != before)
        inside = {id(buffer) for buffer in buffers.values()} - {id(tensor) for tensor in read}
        changed = [tensor for tensor in all_changed if id(tensor) not in inside]
        if not changed and not known.get("keep") and not tensors_in(out):
            return out
        known.pop("keep", None)
        node = self.graph.create_node(op, target, fx_args, fx_kwargs, name=_name_hint(op, target))
        storages = {storage_of(tensor) for tensor in read}
        for field, is_parameter in (("parameters", True), ("buffers", False)):
            known.setdefault(field, ())
            known[field] += tuple(name for name, kind in self._owned_among(read) if kind is is_parameter)
        known.setdefault("writes", ())
        known["writes"] += tuple(self.node_of(tensor).name for tensor in changed)
        known["writes"] += tuple(
            fqn for fqn, buffer in buffers.items() if any(buffer is t for t in all_changed)
        )
        label = f"@{target}" if op == "call_module" else _name_hint(op, target)
        self._describe(node, label, out, region=region, is_random=self.is_random, storages=storages, **known)
        for fqn in buffers:
            self.effects.uses_attribute(fqn, node.name, changes=fqn in known["writes"])
        for tensor in read:
            self.effects.reads(storage_of(tensor), node.name)
            if id(tensor) in self._owned:
                changes = any(tensor is other for other in changed)
                self.effects.uses_attribute(self._owned[id(tensor)][0], node.name, changes=changes)
        return self._take_results(node, out, read, changed)

    def _take_results(
        self, node: fx.Node, out: Any, read: list[torch.Tensor], changed: list[torch.Tensor]
    ) -> Any:
        """Bind every tensor that a call returned or changed to its value."""
        for tensor in changed:
            self.effects.writes(storage_of(tensor), node.name)
        given = {id(tensor) for tensor in read}
        if isinstance(out, torch.Tensor):
            if id(out) in given and not any(out is tensor for tensor in changed):
                out = _alias(out)
            self.know(out, node)
            rest = [tensor for tensor in changed if tensor is not out]
        else:
            out = self._take_structure(node, out, given)
            rest = changed
        for tensor in rest:
            after = self.graph.call_function(written, (self._node_of[id(tensor)], node))
            self._describe(after, "written", tensor, storages={storage_of(tensor)})
            self.know(tensor, after)
        return out

    def _take_structure(self, node: fx.Node, out: Any, given: set[int]) -> Any:
        """Give every tensor inside a returned tuple, dict or object a getitem node of its own."""
        if not tensors_in(out):
            return out
        structure, holes = Structure.of(out)
        holes = [_alias(hole) if id(hole) in given else hole for hole in holes]
        plain = type(out) in (tuple, list) and all(is_hole(item) for item in out)
        for index, hole in enumerate(holes):
            if not isinstance(hole, torch.Tensor) or (self.is_known(hole) and id(hole) not in given):
                continue
            getter = operator.getitem if plain else tensor_leaf
            leaf = self.graph.call_function(getter, (node, index))
            self._describe(leaf, "getitem", hole, region=self.info[node.name].region)
            self.know(hole, leaf)
        return structure.fill(holes)

    def _describe(
        self, node: fx.Node, label: str, out: Any, storages: Iterable[int] = (), **known: Any
    ) -> None:
        fqn = known.pop("fqn", self.modules[-1])
        key = f"{fqn}|{label}"
        ordinal = self._ordinals[key] = self._ordinals.get(key, -1) + 1
        spec = self.spec(out) if isinstance(out, torch.Tensor) else None
        is_view = isinstance(out, torch.Tensor) and storage_of(out) in set(storages)
        known.setdefault("source", user_line())
        self.info[node.name] = NodeInfo(f"{key}|{ordinal}", fqn, spec, is_view=is_view, **known)

    def output(self, holes: list[Any]) -> tuple[str | None, ...]:
        """Add the output node; return the name behind each hole."""
        nodes = [self._output_leaf(hole) for hole in holes]
        self.graph.output(tuple(nodes))
        return tuple(node.name if isinstance(node, fx.Node) else None for node in nodes)

    def _output_leaf(self, hole: Any) -> Any:
        found = self.argument(hole)
        if isinstance(found, fx.Node) and not (found.name in self.info and found.op.startswith("call")):
            found = self.graph.call_function(passed_through, (found,))
            self._describe(found, "passed_through", hole)
        return found

    # -- taking back -------------------------------------------------------------------------------------------

    def mark(self) -> tuple[int, int, Effects, dict[str, int]]:
        """Return a place to come back to."""
        return len(self.graph.nodes), len(self._journal), self.effects.copy(), dict(self._ordinals)

    def rewind(self, mark: tuple[int, int, Effects, dict[str, int]]) -> None:
        """Forget everything since a mark, because the module will be kept whole instead."""
        n_nodes, n_known, self.effects, self._ordinals = mark
        for node in reversed(list(self.graph.nodes)[n_nodes:]):
            self.graph.erase_node(node)
            self.info.pop(node.name, None)
        for identity, before in reversed(self._journal[n_known:]):
            if before is None:
                self._node_of.pop(identity, None)
            else:
                self._node_of[identity] = before
        del self._journal[n_known:]
        gone = {name for name, node in self._attributes.items() if node._erased}
        self._attributes = {name: node for name, node in self._attributes.items() if name not in gone}
        self._size_nodes = {name: node for name, node in self._size_nodes.items() if not node._erased}
        self._at_place = {place: node for place, node in self._at_place.items() if not node._erased}
        self.constants = {name: value for name, value in self.constants.items() if name not in gone}


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


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _unique(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _alias(value: Any) -> Any:
    return torch.ops.aten.alias.default(value) if isinstance(value, torch.Tensor) else value


def _constant_of(value: Any) -> Any:
    return value.node.maybe_as_float() if isinstance(value, torch.SymFloat) else bool(value)


def _name_hint(op: str, target: Any) -> str:
    if op == "call_module":
        return str(target).replace(".", "_")
    return str(getattr(target, "__name__", type(target).__name__)).strip("_")
