"""Slow and obvious truths that solvers are compared with; nothing here shares code with the solvers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.hardware import Hardware


def all_partitions(
    graph: CostGraph, n_stages: int, followers: Mapping[str, str] | None = None
) -> Iterator[dict[str, int]]:
    """Every assignment of nodes to stages in which no edge goes back and groups are whole."""
    followers = followers or {}
    free = [name for name in graph.graph if name not in followers]
    before = {name: [a for a in graph.graph.pred[name] if a not in followers] for name in free}
    stage_of: dict[str, int] = {}

    def placed(at: int) -> Iterator[dict[str, int]]:
        if at == len(free):
            whole = {name: stage_of[followers.get(name, name)] for name in graph.graph}
            if all(len({whole[name] for name in group}) == 1 for group in graph.together):
                yield whole
            return
        for stage in range(max((stage_of[a] for a in before[free[at]]), default=0), n_stages):
            stage_of[free[at]] = stage
            yield from placed(at + 1)

    yield from placed(0)


def reading_stages(graph: CostGraph, stage_of: Mapping[str, int], name: str) -> set[int]:
    """Where a value is read."""
    return {stage_of[reader] for reader, edge in graph.graph.adj[name].items() if edge["data"]}


def stage_ms(
    graph: CostGraph, hardware: Hardware, stage_of: Mapping[str, int], stage: int, n_microbatches: int
) -> float:
    """The cost of a stage, written out as the documentation says it."""
    compute = sum(node.compute_ms for node in graph.nodes if stage_of[node.name] == stage)
    received = sent = 0.0
    into, out = hardware.link_in(stage), hardware.link_out(stage)
    for node in graph.nodes:
        readers = reading_stages(graph, stage_of, node.name)
        home = stage_of[node.name]
        if home == stage and readers - {stage}:
            sent += out.transfer_ms(node.out_bytes) + out.transfer_ms(node.grad_bytes)
        if home != stage and stage in readers:
            received += into.transfer_ms(node.out_bytes) + into.transfer_ms(node.grad_bytes)
    for tied in graph.tied:
        users = {stage_of[name] for name in tied.nodes}
        if stage in users and len(users) > 1:
            first = min(tied.nodes, key=list(graph.graph).index)
            link = out if stage_of[first] == stage else into
            ms = 2 * link.transfer_ms(tied.nbytes) / n_microbatches
            sent, received = (sent + ms, received) if stage_of[first] == stage else (sent, received + ms)
    return max(compute, received, sent) if hardware.overlap else compute + received + sent


def stage_bytes(
    graph: CostGraph, hardware: Hardware, stage_of: Mapping[str, int], stage: int, in_flight: int
) -> float:
    """The memory of a stage: parameters, gradients, optimizer state, saved and received values."""
    inside = [node for node in graph.nodes if stage_of[node.name] == stage]
    owners = [(node, node.param_bytes, 1) for node in inside]
    for tied in graph.tied:
        again = max(0, sum(stage_of[name] == stage for name in tied.nodes) - 1)
        owners.append((tied, tied.nbytes, -again))  # type: ignore[arg-type]
    weights = 0.0
    for owner, nbytes, times in owners:
        gradients = nbytes if owner.trained_bytes is None else owner.trained_bytes
        states = gradients / 4 if owner.n_trained is None else owner.n_trained
        weights += times * (nbytes + gradients + states * hardware.optimizer_bytes_per_param)
    held = sum(node.saved_bytes for node in inside)
    for node in graph.nodes:
        readers = reading_stages(graph, stage_of, node.name)
        if stage_of[node.name] != stage and stage in readers:
            held += node.out_bytes
    return weights + in_flight * held


def best_bottleneck(
    graph: CostGraph,
    hardware: Hardware,
    n_stages: int,
    *,
    allow_empty: bool = False,
    in_flight: Sequence[int] | None = None,
    memory_limit_bytes: int | None = None,
    followers: Mapping[str, str] | None = None,
) -> float | None:
    """The optimum by looking at every partition; None where there is none."""
    best: float | None = None
    flight = in_flight or [n_stages - stage for stage in range(n_stages)]
    for stage_of in all_partitions(graph, n_stages, followers):
        if not allow_empty and len(set(stage_of.values())) < n_stages:
            continue
        if memory_limit_bytes is not None and any(
            stage_bytes(graph, hardware, stage_of, s, flight[s]) > memory_limit_bytes for s in range(n_stages)
        ):
            continue
        worst = max(stage_ms(graph, hardware, stage_of, s, 4 * n_stages) for s in range(n_stages))
        best = worst if best is None else min(best, worst)
    return best
