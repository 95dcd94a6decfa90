"""The least step time is what looking at every partition finds, and it is proven."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.errors import ArgumentError
from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.partition import solve
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires


def least_step(graph: CostGraph, k: int, m: int, *, overlap: bool, allow_empty: bool) -> float | None:
    """Every stage once, and the slowest for each further microbatch, over all partitions."""
    steps = []
    for stage_of in oracles.all_partitions(graph, k):
        if allow_empty or len(set(stage_of.values())) == k:
            hardware = wires(2.0, overlap=overlap, latency_ms=0.25)
            times = [oracles.stage_ms(graph, hardware, stage_of, s, m) for s in range(k)]
            steps.append(sum(times) + (m - 1) * max(times))
    return min(steps, default=None)


@settings(max_examples=25, deadline=None)
@given(
    cost_graphs(max_nodes=8, groups=True, tied=True),
    st.integers(2, 4),
    st.sampled_from([1, 2, 4, 16]),
    st.booleans(),
    st.booleans(),
)
def test_answer_is_the_optimum_and_proven(
    graph: CostGraph, k: int, m: int, overlap: bool, allow_empty: bool
) -> None:
    optimum = least_step(graph, k, m, overlap=overlap, allow_empty=allow_empty)
    if optimum is None:
        return
    partition = solve(
        graph,
        k,
        hardware=wires(2.0, overlap=overlap, latency_ms=0.25),
        n_microbatches=m,
        allow_empty=allow_empty,
        objective="step_time",
    )
    certificate = partition.certificate
    assert certificate.step_time_ms == pytest.approx(optimum, abs=1e-9)
    assert certificate.step_time_bound_ms == pytest.approx(optimum, abs=1e-9)
    assert certificate.step_time_gap == 0.0
    assert certificate.stopped_by == "optimal"


@settings(max_examples=15, deadline=None)
@given(cost_graphs(max_nodes=7), st.integers(2, 3), st.integers(0, 300))
def test_memory_limit_holds(graph: CostGraph, k: int, limit: int) -> None:
    fitting = []
    for stage_of in oracles.all_partitions(graph, k):
        held = [oracles.stage_bytes(graph, wires(2.0), stage_of, s, k - s) for s in range(k)]
        if max(held) <= limit:
            times = [oracles.stage_ms(graph, wires(2.0), stage_of, s, 3) for s in range(k)]
            fitting.append(sum(times) + 2 * max(times))
    if not fitting:
        return
    found = solve(
        graph,
        k,
        hardware=wires(2.0),
        memory_limit_bytes=limit,
        n_microbatches=3,
        allow_empty=True,
        objective="step_time",
    )
    assert max(stage.memory_bytes for stage in found.stages) <= limit
    assert found.certificate.step_time_ms == pytest.approx(min(fitting), abs=1e-9)


@settings(max_examples=15, deadline=None)
@given(cost_graphs(max_nodes=8), st.integers(2, 3), st.integers(1, 8), st.sampled_from([0, 20_000]))
def test_bound_is_never_above_the_optimum_whatever_the_budget(
    graph: CostGraph, k: int, m: int, budget: int
) -> None:
    optimum = least_step(graph, k, m, overlap=False, allow_empty=True)
    hardware = wires(2.0, latency_ms=0.25)
    options = {"n_microbatches": m, "allow_empty": True, "objective": "step_time", "budget": budget}
    certificate = solve(graph, k, hardware=hardware, **options).certificate  # type: ignore[arg-type]
    assert certificate.step_time_bound_ms <= optimum + 1e-9 <= certificate.step_time_ms + 2e-9


def dear_in_the_middle() -> CostGraph:
    """Five of work each side of a value that is dear to send; cheap ones one node further."""
    nodes = [CostNode(f"n{i}", fwd_ms=1.0, out_bytes=4 if i == 4 else 1) for i in range(10)]
    return CostGraph.build(nodes, [(f"n{i}", f"n{i + 1}") for i in range(9)])


def test_few_microbatches_send_less_and_many_balance_better() -> None:
    def step(m: int, objective: str) -> float:
        found = solve(dear_in_the_middle(), 2, hardware=wires(4.0), n_microbatches=m, objective=objective)
        times = [stage.total_ms for stage in found.stages]
        return sum(times) + (m - 1) * max(times)

    assert step(1, "step_time") == pytest.approx(10.5)
    assert step(1, "bottleneck") == pytest.approx(12.0)
    assert step(100, "step_time") == pytest.approx(step(100, "bottleneck"))


def test_unknown_objective_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ArgumentError, match='"bottleneck" or "step_time"'):
        solve(dear_in_the_middle(), 2, hardware=wires(), objective="fastest")


def test_virtual_stages_count_the_slowest_rank() -> None:
    found = solve(
        dear_in_the_middle(), 4, hardware=wires(4.0), n_ranks=2, n_microbatches=4, objective="step_time"
    )
    loads = [sum(s.total_ms for s in found.stages[r::2]) for r in range(2)]
    assert found.certificate.step_time_ms == pytest.approx(sum(loads) + 3 * max(loads))
    assert found.certificate.step_time_bound_ms <= found.certificate.step_time_ms
