"""Blocks, the lattice and the sweep over it keep the optimum; nothing else of the search takes part here."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.partition import Objective, compile_problem, solve
from autopipe.partition.blocks import fuse_blocks
from autopipe.partition.lattice import build_lattice
from autopipe.partition.polish import stage_loads
from autopipe.partition.problem import Problem
from autopipe.partition.reduce import Reduced
from autopipe.partition.sweep import Sweep
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires


def optimum(problem: Problem) -> tuple[float, np.ndarray]:
    """The least bottleneck, by asking the sweep for better until there is nothing better."""
    lattice = build_lattice(problem, 10_000)
    assert lattice is not None
    sweep = Sweep(problem, lattice)
    best, stage_of = np.inf, None
    while True:
        path = sweep.run(1e9 if stage_of is None else best - 1e-9, 10**9)
        assert path.complete
        if path.stage_of is None:
            assert stage_of is not None
            return best, stage_of
        best, stage_of = path.bottleneck_ms, path.stage_of
        assert stage_loads(problem, stage_of).max() == pytest.approx(best, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(cost_graphs(max_nodes=8, groups=True, tied=True), st.integers(1, 4), st.sampled_from([0.5, 2.0, 9.0]))
def test_the_sweep_finds_the_optimum_of_all_partitions(graph: CostGraph, k: int, rate: float) -> None:
    truth = oracles.best_bottleneck(graph, wires(rate), k, allow_empty=True)
    problem = compile_problem(Objective(graph, wires(rate), k), allow_empty=True)
    assert optimum(problem)[0] == pytest.approx(truth, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(cost_graphs(max_nodes=9, groups=True, tied=True), st.integers(2, 4), st.sampled_from([0.5, 2.0, 9.0]))
def test_blocks_may_be_fused(graph: CostGraph, k: int, rate: float) -> None:
    problem = compile_problem(Objective(graph, wires(rate), k), allow_empty=True)
    blocks = fuse_blocks(problem)
    best, stage_of = optimum(blocks.problem)
    assert best == pytest.approx(optimum(problem)[0], abs=1e-9)
    assert stage_loads(problem, blocks.expand(stage_of)).max() == pytest.approx(best, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(cost_graphs(max_nodes=7, tied=True), st.booleans(), st.data())
def test_positions_that_differ_and_pins(graph: CostGraph, fused: bool, data: st.DataObject) -> None:
    hardware = wires(4.0, 0.5)
    name = data.draw(st.sampled_from(list(graph.graph)))
    stage = data.draw(st.integers(0, 2))
    truth = min(
        max(oracles.stage_ms(graph, hardware, stage_of, s, 12) for s in range(3))
        for stage_of in oracles.all_partitions(graph, 3)
        if stage_of[name] == stage
    )
    problem = compile_problem(Objective(graph, hardware, 3), allow_empty=True, pin={name: stage})
    same = np.arange(problem.n, dtype=np.int64)
    blocks = fuse_blocks(problem) if fused else Reduced(problem, same)
    assert optimum(blocks.problem)[0] == pytest.approx(truth, abs=1e-9)


def residual_chain(n_blocks: int, out_bytes: int) -> CostGraph:
    """Blocks of three items with a skip around them."""
    nodes = [CostNode("x", fwd_ms=1.0, out_bytes=out_bytes)]
    edges = []
    skip = "x"
    for b in range(n_blocks):
        names = [f"{kind}{b}" for kind in ("conv", "relu", "add")]
        nodes += [CostNode(name, fwd_ms=1.0, out_bytes=out_bytes) for name in names]
        edges += [(skip, names[0]), (names[0], names[1]), (names[1], names[2]), (skip, names[2])]
        skip = names[2]
    return CostGraph.build(nodes, edges)


def test_a_residual_block_becomes_one_item_where_a_transfer_is_dearer_than_the_block() -> None:
    dear = compile_problem(Objective(residual_chain(5, 4), wires(1.0), 3), allow_empty=True)
    item_of = fuse_blocks(dear).item_of
    for b in range(5):
        assert len(set(item_of[3 * b + 1 : 3 * b + 4])) == 1
    cheap = compile_problem(Objective(residual_chain(5, 1), wires(2.0), 3), allow_empty=True)
    assert fuse_blocks(cheap).problem.n == cheap.n


def attention(n_blocks: int, out_bytes: int, ms: float) -> CostGraph:
    """Blocks of three projections, each turned twice before they meet, and one heavy item after each."""
    nodes = [CostNode("x", fwd_ms=90 * ms, out_bytes=out_bytes)]
    edges = []
    for b in range(n_blocks):
        before, steps = f"heavy{b - 1}" if b else "x", ("", "turn", "twice")
        for side in "qkv":
            names = [before, *(f"{side}{step}{b}" for step in steps), f"meet{b}"]
            edges += list(pairwise(names))
        edges.append((f"meet{b}", f"heavy{b}"))
        names = [f"{side}{step}{b}" for step in steps for side in "qkv"]
        nodes += [CostNode(name, fwd_ms=ms, out_bytes=out_bytes) for name in (*names, f"meet{b}")]
        nodes.append(CostNode(f"heavy{b}", fwd_ms=90 * ms, out_bytes=out_bytes))
    return CostGraph.build(nodes, edges)


@pytest.mark.parametrize("rate", [1.0, 3.0, 7.0, 10.0])
def test_what_rounding_leaves_of_costs_taken_back_keeps_nothing_apart(rate: float) -> None:
    for out_bytes in (1, 5, 6, 67, 671):
        graph = attention(3, out_bytes, ms=0.1 * out_bytes / rate)
        fused = fuse_blocks(compile_problem(Objective(graph, wires(rate), 3), allow_empty=True))
        for b in range(3):
            assert len(set(fused.item_of[11 * b + 1 : 11 * b + 11])) == 1, (out_bytes, b)


def tables(n_blocks: int, table_bytes: int) -> CostGraph:
    """Blocks in a row, each reading two projections of one table."""
    nodes, edges = [CostNode("table", fwd_ms=0.2, out_bytes=table_bytes)], []
    for b in range(n_blocks):
        nodes += [CostNode(f"{side}{b}", fwd_ms=0.5, out_bytes=4) for side in ("key", "query")]
        nodes.append(CostNode(f"block{b}", fwd_ms=9.0, out_bytes=4))
        edges += [("table", f"{side}{b}") for side in ("key", "query")]
        edges += [(f"{side}{b}", f"block{b}") for side in ("key", "query")]
        edges += [(f"block{b - 1}", f"block{b}")] if b else []
    return CostGraph.build(nodes, edges)


def test_what_two_projections_read_is_received_once() -> None:
    worthwhile = compile_problem(Objective(tables(6, 4), wires(1.0), 3), allow_empty=True)
    item_of = fuse_blocks(worthwhile).item_of
    for b in range(6):
        assert len({int(x) for x in item_of[3 * b + 1 : 3 * b + 4]}) == 1
    dearer = compile_problem(Objective(tables(6, 9), wires(1.0), 3), allow_empty=True)
    item_of = fuse_blocks(dearer).item_of
    assert len({int(x) for x in item_of[4:7]}) == 3  # 9 and two times 0.5 are more than two times 4


def test_nothing_is_fused_across_a_pin_or_with_a_memory_limit() -> None:
    graph = residual_chain(2, 9)
    problem = compile_problem(Objective(graph, wires(1.0), 2), allow_empty=True, pin={"relu0": 0})
    fused = fuse_blocks(problem)
    stage_of = optimum(fused.problem)[1]
    assert fused.expand(stage_of)[2] == 0
    limited = replace(problem, limit=1e9)
    assert fuse_blocks(limited).problem is limited


def test_a_lattice_larger_than_the_cap_is_given_up() -> None:
    nodes = [CostNode(f"n{i}", fwd_ms=1.0) for i in range(12)]
    problem = compile_problem(Objective(CostGraph.build(nodes, []), wires(1.0), 2), allow_empty=True)
    assert build_lattice(problem, 4_000) is None
    lattice = build_lattice(problem, 10_000)
    assert lattice is not None
    assert len(lattice) == 2**12


def test_two_items_that_a_stage_may_hold_alone_are_not_fused() -> None:
    nodes = [CostNode(name, fwd_ms=ms, out_bytes=2) for name, ms in (("a", 5.0), ("b", 8.0), ("c", 3.0))]
    graph = CostGraph.build(nodes, [("a", "b", False), ("a", "c"), ("b", "c")])
    problem = compile_problem(Objective(graph, wires(1.0), 4), allow_empty=True)
    assert optimum(fuse_blocks(problem).problem)[0] == pytest.approx(10.0)


def two_towers(n: int) -> CostGraph:
    """Two chains with nothing between them but their end."""
    nodes, edges = [CostNode("z", fwd_ms=1.0)], [("a0", "a1")]
    for tower, more in (("a", 0.0), ("b", 0.03)):
        nodes += [
            CostNode(f"{tower}{i}", fwd_ms=1.0 + i * 7 % 5 / 10 + more, out_bytes=6 + i % 3) for i in range(n)
        ]
        edges += [(f"{tower}{i}", f"{tower}{i + 1}") for i in range(n - 1)]
        edges.append((f"{tower}{n - 1}", "z"))
    return CostGraph.build([*nodes[1:], nodes[0]], edges[1:])


@pytest.mark.parametrize("limit", [None, 2_000])
def test_two_towers_are_proven_within_a_small_budget(limit: int | None) -> None:
    partition = solve(two_towers(40), 12, hardware=wires(2.0), memory_limit_bytes=limit, budget=10_000_000)
    assert partition.certificate.bottleneck_ms == pytest.approx(15.3)
    assert partition.certificate.gap == 0.0
