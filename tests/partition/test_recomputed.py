"""Values that readers compute for themselves: never dearer for any stage, never a worse answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.ir.hardware import Hardware
from autopipe.partition import Objective, Rules, solve
from autopipe.partition.recomputed import worth_recomputing
from autopipe.search.crossing import transfers_between
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires


@st.composite
def with_recomputable(draw: st.DrawFn) -> CostGraph:
    graph = draw(cost_graphs(max_nodes=6, groups=True))
    can = draw(st.lists(st.booleans(), min_size=len(graph.nodes), max_size=len(graph.nodes)))
    nodes = [replace(node, recomputable=yes) for node, yes in zip(graph.nodes, can, strict=True)]
    return CostGraph.build(nodes, graph.edges(), graph.together, graph.tied)


def stages_that_run(graph: CostGraph, stage_of: dict[str, int], again: frozenset[str]) -> dict[str, set[int]]:
    """Where every node runs: at home, and, if it is recomputed, wherever a node that reads it runs."""
    found = {name: {stage} for name, stage in stage_of.items()}
    for name in reversed(list(graph.graph)):
        if name in again:
            for a, b, data in graph.edges():
                found[name] |= found[b] if a == name and data else set()
    return found


def costs(graph: CostGraph, hardware: Hardware, stage_of, again, k: int) -> list[tuple[float, float]]:
    """Time, and bytes kept for a microbatch, of every stage, by what runs there and what has to cross."""
    runs = stages_that_run(graph, stage_of, again)
    found = []
    for stage in range(k):
        ms = sum(node.compute_ms for node in graph.nodes if stage in runs[node.name])
        kept = sum(node.saved_bytes for node in graph.nodes if stage in runs[node.name])
        into, out = hardware.link_in(stage), hardware.link_out(stage)
        for node in graph.nodes:
            readers = {stage for a, b, data in graph.edges() if a == node.name and data for stage in runs[b]}
            elsewhere = set() if node.name in again else readers - {stage_of[node.name]}
            if stage in elsewhere:
                ms += into.transfer_ms(node.out_bytes) + into.transfer_ms(node.grad_bytes)
                kept += node.out_bytes
            if stage == stage_of[node.name] and elsewhere:
                ms += out.transfer_ms(node.out_bytes) + out.transfer_ms(node.grad_bytes)
        found.append((ms, kept))
    return found


@settings(max_examples=60, deadline=None)
@given(with_recomputable(), st.integers(2, 3))
def test_no_stage_of_any_split_is_dearer_or_fuller_for_it(graph: CostGraph, k: int) -> None:
    hardware = wires(2.0, 1.0, latency_ms=0.5)
    again = worth_recomputing(Objective(graph, hardware, k, Rules()))
    assert all(graph.node(name).recomputable and not graph.node(name).grad_bytes for name in again)
    for stage_of in oracles.all_partitions(graph, k):
        sent = costs(graph, hardware, stage_of, frozenset(), k)
        computed = costs(graph, hardware, stage_of, again, k)
        for (ms, kept), (ms_before, kept_before) in zip(computed, sent, strict=True):
            assert ms <= ms_before + 1e-9
            assert kept <= kept_before


@settings(max_examples=60, deadline=None)
@given(with_recomputable(), st.integers(2, 3))
def test_the_answer_is_the_best_of_all_splits_and_priced_as_it_runs(graph: CostGraph, k: int) -> None:
    hardware = wires(2.0, 1.0, latency_ms=0.5)
    again = worth_recomputing(Objective(graph, hardware, k, Rules()))
    best = min(
        (
            max(ms for ms, _ in costs(graph, hardware, stage_of, again, k))
            for stage_of in oracles.all_partitions(graph, k)
        ),
    )
    partition = solve(graph, k, hardware=hardware, allow_empty=True)
    used = frozenset(partition.recomputed)
    assert used <= again
    assert partition.certificate.bottleneck_ms == pytest.approx(best, abs=1e-9)
    assert partition.certificate.lower_bound_ms <= best + 1e-9
    priced = [stage.total_ms for stage in partition.stages]
    assert priced == pytest.approx([ms for ms, _ in costs(graph, hardware, partition.stage_of, used, k)])
    sent = {transfer.value for transfer in transfers_between(graph, partition)}
    assert not sent & used


def test_a_mask_is_computed_where_it_is_read_and_a_large_cast_from_the_small_value() -> None:
    nodes = [
        CostNode("mask", fwd_ms=0.1, out_bytes=4, recomputable=True),
        CostNode("ids", fwd_ms=5.0, out_bytes=2),
        CostNode("wide", fwd_ms=0.1, out_bytes=4, recomputable=True),
        CostNode("a", fwd_ms=5.0, out_bytes=1, grad_bytes=1),
        CostNode("b", fwd_ms=10.0),
    ]
    edges = [("mask", "a"), ("mask", "b"), ("ids", "wide"), ("wide", "a"), ("wide", "b"), ("a", "b")]
    graph = CostGraph.build(nodes, edges)
    partition = solve(graph, 2, hardware=wires(1.0))
    assert partition.recomputed == ("mask", "wide")
    assert {transfer.value for transfer in transfers_between(graph, partition)} == {"ids", "a"}
    assert partition.stages[1].fwd_ms == pytest.approx(10.2)
    assert partition.stages[1].recv_bytes == 2 + 1 + 1


def test_values_that_share_a_stage_are_computed_again_together_or_not_at_all() -> None:
    table = [CostNode("table", fwd_ms=1.0, recomputable=True)]
    table += [CostNode(name, out_bytes=4, recomputable=True) for name in ("cos", "sin")]
    rest = [CostNode("a", fwd_ms=5.0, out_bytes=1), CostNode("b", fwd_ms=5.0)]
    edges = [("table", "cos"), ("table", "sin"), ("cos", "a"), ("sin", "b"), ("cos", "b"), ("a", "b")]
    graph = CostGraph.build([*table, *rest], edges, together=[("table", "cos", "sin")])
    assert solve(graph, 2, hardware=wires(1.0)).recomputed == ("table", "cos", "sin")
    assert solve(graph, 2, hardware=wires(8.0)).recomputed == ()


def test_beside_transfers_only_what_takes_no_time_is_computed_again() -> None:
    nodes = [
        CostNode("mask", fwd_ms=0.1, out_bytes=4, recomputable=True),
        CostNode("view", out_bytes=4, recomputable=True),
        CostNode("a", fwd_ms=5.0, out_bytes=1),
        CostNode("b", fwd_ms=5.0),
    ]
    edges = [("mask", "a"), ("mask", "b"), ("view", "a"), ("view", "b"), ("a", "b")]
    partition = solve(CostGraph.build(nodes, edges), 2, hardware=wires(1.0, overlap=True))
    assert partition.recomputed == ("view",)
