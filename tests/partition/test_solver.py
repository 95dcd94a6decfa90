"""``solve`` finds what looking at every partition finds, and says what is wrong with bad input."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.errors import ArgumentError, InfeasibleError, PartitionError
from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.partition import solve
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires


def chain(n: int, **costs: int) -> CostGraph:
    nodes = [CostNode(f"n{i}", **{"fwd_ms": 1.0, **costs}) for i in range(n)]
    return CostGraph.build(nodes, [(f"n{i}", f"n{i + 1}") for i in range(n - 1)])


@settings(max_examples=80, deadline=None)
@given(cost_graphs(groups=True, tied=True), st.integers(1, 3), st.booleans(), st.booleans())
def test_bound_optimum_and_answer_are_in_order(
    graph: CostGraph, k: int, overlap: bool, allow_empty: bool
) -> None:
    hardware = wires(2.0, overlap=overlap)
    optimum = oracles.best_bottleneck(graph, hardware, k, allow_empty=allow_empty)
    if optimum is None:
        with pytest.raises(PartitionError, match="cut points are legal"):
            solve(graph, k, hardware=hardware, allow_empty=allow_empty)
        return
    partition = solve(graph, k, hardware=hardware, allow_empty=allow_empty)
    partition.verify()
    found = partition.certificate
    truth = max(oracles.stage_ms(graph, hardware, partition.stage_of, s, 4 * k) for s in range(k))
    assert found.bottleneck_ms == pytest.approx(truth)
    assert found.lower_bound_ms <= optimum + 1e-9
    assert optimum <= found.bottleneck_ms + 1e-9
    assert dict(partition.stage_of) in list(oracles.all_partitions(graph, k))


def test_zero_stages_are_refused() -> None:
    with pytest.raises(ArgumentError, match="asked for 0 stages"):
        solve(chain(3), 0, hardware=wires())


def test_more_stages_than_cuts_are_refused() -> None:
    with pytest.raises(PartitionError, match="asked for 12 stages, but only 9 cut points are legal"):
        solve(chain(10), 12, hardware=wires())


def test_a_node_larger_than_the_limit_is_named() -> None:
    with pytest.raises(InfeasibleError, match="n0 alone needs 400 bytes"):
        solve(chain(4, param_bytes=100), 2, hardware=wires(), memory_limit_bytes=300)


def test_contradicting_pins_are_named() -> None:
    with pytest.raises(PartitionError, match=r"'n0' to stage 1, 'n2' to stage 0"):
        solve(chain(4), 2, hardware=wires(), pin={"n0": 1, "n2": 0})


def test_pins_hold() -> None:
    partition = solve(chain(6), 3, hardware=wires(), pin={"n3": 1, "n4": -1})
    assert partition.stage_of["n3"] == 1
    assert partition.stage_of["n4"] == 2
