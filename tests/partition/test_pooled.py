"""Counting small items instead of telling them apart never asks for more than any split costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.partition import Objective, compile_problem, pooled, solve
from autopipe.partition.attempt import Verdict, attempt
from autopipe.partition.problem import Problem
from autopipe.partition.reach import Reach
from autopipe.partition.relax import Depth, relax
from autopipe.partition.relaxed import place_dropped
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires

EVERYTHING = 10**9


@pytest.fixture(scope="module", autouse=True)
def anything_is_small() -> Iterator[None]:
    """Let half of the items of any graph be small and loose."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooled, "_LIGHT", 0.5)
        patch.setattr(pooled, "_QUIET", 0.2)
        patch.setattr(pooled, "_COARSE", 2.0)
        patch.setattr(pooled, "_LOOSE", -1.0)
        patch.setattr(pooled, "_SHORT", 9.0)
        patch.setattr(pooled, "_ENOUGH", 1)
        yield


def optimum(problem: Problem) -> float:
    """The least bottleneck of a problem, by windows."""
    found = attempt(problem, Reach(problem), 1e6, EVERYTHING)
    assert found.verdict is Verdict.FOUND
    return found.bottleneck_ms


def spine(n_blocks: int, n_small: int) -> CostGraph:
    """Blocks in a row; small sources that a block waits for, small ends that wait for it, nothing to send."""
    nodes, edges = [], []
    for b in range(n_blocks):
        before, after = [f"s{b}{i}" for i in range(n_small)], [f"e{b}{i}" for i in range(n_small)]
        nodes += [CostNode(name, fwd_ms=1.0) for name in before]
        nodes.append(CostNode(f"b{b}", fwd_ms=5.0 + b % 3, out_bytes=1))
        nodes += [CostNode(name, fwd_ms=1.0) for name in after]
        edges += [(name, f"b{b}", False) for name in before] + [(f"b{b}", name, False) for name in after]
        edges += [(f"b{b - 1}", f"b{b}", True)] if b else []
    return CostGraph.build(nodes, edges)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    graph=cost_graphs(max_nodes=7, groups=True),
    k=st.integers(2, 4),
    rate=st.sampled_from([0.5, 2.0, 9.0]),
    overlap=st.booleans(),
    depth=st.sampled_from([Depth.POOLED, Depth.QUIET, Depth.COARSE]),
)
def test_no_split_costs_less_than_the_relaxed_optimum(
    graph: CostGraph, k: int, rate: float, overlap: bool, depth: Depth
) -> None:
    hardware = wires(rate, overlap=overlap)
    truth = oracles.best_bottleneck(graph, hardware, k, allow_empty=True)
    problem = compile_problem(Objective(graph, hardware, k), allow_empty=True)
    relaxed = relax(problem, Reach(problem), truth, depth)
    assert optimum(relaxed.problem) <= truth * (1 + 1e-9) + 1e-9


@settings(max_examples=15, deadline=None)
@given(graph=cost_graphs(max_nodes=7), k=st.integers(2, 4), overlap=st.booleans())
def test_answers_stay_optimal_where_items_are_counted(graph: CostGraph, k: int, overlap: bool) -> None:
    hardware = wires(2.0, overlap=overlap)
    truth = oracles.best_bottleneck(graph, hardware, k, allow_empty=True)
    found = solve(graph, k, hardware=hardware, allow_empty=True).certificate
    assert found.lower_bound_ms <= truth + 1e-9
    assert found.bottleneck_ms == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize("k", [2, 3])
def test_nothing_is_lost_where_equal_items_send_nothing(k: int) -> None:
    graph = spine(3, 1)
    truth = oracles.best_bottleneck(graph, wires(1.0), k, allow_empty=True)
    problem = compile_problem(Objective(graph, wires(1.0), k), allow_empty=True)
    relaxed = relax(problem, Reach(problem), 8.0, Depth.POOLED)
    assert (relaxed.kept < 0).sum() == 6
    assert optimum(relaxed.problem) == pytest.approx(truth)


def test_a_hundred_interchangeable_items_are_certified_within_little_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pooled, "_LIGHT", 0.05)
    found = solve(spine(6, 8), 4, hardware=wires(1.0), allow_empty=True, budget=1_000_000).certificate
    assert found.gap <= 1e-9


def test_what_was_counted_is_placed_where_it_may_be() -> None:
    problem = compile_problem(Objective(spine(4, 2), wires(1.0), 3), allow_empty=True)
    relaxed = relax(problem, Reach(problem), 8.0, Depth.POOLED)
    found = attempt(relaxed.problem, Reach(relaxed.problem), 1e6, EVERYTHING).stage_of
    assert found is not None
    stage = place_dropped(problem, relaxed, found)
    assert all(stage[a] <= stage[b] for a in range(problem.n) for b in problem.succs[a])
    assert np.bincount(stage, minlength=3).sum() == problem.n
