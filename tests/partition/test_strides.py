"""What a stage had better take along is a gain for every later stage, whatever they hold."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.partition import Objective, compile_problem, solve
from autopipe.partition.problem import Problem
from autopipe.partition.reach import Bools, Reach
from autopipe.partition.strides import Strides
from tests.partition.random_graphs import cost_graphs, wires


def downsets(problem: Problem) -> list[Bools]:
    """All sets of items that hold what their items need."""
    every = [np.array(held, dtype=bool) for held in product([False, True], repeat=problem.n)]
    return [held for held in every if all(held[list(problem.preds[x])].all() for x in np.flatnonzero(held))]


def stage_ms(problem: Problem, before: Bools, after: Bools) -> float:
    """What the stage between two downsets costs, from its definition."""
    stage = after & ~before
    cost = float(problem.weight[0, stage].sum())
    for net, pins in enumerate(problem.pins):
        held = stage[list(pins)]
        if held.any() and not held.all():
            cost += float((problem.cout if stage[problem.maker[net]] else problem.cin)[0, net])
    return cost


@settings(max_examples=60, deadline=None)
@given(
    cost_graphs(max_nodes=6, groups=True, tied=True),
    st.sampled_from([0.5, 2.0, 9.0]),
    st.sampled_from([3.0, 8.0, 1e6]),
)
def test_no_later_stage_gets_dearer_by_a_stride(graph: CostGraph, rate: float, target: float) -> None:
    problem = compile_problem(Objective(graph, wires(rate), 3), allow_empty=True)
    strides, every = Strides(problem, Reach(problem), target), downsets(problem)
    for item in range(problem.n):
        stride = strides.of(item)
        if stride is None:
            continue
        along = np.isin(np.arange(problem.n), stride.items)
        for start, end in product(every, every):
            if (start & ~end).any() or not start[list(problem.preds[item])].all():
                continue
            before = stage_ms(problem, start, end)
            if before <= target:
                assert stage_ms(problem, start | along, end | along) <= before + 1e-9


def assert_pays_no_more_than_said(graph: CostGraph, rate: float) -> None:
    problem = compile_problem(Objective(graph, wires(rate), 3), allow_empty=True)
    strides, every = Strides(problem, Reach(problem), 1e6), downsets(problem)
    for item in range(problem.n):
        extra = strides.extra(item, np.array(every), 1)
        if extra is None:
            continue
        along = np.isin(np.arange(problem.n), strides.of(item).items)
        for (start, most), end in product(zip(every, extra, strict=True), every):
            if not (start & ~end).any() and end[list(problem.preds[item])].all() and not end[item]:
                dearer = stage_ms(problem, start, end | along) - stage_ms(problem, start, end)
                assert dearer <= most + 1e-9


@settings(max_examples=60, deadline=None)
@given(cost_graphs(max_nodes=6, groups=True), st.sampled_from([0.5, 2.0, 9.0]))
def test_a_stage_pays_no_more_for_a_stride_than_said(graph: CostGraph, rate: float) -> None:
    assert_pays_no_more_than_said(graph, rate)


def test_a_part_of_a_stride_that_an_earlier_stage_holds_is_received() -> None:
    costs = [(3, 4), (2, 4), (1, 1), (3, 1)]
    nodes = [CostNode(f"n{at}", fwd_ms=ms, out_bytes=nbytes) for at, (ms, nbytes) in enumerate(costs)]
    edges = [("n0", "n1"), ("n0", "n2"), ("n1", "n3"), ("n2", "n3")]
    assert_pays_no_more_than_said(CostGraph.build(nodes, edges), 0.5)


def attention(n_blocks: int) -> CostGraph:
    """Blocks of three branches of three steps, with a residual sum."""
    nodes, edges, stream = [CostNode("in", fwd_ms=1, out_bytes=4)], [], "in"
    for block in range(n_blocks):
        total = CostNode(f"sum{block}", fwd_ms=1, out_bytes=4)
        for branch in "qkv":
            names = [stream, *(f"{branch}{block}{step}" for step in range(3)), total.name]
            nodes += [CostNode(name, fwd_ms=2, out_bytes=4) for name in names[1:-1]]
            edges += list(pairwise(names))
        nodes.append(total)
        edges.append((stream, total.name))
        stream = total.name
    return CostGraph.build(nodes, edges)


def test_an_attention_is_taken_up_to_its_sum() -> None:
    problem = compile_problem(Objective(attention(3), wires(0.5), 3), allow_empty=True)
    strides = Strides(problem, Reach(problem), 40.0)
    first = strides.of(1)
    assert first is not None
    assert [len(problem.members[x]) for x in first.items] == [1] * 10
    assert problem.preds[int(first.items[-1])] == (0, 3, 6, 9)


def test_branches_that_have_too_many_downsets_to_list_are_decided() -> None:
    answer = solve(attention(24), 8, hardware=wires(0.5), allow_empty=True, budget=3_000_000)
    assert answer.certificate.stopped_by == "optimal"
    assert answer.certificate.gap == 0.0
