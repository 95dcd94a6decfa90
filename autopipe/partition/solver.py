"""``solve``: from a cost graph to a partition with its certificate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.hardware import Hardware
from autopipe.ir.partition import Partition
from autopipe.partition.asked import (
    check_counts,
    check_machine,
    check_rules,
    checked_flights,
    checked_groups,
    checked_pins,
)
from autopipe.partition.choices import check_device_order, check_objective
from autopipe.partition.device_order import in_best_order
from autopipe.partition.known import Known
from autopipe.partition.objective import MemoryRule, Rules
from autopipe.partition.question import Question
from autopipe.partition.replicas import Replicas

BUDGET = 100_000_000
"""Work that a search does at most, unless the caller says otherwise."""


def solve(  # noqa: PLR0913 - the public signature: a graph, a count, and keyword-only choices
    cost_graph: CostGraph | Sequence[CostGraph],
    n_stages: int,
    *,
    hardware: Hardware,
    in_flight: Sequence[int] | None = None,
    memory_limit_bytes: int | None = None,
    n_ranks: int | None = None,
    pin: Mapping[str, int] | None = None,
    together: Iterable[Iterable[str]] = (),
    followers: Mapping[str, str] | None = None,
    n_microbatches: int | None = None,
    memory: MemoryRule | None = None,
    allow_empty: bool = False,
    allow_recompute: bool = False,
    objective: str = "bottleneck",
    replicas: Replicas | None = None,
    device_order: str = "given",
    budget: int = BUDGET,
    known: Known | None = None,
) -> Partition:
    """Split a cost graph into stages so that the slowest one is as fast as can be, and prove it.

    Args:
        cost_graph: The graph, or one a position over the same nodes where devices differ.
        n_stages: How many stages.
        hardware: Devices, links and whether transfers overlap with compute.
        in_flight: Microbatches in flight by stage; None: what 1F1B holds, ``n_stages - stage``.
        memory_limit_bytes: What one rank may hold, all its stages together; for ``"step_time"`` each of them
            gets an equal share.
        n_ranks: Fewer than ``n_stages`` means virtual stages: stage s runs on rank ``s % n_ranks``.
        pin: Node name to stage; -1 is the last.
        together: Groups of node names that share a stage, besides those of the graph.
        followers: Node to the node whose stage it takes, such as a backward node to its forward node;
            its edges cost but put no order on the stages.
        n_microbatches: Of a step: the exchange of tied parameters is spread over them, and ``"step_time"``
            counts them. None: 4 a stage.
        memory: What counts as memory.
        allow_empty: Split into at most ``n_stages``.
        allow_recompute: A stage that does not fit may run its forward twice instead of keeping values.
        objective: What is to be least: ``"bottleneck"``, the slowest stage, or ``"step_time"``, every stage
            once plus the slowest for each further microbatch, so that fill and drain count.
        replicas: Lay out ``n_stages`` devices as that many stages or fewer, each with as many replicas as
            pay, and choose both; the devices and links must be alike.
        device_order: ``"given"``, or ``"best"``: where cost graphs of several positions are given, try every
            order of them, each with the whole budget; links stay where they are.
        budget: Work that the search may do, counted, not timed (about 1e7 a second); 0: linear orders only.
        known: What calls for the same graphs share, other stages, links or limits: pass one ``Known()`` to
            all of them, and what they have in common is done once.

    Returns:
        The partition with costs and certificate.

    Raises:
        ArgumentError: Not one stage or more, no ranks, an unknown choice, or a limit, budget or count that
            is no such number.
        InfeasibleError: No split fits the memory limit; says which stage needs how much.
        PartitionError: A bad graph or hardware, an unknown node, more stages than legal cuts, or pins
            that contradict each other.

    Example:
        >>> from autopipe.ir.cost_graph import CostGraph, CostNode
        >>> from autopipe.ir.hardware import Device, Hardware, Link
        >>> gpu = Device("gpu", {}, 1e12, 2**34, 0.0, "an example")
        >>> wires = Hardware("wires", (gpu,), (Link("wire", 1e9, 0.0, "an example"),))
        >>> nodes = [CostNode(name, fwd_ms=1.0, out_bytes=250_000) for name in "abcd"]
        >>> chain = CostGraph.build(nodes, [("a", "b"), ("b", "c"), ("c", "d")])
        >>> dict(solve(chain, 2, hardware=wires).stage_of)
        {'a': 0, 'b': 0, 'c': 1, 'd': 1}
    """
    check_counts(n_stages, n_ranks, n_microbatches, memory_limit_bytes, budget)
    check_objective(objective)
    check_device_order(device_order)
    check_rules(memory, replicas)
    check_machine(cost_graph, hardware)
    question = Question(
        n_stages=n_stages,
        hardware=hardware,
        rules=Rules(
            in_flight=None if in_flight is None else checked_flights(in_flight),
            n_microbatches=n_microbatches,
            memory=memory or MemoryRule(),
            memory_limit_bytes=None if memory_limit_bytes is None else int(memory_limit_bytes),
            allow_recompute=allow_recompute,
        ),
        n_ranks=n_ranks,
        pin=checked_pins(pin or {}, n_stages),
        together=checked_groups(together),
        followers=followers or {},
        allow_empty=allow_empty,
        objective=objective,
        replicas=replicas,
        budget=budget,
        known=known,
    )
    if device_order == "best" and not isinstance(cost_graph, CostGraph):
        return in_best_order(cost_graph, n_stages, question.answer)
    return question.answer(cost_graph)
