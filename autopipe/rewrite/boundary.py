"""What every stage consists of, and what crosses between stages.

A node that has a stage runs there and nowhere else. Every other node (a parameter, a constant, an expression
over sizes) is light: it is repeated in each stage that reads it, and nothing is sent for it. Model inputs go
straight to every stage that reads them. A value that is recomputed has a stage, and is repeated in those that
read it.

::

    stage 0          stage 1          stage 2
    e ───────────────────────────────► add          crosses once, 0 -> 2
    a ─────────────► b ──────────────► add          0 -> 1, 1 -> 2
    aux ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─► output       0 -> 2, for the output only
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass

from torch import fx

from autopipe.errors import PartitionError
from autopipe.ir.repeatable import repeatable_units
from autopipe.ir.stages import Port
from autopipe.ir.traced import TracedModel


@dataclass(frozen=True, slots=True)
class StageContent:
    """What one stage is made of, before it is a module.

    Args:
        nodes: What runs here and the light nodes that it reads, in program order.
        placeholders: The model inputs, then the symbolic sizes, that it reads.
        recv: Values from earlier stages, in program order.
        send: Values to later stages, in program order, then by receiving stage.
        results: Names of the values it returns: what is sent, and the outputs that it makes as the last
            stage.
    """

    nodes: tuple[fx.Node, ...]
    placeholders: tuple[fx.Node, ...]
    recv: tuple[Port, ...]
    send: tuple[Port, ...]
    results: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Flow:
    """Where each node runs, and which stages read it.

    Args:
        home: Node -> its stage; light nodes are absent.
        readers: Node -> the stages whose nodes read it; the last stage also reads outputs that are light.
        outputs: The nodes behind the model's outputs.
        with_gradient: The values that gradients flow through.
        again: Nodes that run at home and in every other stage that reads them.
    """

    home: Mapping[fx.Node, int]
    readers: Mapping[fx.Node, set[int]]
    outputs: frozenset[fx.Node]
    with_gradient: Set[str]
    again: Set[str]

    def runs_in(self, node: fx.Node) -> set[int]:
        if node not in self.home:
            return self.readers[node]
        return {self.home[node]} | (self.readers[node] if node.name in self.again else set())


def stage_contents(
    traced: TracedModel,
    stage_of: Mapping[str, int],
    n_stages: int,
    with_gradient: Set[str],
    recomputed: Set[str] = frozenset(),
) -> tuple[StageContent, ...]:
    """Find what each stage consists of and what crosses.

    Args:
        traced: The captured model.
        stage_of: Node name -> stage, of every node that is not light.
        n_stages: How many stages; some may be empty.
        with_gradient: The values that gradients flow through.
        recomputed: Nodes that run in every stage that reads them, where they can and carry no gradient: the
            sum of the gradients of several copies would be rounded in another order.

    Returns:
        One entry a stage. O(nodes x arguments).

    Raises:
        PartitionError: If a stage is out of range, if a value flows to an earlier stage, or if a value that
            is no tensor would have to cross.
    """
    units = repeatable_units(traced) if recomputed else ()
    possible = [unit for unit in units if unit <= recomputed and not unit & with_gradient]
    again = frozenset[str]().union(*possible)
    flow = _flow(traced, stage_of, n_stages, with_gradient, again)
    _check_writes(traced, flow)
    program = [node for node in traced.graph.nodes if node.op != "output"]
    crossings = [(node, dst) for node in program for dst in _crosses_to(flow, node, n_stages - 1)]
    ports = [(flow.home[node], dst, _port(traced, flow, node, dst)) for node, dst in crossings]
    contents = []
    for stage in range(n_stages):
        here = [node for node in program if stage in flow.runs_in(node)]
        recv = tuple(_with_peer(port, src) for src, dst, port in ports if dst == stage)
        send = tuple(_with_peer(port, dst) for src, dst, port in ports if src == stage)
        results = [port.value for port in send]
        if stage == n_stages - 1:
            results += [node.name for node in program if node in flow.outputs and stage in flow.runs_in(node)]
        contents.append(
            StageContent(
                nodes=tuple(node for node in here if node.op != "placeholder"),
                placeholders=_placeholders(traced, here),
                recv=recv,
                send=send,
                results=tuple(dict.fromkeys(results)),
            )
        )
    return tuple(contents)


def _flow(
    traced: TracedModel,
    stage_of: Mapping[str, int],
    n_stages: int,
    with_gradient: Set[str],
    again: Set[str],
) -> _Flow:
    """Walk the program backwards: a node passes on to its arguments the stages that it runs in."""
    names = {*traced.out_names, *(traced.changed.made if traced.changed is not None else ())}
    outputs = frozenset(node for node in traced.graph.nodes if node.name in names)
    home: dict[fx.Node, int] = {}
    for node in traced.compute_nodes():
        if node.name in stage_of and not _is_light(traced, node, home):
            home[node] = stage_of[node.name]
            if not 0 <= home[node] < n_stages:
                raise PartitionError(
                    f"{node.name} is in stage {home[node]}, but there are {n_stages} stages."
                )
    readers: dict[fx.Node, set[int]] = defaultdict(set)
    flow = _Flow(home, readers, outputs, with_gradient, again)
    for node in outputs - home.keys():
        readers[node].add(n_stages - 1)
    for node in reversed(traced.graph.nodes):
        if node.op == "output":
            continue
        if node in home and (earlier := [stage for stage in readers[node] if stage < home[node]]):
            raise PartitionError(
                f"stage {earlier[0]} reads {node.name}, which stage {home[node]} makes.",
                why="Values flow to later stages only.",
            )
        for argument in node.all_input_nodes:
            readers[argument] |= flow.runs_in(node)
    return flow


def _check_writes(traced: TracedModel, flow: _Flow) -> None:
    """Refuse a cut between a write in place and who reads the memory afterwards."""
    written_by: dict[str, fx.Node] = {}
    for node in traced.compute_nodes():
        for argument in node.all_input_nodes:
            writer = written_by.get(argument.name)
            if writer is not None and flow.home.get(node) != flow.home.get(writer):
                raise PartitionError(
                    f"{node.name} reads {argument.name} after {writer.name} wrote it, in another stage.",
                    where=f"stage {flow.home.get(node)} and stage {flow.home.get(writer)}",
                    why="A write in place is seen in its own stage only.",
                )
        written_by |= dict.fromkeys(traced.info[node.name].writes, node)


def _is_light(traced: TracedModel, node: fx.Node, home: Mapping[fx.Node, int]) -> bool:
    """Whether a node makes a size out of nothing but sizes."""
    inputs = {leaf.name for leaf in traced.inputs}
    return traced.info[node.name].spec is None and all(
        argument.op != "get_attr" and argument.name not in inputs and argument not in home
        for argument in node.all_input_nodes
    )


def _crosses_to(flow: _Flow, node: fx.Node, last: int) -> list[int]:
    if node not in flow.home or node.name in flow.again:
        return []
    readers = flow.readers[node] | ({last} if node in flow.outputs else set())
    return sorted(readers - {flow.home[node]})


def _port(traced: TracedModel, flow: _Flow, node: fx.Node, dst: int) -> Port:
    spec = traced.info[node.name].spec
    if spec is None:
        raise PartitionError(
            f"{node.name} cannot cross from stage {flow.home[node]} to stage {dst}: it is no tensor.",
            why="A call that returns several tensors, and the nodes that take them out, share a stage.",
        )
    return Port(node.name, spec, dst, node.name in flow.with_gradient, dst not in flow.readers[node])


def _with_peer(port: Port, peer: int) -> Port:
    return Port(port.value, port.spec, peer, port.carries_grad, port.output_only)


def _placeholders(traced: TracedModel, here: list[fx.Node]) -> tuple[fx.Node, ...]:
    inputs = {leaf.name for leaf in traced.inputs}
    found = [node for node in here if node.op == "placeholder"]
    return tuple(sorted(found, key=lambda node: node.name not in inputs))
