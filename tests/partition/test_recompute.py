"""Which stages run their forward again is part of the optimum: held against all partitions and choices."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.errors import PartitionError
from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.hardware import Hardware
from autopipe.partition import solve
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires


def best(graph: CostGraph, hardware: Hardware, k: int, limit: int) -> float | None:
    """The least bottleneck over all partitions into k stages and all choices of those that run twice."""
    found = []
    for stage_of in oracles.all_partitions(graph, k):
        if len(set(stage_of.values())) < k:
            continue
        for twice in itertools.product((False, True), repeat=k):
            fits = all(bytes_of(graph, hardware, stage_of, s, k - s, twice[s]) <= limit for s in range(k))
            found += [max(ms_of(graph, hardware, stage_of, s, k, twice[s]) for s in range(k))] * fits
    return min(found, default=None)


def bytes_of(graph, hardware, stage_of, stage, in_flight, twice) -> float:
    """What it keeps a microbatch in flight; running twice, what it saves is there for one microbatch only."""
    with_saved = oracles.stage_bytes(graph, hardware, stage_of, stage, in_flight)
    saved = sum(node.saved_bytes for node in graph.nodes if stage_of[node.name] == stage)
    return with_saved - (in_flight - 1) * saved if twice else with_saved


def ms_of(graph, hardware, stage_of, stage, k, twice) -> float:
    forward = sum(node.fwd_ms for node in graph.nodes if stage_of[node.name] == stage)
    return oracles.stage_ms(graph, hardware, stage_of, stage, 4 * k) + forward * twice


@settings(max_examples=60, deadline=None)
@given(cost_graphs(max_nodes=6, tied=True), st.integers(2, 3), st.integers(0, 250))
def test_the_answer_is_the_best_that_fits_with_second_forwards_or_without(
    graph: CostGraph, k: int, limit: int
) -> None:
    hardware = wires(2.0)
    optimum = best(graph, hardware, k, limit)
    options = {"hardware": hardware, "memory_limit_bytes": limit, "allow_recompute": True}
    if optimum is None:
        with pytest.raises(PartitionError):
            solve(graph, k, **options)
        return
    partition = solve(graph, k, **options)
    assert partition.certificate.bottleneck_ms == pytest.approx(optimum, abs=1e-9)
    assert partition.certificate.lower_bound_ms <= optimum + 1e-9
    assert max(stage.memory_bytes for stage in partition.stages) <= limit
    for stage in partition.running_twice:
        assert bytes_of(graph, hardware, partition.stage_of, stage, k - stage, False) > limit
