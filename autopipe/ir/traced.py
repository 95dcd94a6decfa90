"""The captured model: one fx graph for one signature, and what is known of each of its nodes.

The graph has these nodes, in program order::

    placeholder     one a tensor among the arguments (``in_0`` ...), one a symbolic size (``B``)
    get_attr        a parameter, a buffer, or a tensor that is neither (``_constant_0``)
    call_module     a leaf: a module kept whole, called with its hooks
    call_function   a torch function, a tensor method, a custom autograd function, getitem
    output          the flat list of the tensors (and sizes) among the outputs

Nothing hangs on a node; what is known of it stands in ``TracedModel.info`` under its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from autopipe.errors import ArgumentError
from autopipe.ir.changed_arguments import ChangedArguments
from autopipe.ir.tensor import Size, SizeExpression, TensorSpec, evaluate_size


@dataclass(frozen=True, slots=True)
class Region:
    """The modes under which the model ran a node.

    Args:
        grad_enabled: Whether autograd recorded.
        inference: Whether inference mode was on.
        autocast: (device type, dtype name) of each autocast that was on, sorted.
    """

    grad_enabled: bool = True
    inference: bool = False
    autocast: tuple[tuple[str, str], ...] = ()

    def verify(self) -> None:
        """Check that each kind of device has one autocast; else a bug of autopipe."""
        kinds = [kind for kind, _ in self.autocast]
        assert kinds == sorted(set(kinds)), f"autocast {self.autocast} is not one a device type, sorted"

    def __str__(self) -> str:
        """Print what is not as usual, as ``no_grad, autocast cpu bfloat16``; "plain" if all is."""
        found = ["inference"] if self.inference else [] if self.grad_enabled else ["no_grad"]
        return ", ".join([*found, *(f"autocast {kind} {dtype}" for kind, dtype in self.autocast)]) or "plain"


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What is known of one node.

    Args:
        key: The node's identity across signatures: module FQN, operation, ordinal of the call.
        fqn: The module whose forward ran the node ("" is the model itself); a leaf's own FQN.
        spec: The one tensor that the node makes, or None (sizes, several tensors: these are getitem nodes).
        region: The modes under which the node ran.
        writes: Names of the values and attributes that the node modifies in place.
        parameters: Canonical FQNs of the parameters that the node reads, inside a leaf included.
        buffers: Canonical FQNs of the buffers that the node reads or writes, inside a leaf included.
        is_random: Whether the node may draw random numbers.
        is_view: Whether the value shares memory with an argument of the node.
        opaque_because: Why a module with children is one node, or "".
        source: ``file:line`` of the user's code that made the node, or "".
        recompute: The call of ``torch.utils.checkpoint`` that the node ran in, or "". Its nodes may be cut
            apart; what lies in one stage may be computed again in the backward instead of kept.
        draws_outside_torch: Whether the node may draw from Python's or numpy's random numbers.
    """

    key: str
    fqn: str
    spec: TensorSpec | None = None
    region: Region = Region()
    writes: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    is_random: bool = False
    is_view: bool = False
    opaque_because: str = ""
    source: str = ""
    recompute: str = ""
    draws_outside_torch: bool = False

    def verify(self) -> None:
        """Check that the node has a key, that its tensor is one, and that nothing is named twice."""
        assert self.key, f"a node of module {self.fqn!r} has no key"
        for names in (self.writes, self.parameters, self.buffers):
            assert len(set(names)) == len(names), f"{self.key} names something twice: {names}"
        self.region.verify()
        if self.spec is not None:
            self.spec.verify()

    def __str__(self) -> str:
        """Print as ``h.0|@h.0|0 f32[B, 8]``, then what is special about the node."""
        marks = ["random"] * self.is_random + ["view"] * self.is_view + ["opaque"] * bool(self.opaque_because)
        marks += [f"writes {', '.join(self.writes)}"] * bool(self.writes)
        marks += [str(self.region)] * (self.region != Region())
        return " ".join([self.key, str(self.spec or "no tensor"), *(f"({mark})" for mark in marks)])


@dataclass(frozen=True, slots=True)
class InputLeaf:
    """One tensor among the arguments.

    Args:
        name: The placeholder.
        path: How the user would write it, such as ``input_ids`` or ``batch['mask']``.
        spec: Its shape over the symbolic sizes, and dtype.
        batch_dim: The dimension that microbatches are cut along, or None.
    """

    name: str
    path: str
    spec: TensorSpec
    batch_dim: int | None

    def verify(self) -> None:
        """Check that the tensor has the dimension that microbatches are cut along."""
        self.spec.verify()
        dim, n_dims = self.batch_dim, len(self.spec.shape)
        assert dim is None or 0 <= dim < n_dims, f"{self.path} has no dimension {dim} to cut: {self.spec}"

    def __str__(self) -> str:
        """Print as ``input_ids i64[B, 16], cut along 0``."""
        cut = "whole" if self.batch_dim is None else f"cut along {self.batch_dim}"
        return f"{self.path} {self.spec}, {cut}"


@dataclass(frozen=True, slots=True)
class AttributeWrite:
    """A plain value that the model's Python sets on one of its modules, the same on every call.

    Args:
        fqn: The module.
        name: Its attribute.
        key: The attribute of that object, or the key of that dict, that is set; "": the attribute itself.
        value: A plain value, such as ``"single_label_classification"``.
        is_size: Whether the value is an expression over symbolic sizes.
    """

    fqn: str
    name: str
    key: str
    value: Any
    is_size: bool = False

    def value_at(self, sizes: Mapping[str, int]) -> Any:
        """Return what is set where the symbolic sizes have these values."""
        return evaluate_size(self.value, sizes) if self.is_size else self.value

    @property
    def path(self) -> str:
        """How a user would write it: ``config.problem_type``."""
        return ".".join(part for part in (self.fqn, self.name, self.key) if part)

    def verify(self) -> None:
        """Check that it says what is set; else a bug of autopipe."""
        assert self.name, f"a write to module {self.fqn!r} names no attribute"

    def __str__(self) -> str:
        """Print as ``config.problem_type = 'regression'``."""
        return f"{self.path} = {self.value if self.is_size else repr(self.value)}"


@dataclass(frozen=True, slots=True)
class TracedModel:
    """A model captured for one signature.

    Args:
        graph: The fx graph, as the module docstring says. Owned by this object; copy before changing.
        info: What is known of each node, by node name.
        modules: FQN -> the user's own module, of every leaf that the graph calls.
        constants: Name -> tensor, of tensors that are neither parameter nor buffer.
        inputs: The tensors among the arguments, in placeholder order.
        in_structure: Rebuilds and flattens the arguments (``autopipe.ir.structure.Structure``).
        out_structure: Rebuilds the output from the graph's outputs.
        out_names: The node behind each output leaf, and None for a leaf that is a plain value.
        sizes: Symbolic size -> its value in the example.
        derived_sizes: Symbolic size -> its value in terms of the others, of those that turned out not to be
            open.
        guards: Python expressions over the sizes that must hold for the graph to be right.
        together: Groups of nodes that must share a stage because of what they write.
        order: Pairs (before, after) that must keep their order though no value passes.
        device: The device that the example ran on.
        sets: What a call sets on the modules, to be set when the graph is run.
        changed: The arguments as a call leaves them, None if it changes nothing in them.
        where: Guard, or size that turned out not to be open -> file, line and source of the Python that
            looked at it.
        loose: The nodes behind outputs whose sizes only a run knows; their specs say the most they can be.
    """

    graph: fx.Graph
    info: Mapping[str, NodeInfo]
    modules: Mapping[str, torch.nn.Module]
    constants: Mapping[str, torch.Tensor]
    inputs: tuple[InputLeaf, ...]
    in_structure: Any
    out_structure: Any
    out_names: tuple[str | None, ...]
    sizes: Mapping[str, int]
    derived_sizes: Mapping[str, Size]
    guards: tuple[str, ...]
    together: tuple[tuple[str, ...], ...] = ()
    order: tuple[tuple[str, str], ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    sets: tuple[AttributeWrite, ...] = ()
    changed: ChangedArguments | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    loose: frozenset[str] = frozenset()

    def compute_nodes(self) -> list[fx.Node]:
        """Return the nodes that run in one stage each, in program order: all calls but those of sizes."""
        calls = [node for node in self.graph.nodes if node.op in ("call_module", "call_function")]
        return [node for node in calls if not isinstance(node.target, SizeExpression)]

    def bind(self, shapes: Sequence[Sequence[int]]) -> dict[str, int] | None:
        """Give every symbolic size its value in a call with the signature of this capture.

        Args:
            shapes: The shape of each tensor among the arguments, in the order of ``inputs``.

        Returns:
            The value of each symbolic size, or None if the graph is not right for these sizes.
        """
        pairs = [
            (expected, actual)
            for leaf, shape in zip(self.inputs, shapes, strict=True)
            for expected, actual in zip(leaf.spec.shape, shape, strict=True)
        ]
        bound: dict[str, int] = {}
        for expected, actual in pairs:
            if isinstance(expected, str) and expected in self.sizes:
                bound.setdefault(expected, actual)
        try:
            for name, value in self.derived_sizes.items():
                bound[name] = evaluate_size(value, bound)
            fits = all(evaluate_size(expected, bound) == actual for expected, actual in pairs)
            return bound if fits and all(evaluate_size(guard, bound) for guard in self.guards) else None
        except ArgumentError:
            return None

    def verify(self) -> None:
        """Check that the graph is well formed and every node that runs is known.

        Raises:
            AssertionError: Naming the node that breaks a rule; such a graph is a bug of autopipe.
        """
        self.graph.lint()
        for part in (*self.inputs, *self.sets, *self.info.values(), self.in_structure, self.out_structure):
            part.verify()
        if self.changed is not None:
            self.changed.verify()
        names = {node.name for node in self.graph.nodes}
        for node in self.compute_nodes():
            assert node.name in self.info, f"node {node.name} has no info"
            if node.op == "call_module":
                assert str(node.target) in self.modules, (
                    f"node {node.name} calls unknown module {node.target}"
                )
        for name in [name for group in self.together for name in group] + [
            n for pair in self.order for n in pair
        ]:
            assert name in names, f"{name} is grouped or ordered but not in the graph"

    def __str__(self) -> str:
        """Print one line a node: name, what it calls, its tensor."""
        lines = [f"TracedModel({len(self.compute_nodes())} nodes, sizes {dict(self.sizes)})"]
        for node in self.compute_nodes():
            info = self.info[node.name]
            target = (
                node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target)
            )
            lines.append(f"  {node.name:<40} {target!s:<28} {info.spec or ''}")
        return "\n".join(lines)
