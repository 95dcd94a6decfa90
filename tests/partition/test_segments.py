"""The band of segment costs says what the objective says of each segment, and lacks only heavy ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.ir.cost_graph import CostGraph
from autopipe.partition import Objective, compile_problem
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
