"""``solve``: from a cost graph to a partition with its certificate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from autopipe.errors import ArgumentError, InfeasibleError, PartitionError
from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.hardware import Hardware
from autopipe.ir.partition import Partition
from autopipe.partition.baselines import to_partition
from autopipe.partition.chain_dp import split_order
from autopipe.partition.objective import MemoryRule, Objective, Rules
from autopipe.partition.problem import Problem, compile_problem
from autopipe.partition.search import search

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
    budget: int = BUDGET,
) -> Partition:
    """Split a cost graph into stages so that the slowest one is as fast as can be, and prove it.

    Args:
        cost_graph: The graph, or one a position over the same nodes where devices differ.
        n_stages: How many stages.
        hardware: Devices, links and whether transfers overlap with compute.
        in_flight: Microbatches in flight by stage; None: what 1F1B holds, ``n_stages - stage``.
        memory_limit_bytes: What one stage may hold.
        n_ranks: Fewer than ``n_stages`` means virtual stages: stage s runs on rank ``s % n_ranks``.
        pin: Node name to stage; -1 is the last.
        together: Groups of node names that share a stage, besides those of the graph.
        followers: Node to the node whose stage it takes, such as a backward node to its forward node;
            its edges cost but put no order on the stages.
        n_microbatches: Over how many the exchange of tied parameters is spread; None: 4 a stage.
        memory: What counts as memory.
        allow_empty: Split into at most ``n_stages``.
        allow_recompute: A stage that does not fit may run its forward twice instead of keeping values.
        budget: Work that the search may do, counted, not timed (about 1e7 a second); 0: linear orders only.

    Returns:
        The partition with costs and certificate.

    Raises:
        ArgumentError: Not one stage or more, or no ranks.
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
    _check_counts(n_stages, n_ranks)
    for graph in (cost_graph,) if isinstance(cost_graph, CostGraph) else cost_graph:
        graph.verify()
    hardware.verify()
    objective = Objective(
        cost_graph,
        hardware,
        n_stages,
        Rules(
            in_flight=None if in_flight is None else tuple(in_flight),
            n_microbatches=n_microbatches,
            memory=memory or MemoryRule(),
            memory_limit_bytes=_stage_limit(memory_limit_bytes, n_stages, n_ranks),
            allow_recompute=allow_recompute,
        ),
    )
    pins = {name: stage + n_stages if stage < 0 else stage for name, stage in (pin or {}).items()}
    problem = compile_problem(
        objective, together=together, followers=followers, pin=pins, allow_empty=allow_empty
    )
    check_enough_items(objective, problem)
    check_items_fit(objective, problem)
    found = search(problem, budget)
    if found.stage_of is None:
        raise no_split(objective, problem, proven=bool(np.isinf(found.lower_bound_ms)))
    partition = to_partition(
        objective, problem, found.stage_of, found.method, found.lower_bound_ms, found.stopped_by
    )
    return on_ranks(partition, n_ranks or n_stages)


def on_ranks(partition: Partition, n_ranks: int) -> Partition:
    """Deal the stages out to ranks in turn; with virtual stages the bottleneck is the slowest rank.

    Args:
        partition: One stage a rank.
        n_ranks: How many ranks there are.

    Returns:
        The partition with ranks; the bound is the larger of that for stages and an equal share.
    """
    n_stages = partition.n_stages
    if n_ranks == n_stages:
        return partition
    ranks = tuple(stage % n_ranks for stage in range(n_stages))
    loads = [0.0] * n_ranks
    for stage, rank in zip(partition.stages, ranks, strict=True):
        loads[rank] += stage.total_ms
    share = sum(stage.fwd_ms + stage.bwd_ms for stage in partition.stages) / n_ranks
    certificate = partition.certificate
    bound = min(max(certificate.lower_bound_ms, share), max(loads))
    stopped = "optimal" if bound == max(loads) else "virtual stages: bound by stages and by equal shares"
    certificate = replace(certificate, bottleneck_ms=max(loads), lower_bound_ms=bound, stopped_by=stopped)
    return replace(partition, rank_of_stage=ranks, certificate=certificate)


def _stage_limit(limit: int | None, n_stages: int, n_ranks: int | None) -> int | None:
    """A rank holds its stages together: each gets an equal share of its memory."""
    return limit if limit is None or n_ranks is None else limit * n_ranks // n_stages


def no_split(objective: Objective, problem: Problem, *, proven: bool) -> InfeasibleError:
    """Say which stage needs how much in the leanest split of the program order."""
    if problem.limit is None:
        return InfeasibleError(f"no {problem.k}-stage partition meets the pins.")
    roomy = replace(
        problem,
        limit=None,
        weight=(problem.fixed + problem.saved)[None, :].repeat(len(problem.weight), axis=0),
        cin=np.zeros_like(problem.cin),
        cout=np.zeros_like(problem.cout),
    )
    _, stage_of = split_order(roomy, range(problem.n))
    where = ""
    if stage_of is not None:
        lean = to_partition(objective, problem, stage_of, "memory", 0.0, "")
        worst = max(lean.stages, key=lambda stage: stage.memory_bytes)
        where = (
            f"the split that balances memory needs {worst.memory_bytes} bytes in stage {worst.index} "
            f"({worst.param_bytes} of parameters, {worst.in_flight} microbatches in flight)"
        )
    said = "fits" if proven else "that was tried fits"
    return InfeasibleError(
        f"no {problem.k}-stage partition {said} {problem.limit:.0f} bytes a stage.",
        where=where,
        remedy="more stages, fewer microbatches in flight, recompute, or a larger memory_limit_bytes.",
    )


def _check_counts(n_stages: int, n_ranks: int | None) -> None:
    if isinstance(n_stages, bool) or not isinstance(n_stages, int) or n_stages < 1:
        raise ArgumentError(f"asked for {n_stages} stages.", why="A split has at least one.")
    if n_ranks is not None and not 1 <= n_ranks <= n_stages:
        raise ArgumentError(
            f"asked for {n_ranks} ranks and {n_stages} stages.", why="Every rank runs at least one stage."
        )


def check_enough_items(objective: Objective, problem: Problem) -> None:
    """Raise unless every stage can get an item.

    Args:
        objective: Knows the names.
        problem: The items.

    Raises:
        PartitionError: More stages than legal cuts allow.
    """
    if problem.k > problem.n and not problem.allow_empty:
        raise PartitionError(
            f"asked for {problem.k} stages, but only {max(problem.n - 1, 0)} cut points are legal.",
            why=_largest_group(objective, problem),
            remedy=f"n_stages={max(problem.n, 1)} or fewer.",
        )


def _largest_group(objective: Objective, problem: Problem) -> str:
    group = max(problem.members, key=len, default=())
    if len(group) < 2:
        return f"The graph has {problem.n} nodes."
    names = ", ".join(repr(objective.names[node]) for node in group[:4])
    more = f" and {len(group) - 4} more" if len(group) > 4 else ""
    return f"Nodes that must share a stage, the largest group: {names}{more}."


def check_items_fit(objective: Objective, problem: Problem) -> None:
    """Raise if a single item is larger than the memory limit.

    Args:
        objective: Knows the names.
        problem: The items.

    Raises:
        InfeasibleError: Names the node and what it needs.
    """
    if problem.limit is None:
        return
    for item, nodes in enumerate(problem.members):
        flight = min(problem.in_flight[problem.first[item] : problem.last[item] + 1])
        flight = min(flight, 1) if problem.allow_recompute else flight
        need = problem.fixed[item] + flight * problem.saved[item]
        need -= sum(t.nbytes * max(t.items.count(item) - 1, 0) for t in problem.tied)
        if need > problem.limit:
            heaviest = max(nodes, key=lambda i: objective.nodes[0][i].param_bytes)
            raise InfeasibleError(
                f"no {problem.k}-stage partition fits {problem.limit:.0f} bytes.",
                where=f"{objective.names[heaviest]} alone needs {need:.0f} bytes",
                why=f"fixed {problem.fixed[item]:.0f}, saved for {flight} microbatches "
                f"{flight * problem.saved[item]:.0f}.",
                remedy=f"memory_limit_bytes={need:.0f} or more.",
            )
