"""Several stages a rank: the slowest rank is as fast as looking at every partition finds."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.errors import InfeasibleError
from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.partition import solve
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires


def best_rank(
    graph: CostGraph, k: int, n_ranks: int, limit: int | None, *, overlap: bool, recompute: bool
) -> float | None:
    """The least time of the slowest rank over all partitions and all choices of what runs twice."""
    hardware = wires(2.0, overlap=overlap)
    best: float | None = None
    for stage_of in oracles.all_partitions(graph, k):
        if len(set(stage_of.values())) < k:
            continue
        ways = []
        for s in range(k):
            inside = [node for node in graph.nodes if stage_of[node.name] == s]
            ms = oracles.stage_ms(graph, hardware, stage_of, s, 4 * k)
            held = oracles.stage_bytes(graph, hardware, stage_of, s, k - s)
            ways.append([(ms, held)])
            if recompute and limit is not None:  # without overlap: the forward is added
                spared = (k - s - 1) * sum(node.saved_bytes for node in inside)
                ways[-1].append((ms + sum(node.fwd_ms for node in inside), held - spared))
        for chosen in product(*ways):
            ranks = [chosen[rank::n_ranks] for rank in range(n_ranks)]
            if limit is not None and max(sum(held for _, held in rank) for rank in ranks) > limit:
                continue
            slowest = max(sum(ms for ms, _ in rank) for rank in ranks)
            best = slowest if best is None else min(best, slowest)
    return best


@settings(max_examples=12, deadline=None)
@given(cost_graphs(max_nodes=7, tied=True), st.sampled_from([3, 4]), st.booleans())
def test_the_slowest_rank_is_the_optimum_and_proven(graph: CostGraph, k: int, overlap: bool) -> None:
    if len(graph) < k:
        return
    optimum = best_rank(graph, k, 2, None, overlap=overlap, recompute=False)
    certificate = solve(graph, k, hardware=wires(2.0, overlap=overlap), n_ranks=2).certificate
    assert certificate.bottleneck_ms == pytest.approx(optimum, abs=1e-9)
    assert certificate.stopped_by == "optimal"


@settings(max_examples=15, deadline=None)
@given(cost_graphs(max_nodes=6), st.sampled_from([3, 4]), st.integers(20, 250), st.booleans())
def test_stages_of_a_rank_share_its_memory_as_suits_them(
    graph: CostGraph, k: int, limit: int, recompute: bool
) -> None:
    if len(graph) < k:
        return
    optimum = best_rank(graph, k, 2, limit, overlap=False, recompute=recompute)
    options = {"n_ranks": 2, "memory_limit_bytes": limit, "allow_recompute": recompute}
    if optimum is None:
        with pytest.raises(InfeasibleError):
            solve(graph, k, hardware=wires(2.0), **options)  # type: ignore[arg-type]
        return
    partition = solve(graph, k, hardware=wires(2.0), **options)  # type: ignore[arg-type]
    assert partition.certificate.bottleneck_ms == pytest.approx(optimum, abs=1e-9)
    held = [sum(stage.memory_bytes for stage in partition.stages[rank::2]) for rank in range(2)]
    assert max(held) <= limit


def test_a_large_stage_goes_with_a_small_one() -> None:
    nodes = [CostNode(f"n{i}", fwd_ms=ms) for i, ms in enumerate([6.0, 2.0, 1.0, 5.0])]
    graph = CostGraph.build(nodes, [(f"n{i}", f"n{i + 1}") for i in range(3)])
    partition = solve(graph, 4, hardware=wires(), n_ranks=2)
    assert partition.rank_of_stage == (0, 1, 0, 1)
    assert partition.certificate.bottleneck_ms == 7.0
    assert partition.certificate.stopped_by == "optimal"


def test_a_long_chain_is_shared_out_almost_equally() -> None:
    nodes = [CostNode(f"n{i}", fwd_ms=1.0 + i * 7 % 5) for i in range(60)]
    graph = CostGraph.build(nodes, [(f"n{i}", f"n{i + 1}") for i in range(59)])
    certificate = solve(graph, 8, hardware=wires(), n_ranks=4, budget=0).certificate
    assert certificate.lower_bound_ms == pytest.approx(sum(node.fwd_ms for node in nodes) / 4)
    assert certificate.gap < 0.03
