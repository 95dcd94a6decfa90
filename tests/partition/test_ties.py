"""Of equal bottlenecks the least sum of stage times, then the fewest bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.partition import solve, ties
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires

SMALL = st.sampled_from([0, 1, 1, 2, 3])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SMALL, SMALL), min_size=3, max_size=8), st.integers(2, 3))
def test_a_chain_is_cut_where_it_sends_least_among_the_optima(costs: list[tuple[int, int]], k: int) -> None:
    nodes = [CostNode(f"n{i}", fwd_ms=ms, out_bytes=out) for i, (ms, out) in enumerate(costs)]
    edges = [(a.name, b.name) for a, b in pairwise(nodes)]
    graph, hardware = CostGraph.build(nodes, edges), wires(2.0)
    priced = [
        [oracles.stage_ms(graph, hardware, stage_of, stage, 4 * k) for stage in range(k)]
        for stage_of in oracles.all_partitions(graph, k)
        if len(set(stage_of.values())) == k
    ]
    best = min(max(each) for each in priced)
    least = min(sum(each) for each in priced if max(each) <= best + 1e-9)
    partition = solve(graph, k, hardware=hardware)
    assert partition.certificate.bottleneck_ms == pytest.approx(best)
    assert sum(stage.total_ms for stage in partition.stages) == pytest.approx(least)


def received_bytes(graph: CostGraph, stage_of: dict[str, int]) -> int:
    total = 0
    for node in graph.nodes:
        readers = {stage_of[b] for a, b, data in graph.edges() if a == node.name and data}
        total += len(readers - {stage_of[node.name]}) * (node.out_bytes + node.grad_bytes)
    return total


@settings(max_examples=40, deadline=None)
@given(
    cost_graphs(max_nodes=8), st.integers(2, 3), st.booleans(), st.booleans(), st.sampled_from([2.0, 1e12])
)
def test_on_small_graphs_no_split_of_that_bottleneck_has_a_smaller_sum_or_fewer_bytes(
    graph: CostGraph, k: int, overlap: bool, allow_empty: bool, rate: float
) -> None:
    hardware = wires(rate, 2 * rate, overlap=overlap)
    priced = []
    for stage_of in oracles.all_partitions(graph, k):
        if allow_empty or len(set(stage_of.values())) == k:
            ms = [oracles.stage_ms(graph, hardware, stage_of, stage, 4 * k) for stage in range(k)]
            priced.append((max(ms), round(sum(ms), 6), received_bytes(graph, stage_of)))
    assume(priced)
    best = min(priced)[0]
    least = min((total, nbytes) for worst, total, nbytes in priced if worst <= best + 1e-9)
    partition = solve(graph, k, hardware=hardware, allow_empty=allow_empty)
    assert round(sum(stage.total_ms for stage in partition.stages), 6) == least[0]
    assert sum(stage.recv_bytes for stage in partition.stages) == least[1]


def test_without_a_search_equals_are_sought_along_orders_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(ties, "least_of_equals", lambda *given: asked.append(given[-1]))
    nodes = [CostNode(f"n{i}", fwd_ms=1.0, out_bytes=1) for i in range(4)]
    graph = CostGraph.build(nodes, [(f"n{i}", f"n{i + 1}") for i in range(3)])
    solve(graph, 2, hardware=wires(), budget=0)
    assert not asked
    solve(graph, 2, hardware=wires(), budget=5_000)
    assert asked == [5_000]


def test_where_sending_takes_no_time_the_fewest_bytes_decide() -> None:
    sizes = (9, 4, 9, 9)
    nodes = [CostNode(f"n{i}", out_bytes=size) for i, size in enumerate(sizes)]
    nodes[0] = CostNode("n0", fwd_ms=1.0, out_bytes=9)
    nodes[3] = CostNode("n3", fwd_ms=1.0)
    edges = [(f"n{i}", f"n{i + 1}") for i in range(3)]
    partition = solve(CostGraph.build(nodes, edges), 2, hardware=wires(1e12))
    assert partition.stages[1].recv_bytes == 4
