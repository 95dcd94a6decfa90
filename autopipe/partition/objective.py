"""The price of a stage: the one place that says what a stage costs; solvers, bounds and baselines ask here.

::

    total_ms = forward + backward of the nodes in the stage
             + every net it sends     (once, at the link out of the stage)
             + every net it receives  (once, at the link into the stage)        or the largest of the three
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from autopipe.errors import PartitionError
from autopipe.ir.cost_graph import CostGraph, CostNode, TiedParam
from autopipe.ir.hardware import Hardware, Link
from autopipe.ir.partition import StageCost
from autopipe.partition.known import Known
from autopipe.partition.nets import Net, build_nets, spread

ELEMENT_BYTES = 4
"""Bytes of a parameter element where a cost graph does not say how many elements there are."""


@dataclass(frozen=True, slots=True)
class MemoryRule:
    """What a stage has to hold.

    Args:
        param_multiplier: Bytes a parameter byte; None: parameter, gradient and optimizer state.
        keeps_received: Received values are kept until their backward is done.
    """

    param_multiplier: float | None = None
    keeps_received: bool = True

    def held_bytes(self, owner: CostNode | TiedParam, hardware: Hardware) -> float:
        """Bytes of the parameters of a node, or of a tied one, with what training adds to them.

        Gradients are as large as the parameters that are trained; optimizer state is counted by element.
        """
        nbytes = owner.param_bytes if isinstance(owner, CostNode) else owner.nbytes
        if self.param_multiplier is not None:
            return nbytes * self.param_multiplier
        trained = nbytes if owner.trained_bytes is None else owner.trained_bytes
        elements = trained / ELEMENT_BYTES if owner.n_trained is None else owner.n_trained
        return nbytes + trained + elements * hardware.optimizer_bytes_per_param


def net_ms(net: Net, link: Link) -> float:
    """Time of one net over one link, forward and back."""
    return net.share * (link.transfer_ms(net.out_bytes) + link.transfer_ms(net.grad_bytes))


def _but_times(graph: CostGraph) -> tuple[object, ...]:
    """What graphs of all positions have in common."""
    nodes = [
        (
            x.out_bytes,
            x.grad_bytes,
            x.param_bytes,
            x.saved_bytes,
            x.recomputable,
            x.trained_bytes,
            x.n_trained,
        )
        for x in graph.nodes
    ]
    return nodes, set(graph.edges()), graph.together, graph.tied


@dataclass(frozen=True, slots=True)
class Rules:
    """What a caller may choose about prices and memory.

    Args:
        in_flight: Microbatches in flight by stage; None: ``n_stages - stage``, what 1F1B holds.
        n_microbatches: Over how many the exchange of tied parameters is spread; None: 4 a stage.
        memory: What counts as memory.
        memory_limit_bytes: What a stage may hold.
        allow_recompute: A stage that does not fit may run its forward twice instead of keeping values.
        recomputed: Values that reading stages compute again.
        stage_limits: What each stage may hold, where they differ; None: ``memory_limit_bytes``.
    """

    in_flight: tuple[int, ...] | None = None
    n_microbatches: int | None = None
    memory: MemoryRule = MemoryRule()
    memory_limit_bytes: int | None = None
    allow_recompute: bool = False
    recomputed: frozenset[str] = frozenset()
    stage_limits: tuple[int, ...] | None = None


class Objective:
    """Prices stages of one cost graph on one hardware.

    Args:
        graphs: The cost graph, or one a position over the same nodes where devices differ.
        hardware: Links, overlap and optimizer bytes.
        n_stages: How many stages there will be.
        rules: What the caller chose.
        known: What other prices of the same graphs found out.

    Raises:
        PartitionError: Wrong lengths, or graphs that differ in more than their times.
    """

    def __init__(
        self,
        graphs: CostGraph | Sequence[CostGraph],
        hardware: Hardware,
        n_stages: int,
        rules: Rules | None = None,
        known: Known | None = None,
    ) -> None:
        """Index nodes and nets once."""
        self.graphs = (graphs,) if isinstance(graphs, CostGraph) else tuple(graphs)
        self.graph = self.graphs[0]
        self.hardware = hardware
        self.n_stages = n_stages
        self.rules = rules = rules or Rules()
        self.in_flight = rules.in_flight if rules.in_flight is not None else tuple(range(n_stages, 0, -1))
        self.recomputed = tuple(name for name in self.graph.graph if name in rules.recomputed)
        self.names = tuple(self.graph.graph)
        self.index = {name: i for i, name in enumerate(self.names)}
        self.nodes = [graph.nodes for graph in self.graphs]
        nets, self._nets_of = (known or Known()).recall(
            (self.graph,), ("nets", rules.recomputed), lambda: self._find_nets(rules.recomputed)
        )
        self.nets = spread(nets, rules.n_microbatches or 4 * n_stages)
        self._check()

    def _find_nets(self, recomputed: frozenset[str]) -> tuple[tuple[Net, ...], list[list[int]]]:
        """All nets, and those of every node."""
        nets = build_nets(self.graph, recomputed)
        nets_of: list[list[int]] = [[] for _ in self.names]
        for i, net in enumerate(nets):
            for pin in net.pins:
                nets_of[pin].append(i)
        return nets, nets_of

    def _check(self) -> None:
        for graph in self.graphs[1:]:
            if tuple(graph.graph) != self.names:
                raise PartitionError("cost graphs of different positions have different nodes.")
            if graph is not self.graph and _but_times(graph) != _but_times(self.graph):
                raise PartitionError(
                    "cost graphs of different positions differ in more than their times.",
                    remedy="the same edges, groups, tied parameters and bytes in all of them.",
                )
        if len(self.in_flight) != self.n_stages:
            raise PartitionError(
                f"in_flight has {len(self.in_flight)} numbers for {self.n_stages} stages.",
                remedy="one number a stage, the first stage first.",
            )

    def send_ms(self, net: Net, stage: int) -> float:
        """What the stage that makes the net pays if others read it."""
        return 0.0 if net.again else net_ms(net, self.hardware.link_out(stage))

    def recv_ms(self, net: Net, stage: int) -> float:
        """What a stage that reads the net pays if another makes it."""
        if net.again:
            return self.nodes[stage % len(self.nodes)][net.maker].compute_ms
        return net_ms(net, self.hardware.link_in(stage))

    def price(self, members: Iterable[int], stage: int) -> StageCost:
        """What a set of nodes costs as that stage.

        Args:
            members: Node indices.
            stage: Its position.

        Returns:
            Its cost; ``recompute`` is chosen only where the memory limit needs it.

        Complexity: linear in the pins of its nets.
        """
        inside = set(members)
        nodes = self.nodes[stage % len(self.nodes)]
        touched = sorted({net for i in inside for net in self._nets_of[i]})
        cut = [net for net in map(self.nets.__getitem__, touched) if not inside.issuperset(net.pins)]
        sent = [net for net in cut if net.maker in inside]
        received = [net for net in cut if net.maker not in inside]
        send_ms = math.fsum(self.send_ms(net, stage) for net in sent)
        recv_ms = math.fsum(self.recv_ms(net, stage) for net in received if not net.again)
        again_ms = math.fsum(self.recv_ms(net, stage) for net in received if net.again)
        own_ms = math.fsum(nodes[i].fwd_ms for i in inside)
        bwd_ms = math.fsum(nodes[i].bwd_ms for i in inside)
        param_bytes = sum(nodes[i].param_bytes for i in inside) - self._double_counted(inside)
        saved_bytes = sum(nodes[i].saved_bytes for i in inside)
        kept = sum(net.kept_bytes for net in received)
        kept = kept if self.rules.memory.keeps_received else 0
        fixed = self.held_bytes(inside)
        memory = math.ceil(fixed + self.in_flight[stage] * (saved_bytes + kept))
        recompute = self._recompute_helps(stage, memory, saved_bytes)
        if recompute:
            bwd_ms += own_ms
            memory = math.ceil(fixed + self.in_flight[stage] * kept + saved_bytes)
        return StageCost(
            index=stage,
            fwd_ms=own_ms + again_ms,
            bwd_ms=bwd_ms,
            recv_bytes=sum(net.out_bytes + net.grad_bytes for net in received if not net.again),
            send_bytes=sum(net.out_bytes + net.grad_bytes for net in sent if not net.again),
            comm_ms=recv_ms + send_ms,
            total_ms=self.combine(own_ms + again_ms + bwd_ms, recv_ms, send_ms),
            param_bytes=param_bytes,
            saved_bytes=saved_bytes,
            in_flight=self.in_flight[stage],
            memory_bytes=memory,
            n_nodes=len(inside),
            recompute=recompute,
        )

    def combine(self, compute_ms: float, recv_ms: float, send_ms: float) -> float:
        """Sum of the three, or their maximum where transfers run beside compute."""
        if self.hardware.overlap:
            return max(compute_ms, recv_ms, send_ms)
        return compute_ms + recv_ms + send_ms

    def _recompute_helps(self, stage: int, memory: int, saved_bytes: int) -> bool:
        limits = self.rules.stage_limits
        limit = self.rules.memory_limit_bytes if limits is None else limits[stage]
        return self.rules.allow_recompute and limit is not None and memory > limit and saved_bytes > 0

    def held_bytes(self, members: Iterable[int]) -> float:
        """What a stage of these nodes holds whatever is in flight: parameters, gradients, optimizer state."""
        inside, memory = set(members), self.rules.memory
        once = math.fsum(memory.held_bytes(self.nodes[0][i], self.hardware) for i in inside)
        again = (
            memory.held_bytes(tied, self.hardware) * (held - 1)
            for tied in self.graph.tied
            if (held := sum(self.index[name] in inside for name in tied.nodes)) > 1
        )
        return once - math.fsum(again)

    def _double_counted(self, inside: set[int]) -> int:
        extra = 0
        for tied in self.graph.tied:
            held = sum(self.index[name] in inside for name in tied.nodes)
            extra += tied.nbytes * max(held - 1, 0)
        return extra

    def price_all(self, stage_of: Mapping[str, int]) -> tuple[StageCost, ...]:
        """What every stage of a partition costs.

        Args:
            stage_of: Node name to stage.

        Returns:
            One cost a stage.
        """
        members: list[list[int]] = [[] for _ in range(self.n_stages)]
        for name, stage in stage_of.items():
            members[stage].append(self.index[name])
        return tuple(self.price(nodes, stage) for stage, nodes in enumerate(members))
