"""Devices that differ by position, in the order given and in the best one."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.errors import ArgumentError
from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.ir.hardware import Hardware
from autopipe.partition import solve
from autopipe.partition.device_order import distinct_orders
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires


def on_a_slower_device(graph: CostGraph, times: float, extra_ms: float) -> CostGraph:
    """The same nodes, each so many times slower, and a little more."""
    nodes = [
        replace(node, fwd_ms=node.fwd_ms * times + extra_ms, bwd_input_ms=node.bwd_input_ms * times)
        for node in graph.nodes
    ]
    return CostGraph.build(nodes, graph.edges(), graph.together, graph.tied)


def best(graphs: list[CostGraph], hardware: Hardware) -> float | None:
    """The least bottleneck over all partitions, stage s on the device of graph s."""
    k = len(graphs)
    found = [
        max(oracles.stage_ms(graphs[s], hardware, stage_of, s, 4 * k) for s in range(k))
        for stage_of in oracles.all_partitions(graphs[0], k)
        if len(set(stage_of.values())) == k
    ]
    return min(found, default=None)


@settings(max_examples=12, deadline=None)
@given(
    cost_graphs(max_nodes=6),
    st.lists(st.integers(0, 1), min_size=2, max_size=4),
    st.booleans(),
    st.sampled_from([0.0, 0.5]),
)
def test_both_orders_are_the_optimum_and_proven(
    graph: CostGraph, kinds: list[int], overlap: bool, extra_ms: float
) -> None:
    of_kind = [graph, on_a_slower_device(graph, 2.0, extra_ms)]
    hardware = wires(4.0, 0.5, 2.0, overlap=overlap)
    optima = {
        order: best([of_kind[x] for x in order], hardware) for order in set(itertools.permutations(kinds))
    }
    if None in optima.values():
        return
    given_order = [of_kind[kind] for kind in kinds]
    as_given = solve(given_order, len(kinds), hardware=hardware)
    assert as_given.certificate.bottleneck_ms == pytest.approx(optima[tuple(kinds)], abs=1e-9)
    found = solve(given_order, len(kinds), hardware=hardware, device_order="best")
    assert found.certificate.bottleneck_ms == pytest.approx(
        min(x for x in optima.values() if x is not None), abs=1e-9
    )
    assert found.certificate.gap == pytest.approx(0.0, abs=1e-9)
    assert sorted(found.device_order) == list(range(len(kinds)))
    assert optima[tuple(kinds[i] for i in found.device_order)] == pytest.approx(
        found.certificate.bottleneck_ms
    )


@given(st.lists(st.integers(0, 2), max_size=6))
def test_every_distinct_order_comes_once(kinds: list[int]) -> None:
    orders = [tuple(kinds[i] for i in order) for order in distinct_orders(kinds)]
    assert orders == sorted(set(itertools.permutations(kinds)))


def test_a_slow_device_goes_where_it_hurts_least() -> None:
    nodes = [
        CostNode(name, fwd_ms=ms, out_bytes=size)
        for name, ms, size in (("a", 4, 1), ("b", 1, 1), ("c", 4, 0))
    ]
    chain = CostGraph.build(nodes, [("a", "b"), ("b", "c")])
    slow = on_a_slower_device(chain, 3.0, 0.0)
    hardware = wires(1e6)
    last = solve([chain, chain, slow], 3, hardware=hardware)
    found = solve([chain, chain, slow], 3, hardware=hardware, device_order="best")
    assert last.certificate.bottleneck_ms == pytest.approx(12.0, rel=1e-3)
    assert found.certificate.bottleneck_ms == pytest.approx(4.0, rel=1e-3)
    assert found.device_order == (0, 2, 1)


def test_too_many_orders_are_refused() -> None:
    nodes = [CostNode(f"n{i}", fwd_ms=1.0) for i in range(12)]
    chain = CostGraph.build(nodes, [(f"n{i}", f"n{i + 1}") for i in range(11)])
    kinds = [on_a_slower_device(chain, 1.0 + i, 0.0) for i in range(6)]
    with pytest.raises(ArgumentError, match="720 orders"):
        solve(kinds, 6, hardware=wires(), device_order="best")
    with pytest.raises(ArgumentError, match='"given" or "best"'):
        solve(kinds, 6, hardware=wires(), device_order="fastest")
