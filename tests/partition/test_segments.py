"""The band of segment costs says what the objective says of each segment, and lacks only heavy ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.ir.cost_graph import CostGraph
from autopipe.partition import Objective, compile_problem
from autopipe.partition.chain_dp import split_order
from autopipe.partition.loads import stage_loads
from autopipe.partition.order_sum import least_sum_of_order
from autopipe.partition.segments import Segments
from tests.partition.random_graphs import cost_graphs, wires


@settings(max_examples=60, deadline=None)
@given(cost_graphs(max_nodes=8, groups=True, tied=True), st.booleans(), st.sampled_from([4.0, 12.0, np.inf]))
def test_segments_up_to_the_target_cost_what_the_objective_says(
    graph: CostGraph, overlap: bool, below: float
) -> None:
    objective = Objective(graph, wires(2.0, overlap=overlap), 3)
    problem = compile_problem(objective, allow_empty=True)
    segments = Segments(problem, np.arange(problem.n), below)
    loads = segments.loads(1)
    for end in range(problem.n + 1):
        for start in range(end):
            nodes = [node for item in range(start, end) for node in problem.members[item]]
            cost = objective.price(nodes, 1)
            if end - start <= segments.width:
                assert loads[end, end - start] == pytest.approx(cost.total_ms, abs=1e-9)
            else:
                assert cost.fwd_ms + cost.bwd_ms > below
        assert np.isinf(loads[end, end + 1 :]).all()


@settings(max_examples=40, deadline=None)
@given(
    cost_graphs(max_nodes=7, groups=True), st.integers(1, 4), st.booleans(), st.sampled_from([1.0, 1.01, 3.0])
)
def test_the_best_split_of_an_order_is_that_of_all_its_cuts_tried_one_by_one(
    graph: CostGraph, k: int, overlap: bool, slack: float
) -> None:
    objective = Objective(graph, wires(2.0, overlap=overlap), k)
    problem = compile_problem(objective, allow_empty=True)
    tried = {}
    for borders in itertools.combinations_with_replacement(range(problem.n + 1), k - 1):
        stage_of = np.searchsorted(np.array(borders, dtype=np.int64), np.arange(problem.n), side="right")
        tried[tuple(stage_of.tolist())] = stage_loads(problem, stage_of)
    best = min(loads.max() for loads in tried.values())
    order = list(range(problem.n))
    found, stage_of = split_order(problem, order, best * slack + 1e-6)
    assert found == pytest.approx(best)
    assert stage_of is not None
    assert stage_loads(problem, stage_of).max() == pytest.approx(best)
    least = min(loads.sum() for loads in tried.values() if loads.max() <= best + 1e-9)
    cheapest = least_sum_of_order(problem, np.array(order), best + 1e-9)
    assert cheapest is not None
    assert stage_loads(problem, cheapest).sum() == pytest.approx(least)
