"""Walking level by level keeps the optimum, whatever is halved on the way."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.partition import Objective, compile_problem, extensions, frontier, needless, room, solve, walk
from autopipe.partition.attempt import Verdict, attempt
from autopipe.partition.downsets import Downsets, Enumeration
from autopipe.partition.polish import stage_loads
from autopipe.partition.problem import Floats, Problem
from autopipe.partition.reach import Bools, Reach
from autopipe.partition.room import Room
from autopipe.partition.rows import Reached
from autopipe.partition.rung import Rung, Stopped
from autopipe.partition.strides import Strides
from autopipe.partition.sweep import Path, Sweep
from autopipe.partition.symmetric import Symmetric
from autopipe.partition.windows import Windows
from tests import oracles
from tests.partition.every_search import parallel_branches
from tests.partition.random_graphs import cost_graphs, wires


def optimum(problem: Problem) -> float:
    """The least bottleneck, by asking for better until there is nothing better."""
    reach, best = Reach(problem), np.inf
    while True:
        target = 1e6 if np.isinf(best) else best - 1e-6
        path = walk.walk(
            problem, reach, Strides(problem, reach, target), Symmetric.of(problem, reach), target, 10**12
        )
        assert path.complete
        if path.stage_of is None:
            return best
        assert stage_loads(problem, path.stage_of).max() == pytest.approx(path.bottleneck_ms, abs=1e-9)
        best = path.bottleneck_ms


@pytest.mark.parametrize("together", [1, 3, 1000])
@settings(max_examples=15, deadline=None)
@given(
    graph=cost_graphs(max_nodes=8, groups=True, tied=True),
    k=st.integers(1, 4),
    rate=st.sampled_from([0.5, 2.0, 9.0]),
)
def test_the_walk_finds_the_optimum_of_all_partitions(
    together: int, graph: CostGraph, k: int, rate: float
) -> None:
    truth = oracles.best_bottleneck(graph, wires(rate), k, allow_empty=True)
    problem = compile_problem(Objective(graph, wires(rate), k), allow_empty=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "_NARROW", 1)  # windows alone, so that the walk has something left to do
        patch.setattr(frontier, "_TOGETHER", together)
        patch.setattr(room, "_MANY", 0)
        patch.setattr(room, "_EVERY", 2)
        patch.setattr(needless, "_BLOCK", 2)
        patch.setattr(needless, "_LARGER", together)
        assert optimum(problem) == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize("larger", [1, 3, 10**6])
def test_each_row_is_compared_with_a_few_larger_ones_that_stand_for_it(larger: int) -> None:
    graph = CostGraph.build([CostNode(f"item{i}", fwd_ms=1.0) for i in range(5)], [])
    problem = compile_problem(Objective(graph, wires(2.0), 2), allow_empty=True)
    search = needless.Needless(problem, Strides(problem, Reach(problem), 5.0))
    held = np.array(list(product([False, True], repeat=5)))
    bits = (held @ (1 << np.arange(5))).astype(np.uint64)[:, None]
    weight, nothing = held.sum(axis=1).astype(float), np.zeros((1, len(held)))
    downsets = Downsets(np.arange(5), np.zeros(5, dtype=bool), bits, weight, nothing, nothing)
    compared: list[int] = []
    ways = needless.Needless._ways

    def counted(self: needless.Needless, downsets: Downsets, small: Bools, large: Bools) -> Bools:
        compared.append(small.shape[1])
        return ways(self, downsets, small, large)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(needless, "_BLOCK", 4)
        patch.setattr(needless, "_LARGER", larger)
        patch.setattr(needless.Needless, "_ways", counted)
        overtaken = search.overtaken(downsets, 10**9)
    assert max(compared) <= 4 * larger
    assert not overtaken[-1]  # the one that holds all
    assert overtaken[:-1].all()
    assert not search.overtaken(downsets, -1).any()


@settings(max_examples=20, deadline=None)
@given(cost_graphs(max_nodes=7, tied=True), st.data())
def test_positions_that_differ_and_pins(graph: CostGraph, data: st.DataObject) -> None:
    hardware = wires(4.0, 0.5)
    name, stage = data.draw(st.sampled_from(list(graph.graph))), data.draw(st.integers(0, 2))
    truth = min(
        max(oracles.stage_ms(graph, hardware, stage_of, s, 12) for s in range(3))
        for stage_of in oracles.all_partitions(graph, 3)
        if stage_of[name] == stage
    )
    problem = compile_problem(Objective(graph, hardware, 3), allow_empty=True, pin={name: stage})
    assert optimum(problem) == pytest.approx(truth, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(cost_graphs(max_nodes=8), st.data())
def test_backward_nodes_that_follow_their_forward_nodes(graph: CostGraph, data: st.DataObject) -> None:
    names = list(graph.graph)
    n_free = data.draw(st.integers(1, len(names)))
    followers = {name: data.draw(st.sampled_from(names[:n_free])) for name in names[n_free:]}
    truth = oracles.best_bottleneck(graph, wires(2.0), 3, allow_empty=True, followers=followers)
    problem = compile_problem(Objective(graph, wires(2.0), 3), allow_empty=True, followers=followers)
    assert optimum(problem) == pytest.approx(truth, abs=1e-9)


def test_parallel_branches_are_proven_optimal() -> None:
    certificate = solve(parallel_branches(10, 6), 4, hardware=wires(0.5), allow_empty=True).certificate
    assert certificate.stopped_by == "optimal"
    assert certificate.gap == 0.0


def test_what_a_sweep_does_not_decide_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = parallel_branches(7, 3)
    swept = solve(graph, 4, hardware=wires(0.5), allow_empty=True).certificate
    monkeypatch.setattr(Sweep, "run", lambda *_: Path(None, np.inf, False, 1))
    monkeypatch.setattr(Rung, "windows", lambda *_: Stopped.BUDGET)
    walked = solve(graph, 4, hardware=wires(0.5), allow_empty=True).certificate
    assert walked.stopped_by == "optimal"
    assert walked.bottleneck_ms == pytest.approx(swept.bottleneck_ms)


@pytest.mark.parametrize("budget", [10_000, 300_000, 1_000_000])
def test_a_target_is_given_up_as_soon_as_its_budget_ends(budget: int) -> None:
    nodes = [CostNode(f"{tower}{i}", fwd_ms=1.0) for i in range(60) for tower in "ab"]
    edges = [(f"{tower}{i}", f"{tower}{i + 1}") for i in range(59) for tower in "ab"]
    problem = compile_problem(Objective(CostGraph.build(nodes, edges), wires(1.0), 4), allow_empty=True)
    outcome = attempt(problem, Reach(problem), 72.0, budget)
    assert outcome.verdict is Verdict.UNDECIDED
    assert outcome.work <= 2 * budget


def test_a_small_budget_still_proves_more_than_a_fair_share() -> None:
    graph = parallel_branches(10, 6)
    share = sum(node.compute_ms for node in graph.nodes) / 8
    certificate = solve(graph, 8, hardware=wires(0.5), allow_empty=True, budget=2_000_000).certificate
    assert share * 1.01 < certificate.lower_bound_ms <= certificate.bottleneck_ms


@settings(max_examples=40, deadline=None)
@given(
    graph=cost_graphs(max_nodes=8, tied=True),
    rate=st.sampled_from([0.5, 2.0, 9.0]),
    data=st.data(),
)
def test_what_a_stage_may_cost_is_what_it_costs_once_all_is_decided(
    graph: CostGraph, rate: float, data: st.DataObject
) -> None:
    problem = compile_problem(Objective(graph, wires(rate), 3), allow_empty=True)
    reach = Reach(problem)
    strides = Strides(problem, reach, 1e3)
    assume(reach.made_first.all())
    windows = Windows(problem, reach, 1e3)
    first = Enumeration(windows, 1, 10**6).run()
    assert first is not None
    some = data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, unique=True))
    checked: list[Floats] = []
    exactly = extensions._Extensions._exactly

    def compared(self: extensions._Extensions, rows: Reached) -> Reached:
        checked.append(rows.value - rows.cost)
        return exactly(self, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, "enough", lambda self, rows, at: np.ones(len(rows), dtype=bool))
        patch.setattr(extensions._Extensions, "_exactly", compared)
        extensions.extend(windows, 2, first.keep(np.array(some)), 10**6, strides)
    assert len(checked) == 1
    np.testing.assert_allclose(checked[0], 0.0, atol=1e-9)
