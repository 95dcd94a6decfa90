"""Layouts with replicas are what looking at every partition and every deal of devices finds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.errors import ArgumentError, InfeasibleError
from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.ir.hardware import Hardware
from autopipe.partition import Replicas, solve
from autopipe.partition.borders import Level
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires

BYTES_PER_MS = 2.0


def stage_ms(
    graph: CostGraph,
    stage_of: dict[str, int],
    stage: int,
    m: int,
    hardware: Hardware,
    exchanges: float | None,
    n_microbatches: int,
) -> float:
    """The time of a stage with m replicas, written out."""
    inside = [node for node in graph.nodes if stage_of[node.name] == stage]
    params = sum(node.param_bytes for node in inside)
    for tied in graph.tied:
        params -= tied.nbytes * max(0, sum(stage_of[name] == stage for name in tied.nodes) - 1)
    ring = 2 * (m - 1) * params / m / BYTES_PER_MS
    exchange = ring / n_microbatches if exchanges is None else ring * exchanges / m
    compute = sum(node.compute_ms for node in inside)
    received = sent = 0.0
    for node in graph.nodes:
        readers = {stage_of[b] for a, b, data in graph.edges() if a == node.name and data}
        nbytes, home = node.out_bytes + node.grad_bytes, stage_of[node.name]
        sent += nbytes / BYTES_PER_MS if home == stage and readers - {stage} else 0.0
        received += nbytes / BYTES_PER_MS if home != stage and stage in readers else 0.0
    for tied in graph.tied:
        users = {stage_of[name] for name in tied.nodes}
        if stage in users and len(users) > 1:
            ms = 2 * tied.nbytes / BYTES_PER_MS / n_microbatches
            first = min(tied.nodes, key=list(graph.graph).index)
            sent, received = (sent + ms, received) if stage_of[first] == stage else (sent, received + ms)
    busy = compute / m + exchange
    if hardware.overlap:
        return max(busy, received / m, sent / m)
    return busy + (received + sent) / m


def deals(n_devices: int, n_stages: int) -> list[tuple[int, ...]]:
    """Every way to give each stage one device or more."""
    counts = itertools.product(range(1, n_devices + 1), repeat=n_stages)
    return [deal for deal in counts if sum(deal) <= n_devices]


def best(
    graph: CostGraph, n_devices: int, hardware: Hardware, exchanges: float | None, limit: int | None = None
) -> float | None:
    """The least bottleneck over all partitions and deals."""
    found: float | None = None
    for n_stages in range(1, min(n_devices, len(graph)) + 1):
        for stage_of in oracles.all_partitions(graph, n_stages):
            if len(set(stage_of.values())) < n_stages:
                continue
            for deal in deals(n_devices, n_stages):
                flights = [-(-sum(deal[s:]) // deal[s]) for s in range(n_stages)]
                if limit is not None and any(
                    oracles.stage_bytes(graph, hardware, stage_of, s, flights[s]) > limit
                    for s in range(n_stages)
                ):
                    continue
                times = [
                    stage_ms(graph, stage_of, s, deal[s], hardware, exchanges, 4 * n_devices)
                    for s in range(n_stages)
                ]
                found = max(times) if found is None else min(found, max(times))
    return found


@settings(max_examples=40, deadline=None)
@given(
    cost_graphs(max_nodes=7, groups=True, tied=True),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([None, 0.25, 2.0]),
)
def test_answer_is_the_optimum_and_proven(
    graph: CostGraph, n_devices: int, overlap: bool, exchanges: float | None
) -> None:
    hardware = wires(BYTES_PER_MS, overlap=overlap)
    optimum = best(graph, n_devices, hardware, exchanges)
    partition = solve(graph, n_devices, hardware=hardware, replicas=Replicas(exchanges))
    certificate = partition.certificate
    assert certificate.bottleneck_ms == pytest.approx(optimum, rel=1e-9, abs=1e-9)
    assert certificate.gap == 0.0
    assert certificate.stopped_by == "optimal"
    assert partition.n_devices <= n_devices
    for cost in partition.stages:
        again = stage_ms(
            graph, dict(partition.stage_of), cost.index, cost.n_replicas, hardware, exchanges, 4 * n_devices
        )
        assert cost.total_ms == pytest.approx(again, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(cost_graphs(max_nodes=6), st.integers(1, 4), st.integers(0, 300))
def test_memory_limit_holds(graph: CostGraph, n_devices: int, limit: int) -> None:
    hardware = wires(BYTES_PER_MS)
    optimum = best(graph, n_devices, hardware, None, limit)
    try:
        partition = solve(graph, n_devices, hardware=hardware, memory_limit_bytes=limit, replicas=Replicas())
    except InfeasibleError:
        assert optimum is None
        return
    assert optimum is not None
    assert max(stage.memory_bytes for stage in partition.stages) <= limit
    certificate = partition.certificate
    assert certificate.lower_bound_ms <= optimum + 1e-9 <= certificate.bottleneck_ms + 2e-9


@settings(max_examples=20, deadline=None)
@given(cost_graphs(max_nodes=7), st.integers(2, 4), st.sampled_from([0, 3_000]))
def test_bound_is_never_above_the_optimum_whatever_the_budget(
    graph: CostGraph, n_devices: int, budget: int
) -> None:
    hardware = wires(BYTES_PER_MS, overlap=True)
    optimum = best(graph, n_devices, hardware, 2.0)
    found = solve(graph, n_devices, hardware=hardware, replicas=Replicas(2.0), budget=budget).certificate
    assert found.lower_bound_ms <= optimum + 1e-9 <= found.bottleneck_ms + 2e-9


def test_a_long_stage_gets_the_devices_that_it_needs() -> None:
    nodes = [CostNode("long", fwd_ms=6.0, out_bytes=1), CostNode("short", fwd_ms=2.0)]
    chain = CostGraph.build(nodes, [("long", "short")])
    partition = solve(chain, 4, hardware=wires(1e3, overlap=True), replicas=Replicas())
    assert partition.certificate.bottleneck_ms == pytest.approx(2.0)
    assert sorted(stage.n_replicas for stage in partition.stages) in ([4], [1, 3])


def test_borders_are_listed_once_and_serve_all_smaller_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, edges, last = [CostNode("in", fwd_ms=3.0, out_bytes=4, grad_bytes=4)], [], "in"
    for cell, branch, at in itertools.product(range(3), range(4), range(3)):
        name, size = f"c{cell}b{branch}l{at}", 1 + (cell * 36 + branch * 9 + at * 5) % 7
        ms = (cell * 41 + branch * 17 + at * 29) % 97 / 7
        nodes.append(CostNode(name, fwd_ms=ms, out_bytes=size, grad_bytes=size, param_bytes=2 * size))
        edges.append((f"c{cell}b{branch}l{at - 1}" if at else last, name))
        if (branch, at) == (3, 2):
            nodes.append(CostNode(f"j{cell}", fwd_ms=1.0, out_bytes=6, grad_bytes=6))
            edges += [(f"c{cell}b{b}l2", f"j{cell}") for b in range(4)]
            last = f"j{cell}"
    listed: list[float] = []
    run = Level.run
    monkeypatch.setattr(Level, "run", lambda level: listed.append(level.room) or run(level))
    hardware = wires(20.0, overlap=True)
    partition = solve(CostGraph.build(nodes, edges), 6, hardware=hardware, replicas=Replicas(2.0))
    assert partition.certificate.stopped_by == "optimal"
    assert partition.certificate.method == "downsets"
    assert len(listed) == 5


def test_what_does_not_go_with_replicas_is_refused() -> None:
    chain = CostGraph.build([CostNode("a", fwd_ms=1.0), CostNode("b", fwd_ms=1.0)], [("a", "b")])
    with pytest.raises(ArgumentError, match="replicas do not go with pin"):
        solve(chain, 2, hardware=wires(), replicas=Replicas(), pin={"a": 0})
    with pytest.raises(ArgumentError, match="links that differ"):
        solve(chain, 2, hardware=wires(1.0, 2.0), replicas=Replicas())
