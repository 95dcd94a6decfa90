"""``solve`` finds what looking at every partition finds, and says what is wrong with bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.errors import PartitionError
from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.partition import solve
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires

ROOT = Path(__file__).resolve().parents[2]


def chain(n: int, **costs: int) -> CostGraph:
    nodes = [CostNode(f"n{i}", **{"fwd_ms": 1.0, **costs}) for i in range(n)]
    return CostGraph.build(nodes, [(f"n{i}", f"n{i + 1}") for i in range(n - 1)])


@settings(max_examples=80, deadline=None)
@given(cost_graphs(groups=True, tied=True), st.integers(1, 3), st.booleans(), st.booleans())
def test_bound_optimum_and_answer_are_in_order(
    graph: CostGraph, k: int, overlap: bool, allow_empty: bool
) -> None:
    hardware = wires(2.0, overlap=overlap)
    optimum = oracles.best_bottleneck(graph, hardware, k, allow_empty=allow_empty)
    if optimum is None:
        with pytest.raises(PartitionError, match=r"(is|are) legal"):
            solve(graph, k, hardware=hardware, allow_empty=allow_empty)
        return
    partition = solve(graph, k, hardware=hardware, allow_empty=allow_empty)
    partition.verify()
    found = partition.certificate
    truth = max(oracles.stage_ms(graph, hardware, partition.stage_of, s, 4 * k) for s in range(k))
    assert found.bottleneck_ms == pytest.approx(truth)
    assert found.lower_bound_ms <= optimum + 1e-9
    assert optimum <= found.bottleneck_ms + 1e-9
    assert dict(partition.stage_of) in list(oracles.all_partitions(graph, k))


def test_pins_hold() -> None:
    partition = solve(chain(6), 3, hardware=wires(), pin={"n3": 1, "n4": -1})
    assert partition.stage_of["n3"] == 1
    assert partition.stage_of["n4"] == 2


def test_pins_hold_where_a_better_split_would_break_them() -> None:
    partition = solve(chain(6), 2, hardware=wires(), pin={"n0": 0, "n1": 1})
    assert list(partition.stage_of.values()) == [0, 1, 1, 1, 1, 1]
    assert partition.certificate.gap == 0.0


def test_every_search_gives_the_same_answer_in_another_process_with_another_hash_seed() -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.partition.every_search"],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate()[0] for process in running)
    assert [process.returncode for process in running] == [0, 0]
    proven = [answer["certificate"]["stopped_by"] for answer in json.loads(first)]
    assert proven == ["optimal"] * 5
    assert [answer["certificate"]["method"] for answer in json.loads(first)[1:]] == ["downsets"] * 4
    assert first == second


def test_virtual_stages_share_ranks_and_the_bottleneck_is_a_rank() -> None:
    partition = solve(chain(8), 4, hardware=wires(), n_ranks=2)
    assert partition.rank_of_stage == (0, 1, 0, 1)
    assert partition.certificate.bottleneck_ms == pytest.approx(4.0)
    assert partition.certificate.lower_bound_ms == pytest.approx(4.0)


def test_recompute_is_chosen_only_where_the_limit_needs_it() -> None:
    graph = chain(4, saved_bytes=10)
    roomy = solve(graph, 2, hardware=wires(), memory_limit_bytes=40, allow_recompute=True)
    assert [stage.recompute for stage in roomy.stages] == [False, False]
    tight = solve(graph, 2, hardware=wires(), memory_limit_bytes=20, allow_recompute=True)
    assert [stage.recompute for stage in tight.stages] == [True, False]
    assert max(stage.memory_bytes for stage in tight.stages) <= 20


def test_a_proven_answer_has_no_gap_left_by_rounding() -> None:
    nodes = [CostNode(f"n{i}", fwd_ms=0.1 * (i % 7 + 1) / 3, out_bytes=i % 5) for i in range(60)]
    graph = CostGraph.build(nodes, [(f"n{i}", f"n{i + 1}") for i in range(59)])
    for k in range(2, 9):
        certificate = solve(graph, k, hardware=wires(7.0)).certificate
        assert certificate.stopped_by == "optimal"
        assert certificate.lower_bound_ms == certificate.bottleneck_ms
