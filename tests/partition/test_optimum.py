"""The search finds the optimum that looking at every partition finds, and proves it."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autopipe.errors import InfeasibleError, PartitionError
from autopipe.ir.cost_graph import CostGraph
from autopipe.partition import solve
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires


@settings(max_examples=40, deadline=None)
@given(cost_graphs(max_nodes=8, groups=True, tied=True), st.integers(2, 4), st.booleans(), st.booleans())
def test_answer_is_the_optimum_and_proven(graph: CostGraph, k: int, overlap: bool, allow_empty: bool) -> None:
    hardware = wires(2.0, overlap=overlap, latency_ms=0.25)
    optimum = oracles.best_bottleneck(graph, hardware, k, allow_empty=allow_empty)
    if optimum is None:
        with pytest.raises(PartitionError, match=r"(is|are) legal"):
            solve(graph, k, hardware=hardware, allow_empty=allow_empty)
        return
    certificate = solve(graph, k, hardware=hardware, allow_empty=allow_empty).certificate
    assert certificate.bottleneck_ms == pytest.approx(optimum, abs=1e-9)
    assert certificate.stopped_by == "optimal"
    assert certificate.gap == 0.0


@settings(max_examples=50, deadline=None)
@given(cost_graphs(max_nodes=7, tied=True), st.integers(2, 3), st.integers(0, 300))
def test_memory_limit_holds_and_the_answer_is_the_best_that_fits(
    graph: CostGraph, k: int, limit: int
) -> None:
    hardware = wires(2.0)
    optimum = oracles.best_bottleneck(graph, hardware, k, memory_limit_bytes=limit)
    if optimum is None:
        with pytest.raises((InfeasibleError, PartitionError)):
            solve(graph, k, hardware=hardware, memory_limit_bytes=limit)
        return
    partition = solve(graph, k, hardware=hardware, memory_limit_bytes=limit)
    assert partition.certificate.bottleneck_ms == pytest.approx(optimum, abs=1e-9)
    assert partition.certificate.lower_bound_ms <= optimum + 1e-9
    assert max(stage.memory_bytes for stage in partition.stages) <= limit


@settings(max_examples=40, deadline=None)
@given(cost_graphs(max_nodes=7), st.integers(2, 3), st.data())
def test_followers_share_a_stage_and_cost_but_give_no_order(
    graph: CostGraph, k: int, data: st.DataObject
) -> None:
    names = list(graph.graph)
    n_free = data.draw(st.integers(1, len(names)))
    leaders = names[:n_free]
    followers = {name: data.draw(st.sampled_from(leaders)) for name in names[n_free:]}
    hardware = wires(2.0)
    optimum = oracles.best_bottleneck(graph, hardware, k, allow_empty=True, followers=followers)
    assert optimum is not None
    partition = solve(graph, k, hardware=hardware, allow_empty=True, followers=followers)
    assert partition.certificate.bottleneck_ms == pytest.approx(optimum, abs=1e-9)
    assert partition.certificate.gap == 0.0
    assert all(partition.stage_of[a] == partition.stage_of[b] for a, b in followers.items())


@settings(max_examples=40, deadline=None)
@given(cost_graphs(max_nodes=7), st.booleans())
def test_links_that_differ_by_position(graph: CostGraph, overlap: bool) -> None:
    hardware = wires(4.0, 0.5, overlap=overlap)
    optimum = oracles.best_bottleneck(graph, hardware, 3, allow_empty=True)
    certificate = solve(graph, 3, hardware=hardware, allow_empty=True).certificate
    assert optimum is not None
    assert certificate.bottleneck_ms == pytest.approx(optimum, abs=1e-9)
    assert certificate.lower_bound_ms <= optimum + 1e-9


@settings(max_examples=80, deadline=None)
@given(cost_graphs(max_nodes=7), st.integers(2, 3), st.data())
def test_pins_hold_and_the_answer_is_the_best_with_them(
    graph: CostGraph, k: int, data: st.DataObject
) -> None:
    hardware = wires(2.0)
    names = st.sampled_from(list(graph.graph))
    pin = data.draw(st.dictionaries(names, st.integers(0, k - 1), min_size=1, max_size=3))
    fitting = [
        max(oracles.stage_ms(graph, hardware, stage_of, s, 4 * k) for s in range(k))
        for stage_of in oracles.all_partitions(graph, k)
        if pin.items() <= stage_of.items()
    ]
    assume(fitting)
    partition = solve(graph, k, hardware=hardware, allow_empty=True, pin=pin)
    assert pin.items() <= partition.stage_of.items()
    assert partition.certificate.gap == 0.0
    assert partition.certificate.bottleneck_ms == pytest.approx(min(fitting), abs=1e-9)
