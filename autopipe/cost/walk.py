"""Walks a captured graph in program order: knows each value's storage, counts each distinct call once.

Storages are followed through views and in-place calls, because what is kept for the backward is kept once
however many nodes save it. Each kept storage is charged to one node::

    made by a node            to that node, even if only a later one saves it; of several tensors each to
                              the node that takes it out
    an argument of the model  to the first node that saves it
    a parameter, a buffer     to nobody: it is there anyway
"""

from __future__ import annotations

import logging
import operator
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from autopipe.cost.counting import Count, Laboratory, Made
from autopipe.cost.estimate import estimate
from autopipe.cost.fingerprint import Fingerprints, is_plain
from autopipe.cost.operation import dtype_name
from autopipe.ir.structure import Structure, tensors_in
from autopipe.ir.tensor import TensorSpec
from autopipe.ir.traced import NodeInfo, TracedModel


@dataclass(frozen=True, slots=True)
class Storage:
    """Memory behind values.

    Args:
        kind: "node", "input", or "kept" (parameters, buffers, constants).
        name: The node or the attribute that it came from.
        index: Which of the node's outputs.
        nbytes: Its size.
    """

    kind: str
    name: str
    index: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class NodePrice:
    """What one node does, and the storages that it keeps for the backward."""

    node: fx.Node
    count: Count
    saved: tuple[Storage, ...] = ()


UNKNOWN = object()
"""The value of a node that could not run and makes several tensors; its getitem nodes know theirs."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch and the model say of fake tensors; a call that fails on them is estimated."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


class Walk:
    """One walk over a graph.

    Args:
        traced: The captured model.
        model: The model, for its parameters and buffers.
        sizes: The value of each symbolic size.
        fused_attention: As in ``Laboratory``.
    """

    def __init__(
        self, traced: TracedModel, model: nn.Module, sizes: Mapping[str, int], *, fused_attention: bool
    ) -> None:
        """Look up what the graph may read."""
        self._traced, self._sizes = traced, sizes
        self._laboratory = Laboratory(traced.device.type, fused_attention=fused_attention)
        self._keys = Fingerprints()
        self._known: dict[Any, Count] = {}
        self._values: dict[fx.Node, Any] = {}
        self._storages: dict[int, Storage] = {}
        self._holders: dict[Storage, list[torch.Tensor]] = defaultdict(list)
        self._attributes: dict[str, torch.Tensor] = dict(traced.constants)
        self._attributes |= dict(model.named_buffers(remove_duplicate=False))
        self._attributes |= dict(model.named_parameters(remove_duplicate=False))

    def run(self) -> dict[str, NodePrice]:
        """Count every node that runs, in program order; nodes that only compute sizes are left out.

        Complexity: a few dozen microseconds a node, a few milliseconds a distinct call.
        """
        prices: dict[str, NodePrice] = {}
        priced = set(priced_nodes(self._traced))
        with _quiet():
            self._run(priced, prices)
        return prices

    def _run(self, priced: set[fx.Node], prices: dict[str, NodePrice]) -> None:
        for node in self._traced.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = self._placeholder(node)
            elif node.op == "get_attr":
                self._values[node] = self._attribute(str(node.target))
            elif node in priced:
                prices[node.name] = self._price(node)
            elif node.op == "call_function":
                self._values[node] = node.target(*self._resolved(node.args), **self._resolved(node.kwargs))

    # -- values ------------------------------------------------------------------------------------

    def _template(self, spec: TensorSpec, storage_of: tuple[str, str]) -> torch.Tensor:
        shape = spec.concrete_shape(self._sizes)
        grad = spec.requires_grad and spec.is_differentiable
        tensor = torch.empty(shape, dtype=getattr(torch, spec.dtype), device="meta", requires_grad=grad)
        return self._held(tensor, Storage(*storage_of, 0, spec.nbytes(self._sizes)))

    def _held(self, value: torch.Tensor, storage: Storage) -> torch.Tensor:
        self._storages[id(value)] = storage
        self._holders[storage].append(value)
        return value

    def _placeholder(self, node: fx.Node) -> Any:
        info = self._traced.info.get(node.name)
        if info is None or info.spec is None:
            return self._sizes[str(node.target)]
        return self._template(info.spec, ("input", node.name))

    def _attribute(self, name: str) -> torch.Tensor:
        tensor = self._attributes[name]
        value = torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype, device="meta")
        if isinstance(tensor, nn.Parameter):
            value = nn.Parameter(value, tensor.requires_grad)
        return self._held(value, Storage("kept", name, 0, 0))

    def _resolved(self, arguments: Any) -> Any:
        """Put values in the places of nodes, and the CPU in the places of devices: the fakes are there."""

        def resolve(leaf: Any) -> Any:
            if isinstance(leaf, fx.Node):
                return self._values[leaf]
            return torch.device("cpu") if isinstance(leaf, torch.device) else leaf

        return fx.node.map_aggregate(arguments, resolve)

    # -- counting ----------------------------------------------------------------------------------

    def _price(self, node: fx.Node) -> NodePrice:
        info = self._traced.info[node.name]
        if any(self._values[source] is UNKNOWN for source in node.all_input_nodes):
            return self._taken_out(node, info)
        target: Any = self._traced.modules[str(node.target)] if node.op == "call_module" else node.target
        call = (self._resolved(node.args), self._resolved(node.kwargs))
        key, leaves = self._keys.call(target, call, info.region)
        inputs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not is_plain(leaves):
            inputs = tensors_in(call)
        if key not in self._known:
            self._known[key] = self._count(target, call, info)
        count = self._known[key]
        made = [self._bound(node, made, inputs) for made in count.made]
        if count.structure is not None:
            self._values[node] = count.structure.fill(made)
        else:
            self._values[node] = made[0] if made else UNKNOWN
        if info.writes:
            self._ask_through_all_views(made)
        if info.spec is not None and not self._agrees(self._values[node], info.spec):
            self._values[node] = self._template(info.spec, ("node", node.name))
        there = {"input": inputs, "output": made}
        return NodePrice(node, count, tuple(self._storages[id(there[kind][i])] for kind, i in count.saved))

    def _taken_out(self, node: fx.Node, info: NodeInfo) -> NodePrice:
        """One of several outputs of a node that could not run, known by its spec, or a check of all: free."""
        self._values[node] = self._template(info.spec, ("node", node.name)) if info.spec else UNKNOWN
        return NodePrice(node, Count(forward=()))

    def _count(self, target: Any, call: Any, info: NodeInfo) -> Count:
        structure, inputs = Structure.of(call)
        try:
            return self._laboratory.count(target, structure, inputs, info.region)
        except Exception:  # whatever the user's code raises on tensors without data
            read = [self._attributes[name] for name in info.parameters]
            only_read = _tables(target) if isinstance(target, nn.Module) else set()
            outputs = [self._template(info.spec, ("node", ""))] if info.spec else []
            return estimate(
                inputs,
                [tensor for tensor in read if id(tensor) not in only_read],
                outputs,
                [tensor for tensor in read if id(tensor) in only_read],
            )

    def _bound(self, node: fx.Node, made: Made, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Make the value that a node returned in this walk, and find the storage behind it."""
        value = torch.empty_strided(
            made.shape, made.stride, dtype=made.dtype, device="meta", requires_grad=made.requires_grad
        )
        kind, index = made.storage
        if kind == "input":
            return self._held(value, self._storages[id(inputs[index])])
        named = "kept" if kind == "kept" else "node"
        return self._held(value, Storage(named, node.name, index, made.storage_bytes))

    def _ask_through_all_views(self, made: Sequence[torch.Tensor]) -> None:
        """After a write of what asks for a gradient all that share the memory ask for one, as in autograd."""
        for written in made:
            storage = self._storages[id(written)]
            if written.requires_grad and storage.kind == "node":
                for value in self._holders[storage]:
                    value.requires_grad_(
                        value.requires_grad or value.is_floating_point() or value.is_complex()
                    )

    def _agrees(self, value: Any, spec: TensorSpec) -> bool:
        return (
            isinstance(value, torch.Tensor)
            and tuple(value.shape) == spec.concrete_shape(self._sizes)
            and dtype_name(value.dtype) == spec.dtype
        )


def _tables(module: nn.Module) -> set[int]:
    """Return the weights, by identity, that embeddings inside a module have for themselves."""
    tables, others = set[int](), set[int]()
    for inside in module.modules():
        of_kind = tables if isinstance(inside, nn.Embedding | nn.EmbeddingBag) else others
        of_kind.update(map(id, inside.parameters(recurse=False)))
    return tables - others


def priced_nodes(traced: TracedModel) -> list[fx.Node]:
    """Return the nodes that have a price, in program order: modules, and what makes tensors or reads them.

    Sizes, and objects that hold no tensor, are computed wherever they are needed, at no cost.
    """
    return [
        node
        for node in traced.compute_nodes()
        if node.name in traced.info
        and (
            traced.info[node.name].spec is not None
            or node.op == "call_module"
            or any(source.name in traced.info for source in node.all_input_nodes)
        )
    ]


def charge(prices: Mapping[str, NodePrice]) -> dict[str, int]:
    """Return the bytes that each node keeps for the backward; every storage is charged once.

    Args:
        prices: Every node, in program order.

    Returns:
        Node name -> bytes.
    """
    saved_bytes = {name: price.count.saved_inside_bytes for name, price in prices.items()}
    taken_by = {
        (price.node.args[0].name, price.node.args[1]): name
        for name, price in reversed(list(prices.items()))
        if price.node.target is operator.getitem and isinstance(price.node.args[0], fx.Node)
    }
    charged: set[Storage] = set()
    for name, price in prices.items():
        for storage in price.saved:
            if storage.kind != "kept" and storage not in charged:
                charged.add(storage)
                made_by = taken_by.get((storage.name, storage.index), storage.name)
                saved_bytes[made_by if storage.kind == "node" else name] += storage.nbytes
    return saved_bytes
