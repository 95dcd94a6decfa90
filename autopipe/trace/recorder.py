"""Writes down what the model does to fake tensors: a node a call, and what each call reads, writes, aliases.

Every tensor that is met is known by its identity. A call that changes a tensor in place makes a new value;
from then on the tensor stands for that value, so that later readers take it (SSA)::

    y = conv(x)          %conv = call_module[conv](x)
    relu_(y)             %relu_ = call_function[relu_](%conv)       y now stands for %relu_
    z = y + 1            %add = call_function[add](%relu_, 1)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from autopipe.ir.structure import Structure, is_hole, map_tensors, tensors_in
from autopipe.trace.branches import Branches, RandomBranch, is_condition
from autopipe.trace.decisions import Decision, is_drawn, is_never
from autopipe.trace.effects import storage_of
from autopipe.trace.fx_arguments import FxArguments
from autopipe.trace.glue import passed_through, spelled, tensor_leaf, written
from autopipe.trace.held_tensors import note_held_tensors
from autopipe.trace.hidden_results import hidden_results
from autopipe.trace.indices import Indices
from autopipe.trace.leaf_results import checked, take_hidden
from autopipe.trace.leaf_use import LeafUse
from autopipe.trace.program import Program
from autopipe.trace.source import user_line
from autopipe.trace.values import Values


class Recorder:
    """Records calls.

    Args:
        program: The graph that is being written.
        mode: Makes the fake tensors of the capture.
        branches: What is known of branches on the values of tensors.
    """

    def __init__(self, program: Program, mode: FakeTensorMode, branches: Branches) -> None:
        """Start with an empty program and no tensor known."""
        self.program = program
        self.values = Values(program, mode)
        self.arguments = FxArguments(program, self.values)
        self.is_random = self.is_learnt = self.draws_outside_torch = False
        self.written: set[int] = set()
        self.held: dict[int, torch.Tensor] = {}
        self.branches, self.indices = branches, Indices()

    def call_function(
        self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], run: Callable[..., Any]
    ) -> Any:
        """Run a function on fake tensors, and write it down if it makes or changes a tensor.

        Args:
            target: The function.
            args: Positional arguments, fake tensors inside.
            kwargs: Keyword arguments.
            run: Makes the call: ``run(*args, **kwargs)``, real tensors replaced by fake ones.

        Returns:
            What the call returned; a tensor that is one of the arguments comes back as an alias of it, so
            that the two can be told apart.
        """
        return self._call("call_function", target, (args, kwargs), run, None)

    def call_module(
        self, fqn: str, args: tuple[Any, ...], kwargs: dict[str, Any], run: Callable[..., Any], use: LeafUse
    ) -> Any:
        """Run a leaf on fake tensors, and write it down.

        Args:
            fqn: The leaf.
            args: Positional arguments, fake tensors inside.
            kwargs: Keyword arguments.
            run: Makes the call, as for ``call_function``.
            use: What the leaf has inside.

        Returns:
            As ``call_function``.
        """
        return self._call("call_module", fqn, (args, kwargs), run, use)

    def note_written(self, storages: set[int]) -> None:
        """Note the memory that an operator below the current call writes."""
        self.written |= storages
        for storage in storages:
            self.indices.written(storage)

    def note_held(self, args: tuple[Any, ...]) -> None:
        """Note the plain tensors of the model, such as attributes of a leaf, that an operator is given."""
        for arg in args:
            for tensor in arg if isinstance(arg, list | tuple) else (arg,):
                if isinstance(tensor, torch.Tensor) and self.values.is_foreign(tensor):
                    self.held[id(tensor)] = tensor

    def decide(
        self, condition: Any, args: tuple[Any, ...], kwargs: dict[str, Any], where: str
    ) -> bool | None:
        """Return which way to go at a branch, and record a check that it is right.

        Args:
            condition: What the model's Python called.
            args: Positional arguments, fake tensors inside.
            kwargs: Keyword arguments.
            where: File, line and source of the branch.

        Returns:
            None if it is no branch, or a real one: both ways go on.

        Raises:
            UnknownBranch: If nothing is known of it yet.
            RandomBranch: If it is a real one, on numbers that were drawn.
        """
        fx_args, fx_kwargs = self.arguments.of_call(args, kwargs)
        if is_never(condition, fx_args):
            return False
        check = self.branches.way() if is_condition(condition, args[0]) else None
        if check is None:
            if is_drawn(fx_args[0], self.program.info):
                raise RandomBranch(condition)
            return None
        decision = Decision(condition, check.way, where, check.refusal)
        node = self.program.graph.call_function(decision, fx_args, fx_kwargs)
        self.program.describe(node, "decision", args[0], {storage_of(args[0])})
        for tensor in tensors_in((args, kwargs)):
            self.program.effects.reads(storage_of(tensor), node.name)
        return check.way

    def _call(
        self, op: str, target: Any, given: tuple[Any, Any], run: Callable[..., Any], leaf: LeafUse | None
    ) -> Any:
        buffers = leaf.buffers if leaf else {}
        read = tensors_in(given)
        is_copied = any(self.values.is_foreign(tensor) for tensor in read)
        if is_copied:
            given = map_tensors(self._fake, given)
            read = tensors_in(given)
        watched = [*read, *buffers.values()]
        versions = [_version(tensor) for tensor in watched]
        may_change = leaf is not None and bool(leaf.opaque_because)
        fx_args, fx_kwargs = self.arguments.of_call(*given, may_change=may_change)
        objects = self.arguments.objects if leaf and not is_copied else []
        region = self.program.region()
        self.is_random = self.is_learnt = self.draws_outside_torch = False
        self.written.clear()
        self.held.clear()
        out = run(*given[0], **given[1])
        hidden = hidden_results(objects, read, tensors_in(given), self._place)
        self.program.bound_sizes(out, read)
        written_to = _unique(t for t, before in zip(watched, versions, strict=True) if _version(t) != before)
        inside = {id(buffer) for buffer in buffers.values()} - {id(tensor) for tensor in read}
        changed = [tensor for tensor in written_to if id(tensor) not in inside]
        if leaf is None and not changed and not tensors_in(out):
            return out
        target = target if leaf else spelled(target)
        node = self.program.graph.create_node(op, target, fx_args, fx_kwargs, name=_name_hint(op, target))
        attributes = self._attributes_written(written_to)
        known = self._known(read, leaf or LeafUse())
        if leaf:
            known |= {"fqn": target, "opaque_because": leaf.opaque_because}
            known["draws_outside_torch"] = self.draws_outside_torch
        values = [self.values.node_of(tensor).name for tensor in changed]
        plain = note_held_tensors(self.program, self.values, node, self.held.values(), self.written, leaf)
        known["writes"] = tuple(dict.fromkeys([*values, *attributes, *plain]))
        label = f"@{target}" if leaf else _name_hint(op, target)
        storages = {storage_of(tensor) for tensor in read}
        self.program.describe(node, label, out, storages, region=region, is_random=self.is_random, **known)
        self._note_effects(node, read, changed, (*known["parameters"], *known["buffers"]), attributes)
        take_hidden(self.program, self.arguments, node, hidden, is_learnt=self.is_learnt)
        if leaf and (leaf.has_hooks or self.is_learnt):
            learnt_for = leaf.opaque_because if self.is_learnt else None
            node = checked(self.program, self.arguments, node, out, learnt_for, objects)
        return self._take_results(node, out, read, changed)

    def _fake(self, hole: Any) -> Any:
        is_foreign = isinstance(hole, torch.Tensor) and self.values.is_foreign(hole)
        return self.values.fake_of(hole) if is_foreign else hole

    def _place(self) -> str:
        return f"in {self.program.modules[-1] or 'the model'}, at {user_line()}"

    def _known(self, read: Sequence[torch.Tensor], leaf: LeafUse) -> dict[str, Any]:
        owned = self.values.owned_among(read)
        parameters = [name for name, is_parameter in owned if is_parameter]
        buffers = [name for name, is_parameter in owned if not is_parameter]
        return {"parameters": (*leaf.parameters, *parameters), "buffers": (*leaf.buffers, *buffers)}

    def _attributes_written(self, changed: list[torch.Tensor]) -> tuple[str, ...]:
        """Return the attributes of the model in memory that a call wrote, even through ``.data``."""
        storages = {*map(storage_of, changed), *self.written}
        return tuple(self.program.effects.attributes_in(storages))

    def _note_effects(
        self,
        node: fx.Node,
        read: list[torch.Tensor],
        changed: list[torch.Tensor],
        owned: tuple[str, ...],
        written_names: tuple[str, ...],
    ) -> None:
        effects = self.program.effects
        for name in dict.fromkeys([*written_names, *owned]):
            effects.uses_attribute(name, node.name, changes=name in written_names)
        for tensor in read:
            effects.reads(storage_of(tensor), node.name)

    def _take_results(
        self, node: fx.Node, out: Any, read: list[torch.Tensor], changed: list[torch.Tensor]
    ) -> Any:
        """Bind every tensor that a call returned or changed to its value."""
        for tensor in changed:
            self.program.effects.writes(storage_of(tensor), node.name)
        given = {id(tensor) for tensor in read}
        if isinstance(out, torch.Tensor):
            if id(out) in given and not any(out is tensor for tensor in changed):
                out = self.values.alias(out)
            self.values.know(out, node)
            rest = [tensor for tensor in changed if tensor is not out]
        else:
            out = self._take_structure(node, out, given)
            rest = list(changed)
        storages = {storage_of(tensor) for tensor in changed}
        rest += [tensor for storage in storages for tensor in self.values.untouched_in(storage)]
        for tensor in _unique(rest):
            after = self.program.graph.call_function(written, (self.values.node_of(tensor), node))
            self.program.describe(after, "written", tensor, {storage_of(tensor)})
            self.values.know(tensor, after)
        return out

    def _take_structure(self, node: fx.Node, out: Any, given: set[int]) -> Any:
        """Give every tensor inside a returned tuple, dict or object a getitem node of its own."""
        if not tensors_in(out):
            return out
        structure, holes = Structure.of(out)
        holes = [self.values.alias(hole) if id(hole) in given else hole for hole in holes]
        plain = type(out) in (tuple, list) and all(is_hole(item) for item in out)
        for index, hole in enumerate(holes):
            if not isinstance(hole, torch.Tensor) or (self.values.is_known(hole) and id(hole) not in given):
                continue
            getter = operator.getitem if plain else tensor_leaf
            leaf = self.program.graph.call_function(getter, (node, index))
            self.program.describe(leaf, "getitem", hole, region=self.program.info[node.name].region)
            self.values.know(hole, leaf)
        return structure.fill(holes)

    def output(self, holes: list[Any], left: Sequence[Any] = ()) -> tuple[str | None, ...]:
        """Add the output node, and nodes that are left in the arguments; return the name behind each hole."""
        nodes = [self._output_leaf(hole) for hole in holes]
        self.program.graph.output((*nodes, *left))
        return tuple(node.name if isinstance(node, fx.Node) else None for node in nodes)

    def left_in_argument(self, hole: Any) -> Any:
        """Return the node behind a tensor that a call left in its arguments."""
        found = self.arguments.of(hole)
        is_input = isinstance(found, fx.Node) and found.op == "placeholder"
        return found if is_input else self._output_leaf(hole)

    def _output_leaf(self, hole: Any) -> Any:
        found = self.arguments.of(hole)
        if isinstance(found, fx.Node) and not (
            found.name in self.program.info and found.op.startswith("call")
        ):
            found = self.program.graph.call_function(passed_through, (found,))
            self.program.describe(found, "passed_through", hole)
        return found


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _unique(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _name_hint(op: str, target: Any) -> str:
    if op == "call_module":
        return str(target).replace(".", "_")
    return str(getattr(target, "__name__", type(target).__name__)).strip("_")
