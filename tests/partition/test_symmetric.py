"""Branches that can change places are followed in one order, and the optimum stays the optimum."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.partition import Objective, compile_problem, frontier, walk
from autopipe.partition.problem import Problem
from autopipe.partition.reach import Reach
from autopipe.partition.symmetric import Symmetric
from tests import oracles
from tests.partition.random_graphs import wires
from tests.partition.test_frontier import optimum

Costs = list[tuple[float, int]]


def experts(roles: Costs, n_branches: int, around: Costs, *, odd: int = -1, fork: bool = False) -> CostGraph:
    """A router, equal branches, and what joins them; `odd` is a branch that costs more."""
    ends = [CostNode(name, fwd_ms=ms, out_bytes=out) for name, (ms, out) in zip("xyz", around, strict=True)]
    nodes, edges = [ends[0]], [("y", "z"), ("x", "z")]
    for branch in range(n_branches):
        names = [f"b{branch}.{at}" for at in range(len(roles))]
        for name, (ms, out) in zip(names, roles, strict=True):
            nodes.append(CostNode(name, fwd_ms=ms + (branch == odd), out_bytes=out))
        inner = [(names[0], name) for name in names[1:]] if fork else list(pairwise(names))
        edges += [("x", names[0]), *inner, *((name, "y") for name in (names if fork else names[-1:]))]
    return CostGraph.build([*nodes, *ends[1:]], edges)


def problem_of(graph: CostGraph, k: int, *rates: float) -> Problem:
    return compile_problem(Objective(graph, wires(*rates), k), allow_empty=True)


COST = st.tuples(st.sampled_from([0.0, 1.0, 2.0, 5.0]), st.sampled_from([0, 1, 3]))


@pytest.mark.parametrize("together", [3, 1000])
@settings(max_examples=10, deadline=None)
@given(
    roles=st.lists(COST, min_size=1, max_size=2),
    around=st.lists(COST, min_size=3, max_size=3),
    odd=st.sampled_from([-1, -1, 1]),
    k=st.integers(2, 4),
    rates=st.sampled_from([(2.0,), (0.5,), (9.0, 1.0)]),
)
def test_the_walk_finds_the_optimum_of_all_partitions(
    together: int, roles: Costs, around: Costs, odd: int, k: int, rates: tuple[float, ...]
) -> None:
    graph = experts(roles, 3, around, odd=odd)
    truth = oracles.best_bottleneck(graph, wires(*rates), k, allow_empty=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "_NARROW", 1)
        patch.setattr(frontier, "_TOGETHER", together)
        assert optimum(problem_of(graph, k, *rates)) == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize("fork", [False, True])
def test_equal_branches_are_found_and_an_odd_one_is_left_out(fork: bool) -> None:
    around = [(1.0, 1), (1.0, 1), (1.0, 1)]
    for odd, found in ((-1, 4), (2, 3)):
        problem = problem_of(experts([(2.0, 3), (1.0, 2), (3.0, 1)], 4, around, odd=odd, fork=fork), 3, 1.0)
        groups = Symmetric.of(problem, Reach(problem)).groups
        assert [len(group) for group in groups] == [found]
        assert groups[0].shape[1] == 3


def test_branches_in_order_are_the_same_downset_with_branches_moved() -> None:
    problem = problem_of(experts([(2.0, 3), (1.0, 2)], 3, [(1.0, 1)] * 3), 3, 1.0)
    branches = Symmetric.of(problem, Reach(problem))
    group = branches.groups[0]
    members = np.zeros((2, problem.n), dtype=bool)
    members[:, 0] = True
    members[0, group[2]] = members[0, group[1][0]] = True
    members[1, group[0]] = members[1, group[1][0]] = True
    ordered, turn = branches.sorted(members)
    assert (ordered[0] == ordered[1]).all()
    assert ordered[1].tolist() == members[1].tolist()
    for row in range(2):
        to = branches.turned(turn[row], problem.n)
        assert sorted(to[members[row]].tolist()) == np.flatnonzero(ordered[row]).tolist()
