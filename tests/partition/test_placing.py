"""What a relaxation left out is placed as well as can be, and what is proven holds for every split."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.partition import Objective, chains, compile_problem, placing, pooled, solve
from autopipe.partition.attempt import Verdict, attempt
from autopipe.partition.chains import chains_within, unit_weights
from autopipe.partition.incumbent import Incumbent
from autopipe.partition.polish import stage_loads
from autopipe.partition.problem import Ints, Problem
from autopipe.partition.program import Known, Program
from autopipe.partition.reach import Reach
from autopipe.partition.relax import Depth, relax
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires

EVERYTHING = 10**12
RATES = st.sampled_from([0.5, 2.0, 9.0])


@pytest.fixture(scope="module", autouse=True)
def anything_is_small() -> Iterator[None]:
    """Let half of the items of any graph be small and loose, and any gap be placed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooled, "_LIGHT", 0.5)
        patch.setattr(pooled, "_QUIET", 0.2)
        patch.setattr(pooled, "_LOOSE", -1.0)
        patch.setattr(pooled, "_SHORT", 9.0)
        patch.setattr(pooled, "_ENOUGH", 1)
        patch.setattr(placing, "_NEAR", 1.0)
        yield


def posed(graph: CostGraph, rate: float, k: int) -> Problem:
    """The items of a graph on wires of a rate."""
    return compile_problem(Objective(graph, wires(rate), k), allow_empty=True)


def started(problem: Problem) -> Incumbent:
    """Everything in one stage, to begin with."""
    best = Incumbent(problem)
    best.upper = float(stage_loads(problem, np.zeros(problem.n, dtype=np.int64)).max()) + 1.0
    return best


def every_split(problem: Problem) -> Iterator[Ints]:
    """All splits of a small problem."""
    stage = np.zeros(problem.n, dtype=np.int64)

    def place(item: int) -> Iterator[Ints]:
        if item == problem.n:
            yield stage.copy()
            return
        for at in range(max((int(stage[x]) for x in problem.preds[item]), default=0), problem.k):
            stage[item] = at
            yield from place(item + 1)

    return place(0)


@settings(max_examples=30, deadline=None)
@given(graph=cost_graphs(max_nodes=7, groups=True, tied=True), k=st.integers(2, 4), rate=RATES)
def test_where_nothing_is_known_branching_finds_the_optimum_of_all_partitions(
    graph: CostGraph, k: int, rate: float
) -> None:
    problem = posed(graph, rate, k)
    truth = oracles.best_bottleneck(graph, wires(rate), k, allow_empty=True)
    inside = np.zeros((k + 1, problem.n), dtype=bool)
    inside[-1] = True
    outside = np.zeros_like(inside)
    outside[0] = True
    best = started(problem)
    program = Program(problem, Known(inside, outside), best.upper, None)
    bound = program.solve(np.zeros(program.n_open), np.ones(program.n_open)).bound_ms
    assert bound <= truth * (1 + 1e-12) + 1e-12
    placed = placing.branch(best, program, EVERYTHING)
    assert placed.bound_ms == np.inf
    assert best.upper == pytest.approx(truth, abs=1e-9)
    assert best.stage_of is not None
    assert all(best.stage_of[a] <= best.stage_of[b] for a in range(problem.n) for b in problem.succs[a])


@settings(max_examples=20, deadline=None)
@given(graph=cost_graphs(max_nodes=6), rate=RATES, share=st.floats(1.0, 1.3))
def test_every_split_within_the_target_goes_through_a_chain(
    graph: CostGraph, rate: float, share: float
) -> None:
    problem = posed(graph, rate, 3)
    target = share * oracles.best_bottleneck(graph, wires(rate), 3, allow_empty=True) + 1e-9
    relaxed = relax(problem, Reach(problem), target, Depth.QUIET)
    found = chains_within(relaxed, target, EVERYTHING).chains
    assert found is not None
    kept, _ = relaxed.whole()
    weight = unit_weights(relaxed.problem)
    for stage_of in every_split(problem):
        if stage_loads(problem, stage_of).max() > target:
            continue
        done = stage_of[None, :] < np.arange(4)[:, None]
        units = sum(
            (done[:, pool.items] @ pool.counts * weight[pool.units[0]] for pool in relaxed.pools), np.zeros(4)
        )
        assert any(
            (chain.inside == done[:, kept]).all()
            and (chain.least <= units + 1e-6).all()
            and (units <= chain.most + 1e-6).all()
            for chain in found
        )


@pytest.mark.parametrize("depth", [Depth.POOLED, Depth.QUIET, Depth.FRINGE, Depth.LOOSE])
@settings(max_examples=12, deadline=None)
@given(graph=cost_graphs(max_nodes=7, tied=True), k=st.integers(2, 4), rate=RATES)
def test_placing_ends_with_the_optimum(depth: Depth, graph: CostGraph, k: int, rate: float) -> None:
    problem = posed(graph, rate, k)
    truth = oracles.best_bottleneck(graph, wires(rate), k, allow_empty=True)
    best, reach = started(problem), Reach(problem)
    relaxed = relax(problem, reach, truth, depth)
    found = attempt(relaxed.problem, Reach(relaxed.problem), 1e6, EVERYTHING)
    assert found.verdict is Verdict.FOUND
    assert found.stage_of is not None
    placing.place(best, reach, relaxed, found.stage_of, EVERYTHING)
    assert best.upper == pytest.approx(truth, abs=1e-9)
    assert best.closed()


@pytest.mark.parametrize("work", [0, 1_000, 30_000])
@settings(max_examples=12, deadline=None)
@given(graph=cost_graphs(max_nodes=7), rate=RATES)
def test_a_bound_holds_however_early_the_budget_ends(work: int, graph: CostGraph, rate: float) -> None:
    problem = posed(graph, rate, 3)
    truth = oracles.best_bottleneck(graph, wires(rate), 3, allow_empty=True)
    best, reach = started(problem), Reach(problem)
    relaxed = relax(problem, reach, truth, Depth.QUIET)
    found = attempt(relaxed.problem, Reach(relaxed.problem), 1e6, EVERYTHING).stage_of
    assert found is not None
    placing.place(best, reach, relaxed, found, work)
    assert best.lower <= truth * (1 + 1e-9) + 1e-9
    assert truth <= best.upper + 1e-9


def fills(n_blocks: int, n_fills: int) -> CostGraph:
    """Blocks in a row, each with a mask that many equal fills read: where a fill goes it has to be sent."""
    nodes, edges = [], []
    for b in range(n_blocks):
        nodes += [CostNode(f"block{b}", fwd_ms=90.0 + b, out_bytes=9), CostNode(f"mask{b}", out_bytes=1 + b)]
        nodes += [CostNode(f"fill{b}.{i}", fwd_ms=2.0) for i in range(n_fills)]
        edges += [(f"mask{b}", f"fill{b}.{i}", True) for i in range(n_fills)]
        edges += [(f"block{b - 1}", f"{name}{b}", name == "block") for name in ("block", "mask") if b]
    return CostGraph.build(nodes, edges)


def test_what_counted_items_cost_to_send_is_proven_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled, "_LIGHT", 0.05)
    graph, hardware = fills(5, 4), wires(20.0)
    found = solve(graph, 3, hardware=hardware, allow_empty=True, budget=3_000_000)
    assert found.certificate.gap <= 1e-9
    monkeypatch.setattr(chains, "_MANY", 0)
    without = solve(graph, 3, hardware=hardware, allow_empty=True, budget=3_000_000)
    assert without.certificate.lower_bound_ms <= found.certificate.bottleneck_ms * (1 + 1e-9)


@pytest.mark.parametrize(("many", "closed"), [(1_000, True), (0, False)])
def test_where_a_relaxed_optimum_is_too_low_the_chains_prove_the_rest(
    monkeypatch: pytest.MonkeyPatch, many: int, closed: bool
) -> None:
    monkeypatch.setattr(pooled, "_LIGHT", 0.05)
    monkeypatch.setattr(chains, "_MANY", many)
    problem = posed(fills(3, 2), 5.0, 3)
    truth = min(float(stage_loads(problem, stage_of).max()) for stage_of in every_split(problem))
    best, reach = started(problem), Reach(problem)
    relaxed = relax(problem, reach, truth, Depth.QUIET)
    found = attempt(relaxed.problem, Reach(relaxed.problem), 1e6, EVERYTHING)
    assert found.bottleneck_ms < truth - 0.1
    assert found.stage_of is not None
    placing.place(best, reach, relaxed, found.stage_of, EVERYTHING)
    assert best.upper == pytest.approx(truth, abs=1e-9)
    assert best.closed() == closed


@settings(max_examples=15, deadline=None)
@given(graph=cost_graphs(max_nodes=7), rate=RATES, budget=st.integers(0, 3_000))
def test_what_is_not_gone_through_takes_no_more_than_the_budget(
    graph: CostGraph, rate: float, budget: int
) -> None:
    problem = posed(graph, rate, 4)
    relaxed = relax(problem, Reach(problem), 1e3, Depth.QUIET)
    listed = chains_within(relaxed, 1e3, budget)
    assert listed.chains is not None or listed.work <= budget + 10_000


def test_a_trace_that_costs_more_to_read_than_to_make_is_no_part_of_a_bound() -> None:
    nodes = [CostNode(name, fwd_ms=5.0, out_bytes=60) for name in "ab"]
    nodes += [CostNode("u", out_bytes=1), CostNode("v", fwd_ms=5.0), CostNode("w", fwd_ms=5.0)]
    nodes += [CostNode(f"free{i}", fwd_ms=1.0) for i in range(4)]
    edges = [("a", "u", True), ("b", "u", True), ("u", "v", True), ("u", "w", True)]
    problem = posed(CostGraph.build(nodes, edges), 1e6, 2)
    truth = min(float(stage_loads(problem, stage_of).max()) for stage_of in every_split(problem))
    relaxed = relax(problem, Reach(problem), truth, Depth.ALL_SMALL)
    assert relaxed.dropped
    found = attempt(relaxed.problem, Reach(relaxed.problem), 1e6, EVERYTHING)
    assert found.bottleneck_ms <= truth * (1 + 1e-12)
