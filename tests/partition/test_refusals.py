"""What cannot be split is refused with the nodes and stages to blame and a remedy that works."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.errors import ArgumentError, InfeasibleError, PartitionError
from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.partition import MemoryRule, Replicas, solve
from tests import oracles
from tests.partition.random_graphs import cost_graphs, wires


def chain(n: int, **costs: float) -> CostGraph:
    nodes = [CostNode(f"n{i}", fqn=f"layers.{i}", **{"fwd_ms": 1.0, **costs}) for i in range(n)]  # type: ignore[arg-type]
    return CostGraph.build(nodes, [(f"n{i}", f"n{i + 1}") for i in range(n - 1)])


def refusal(graph: CostGraph, n_stages: int, **options: Any) -> PartitionError:
    with pytest.raises(PartitionError) as raised:
        solve(graph, n_stages, hardware=wires(), **options)
    return raised.value


def limit_of(remedy: str) -> int:
    found = re.match(r"memory_limit_bytes=(\d+) or more", remedy)
    assert found
    return int(found.group(1))


# -- counts and numbers


def test_zero_stages_are_refused() -> None:
    with pytest.raises(ArgumentError, match="asked for 0 stages"):
        solve(chain(3), 0, hardware=wires())


def test_limits_and_budgets_that_are_no_such_numbers_are_refused() -> None:
    for limit in (math.nan, math.inf, -5):
        with pytest.raises(ArgumentError, match="is no number of bytes"):
            solve(chain(3), 2, hardware=wires(), memory_limit_bytes=limit)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="budget=-1 is no amount of work"):
        solve(chain(3), 2, hardware=wires(), budget=-1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"n_ranks": 1.5}, "asked for 1.5 ranks"),
        ({"n_microbatches": 0}, "n_microbatches=0"),
        ({"memory_limit_bytes": "1GiB"}, "memory_limit_bytes='1GiB'"),
        ({"budget": math.nan}, "budget=nan"),
        ({"in_flight": (1, -1)}, "in_flight of stage 1 is -1"),
        ({"pin": {"n0": 0.5}}, "'n0' is pinned to stage 0.5"),
        ({"together": ["n0"]}, r"together=\[\['n0', ...\]\]"),
        ({"replicas": Replicas(-1.0)}, "exchanges=-1.0"),
        ({"memory": MemoryRule(math.nan)}, "param_multiplier=nan"),
        ({"hardware": None}, "hardware is None"),
    ],
)
def test_what_is_no_such_number_or_thing_is_named(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        solve(chain(4), 2, **{"hardware": wires(), **asked})


def test_graphs_of_positions_that_differ_in_more_than_their_times_are_refused() -> None:
    graph = chain(4)
    for other in (CostGraph.build(graph.nodes, []), chain(4, out_bytes=7)):
        with pytest.raises(PartitionError, match="more than their times"):
            solve([graph, other], 2, hardware=wires())


def test_more_stages_than_cuts_are_refused_with_the_number_that_works() -> None:
    error = refusal(chain(10), 12)
    assert error.what == "asked for 12 stages, but only 9 cut points are legal."
    assert error.remedy == "n_stages=10 or fewer."
    assert solve(chain(10), 10, hardware=wires()).n_stages == 10


def test_a_graph_of_no_nodes_is_refused() -> None:
    assert refusal(CostGraph.build([], []), 1).what == "the cost graph has no nodes."


def test_a_group_that_no_contiguous_split_keeps_together_is_named_with_what_it_pulls_in() -> None:
    error = refusal(chain(5), 3, together=[["n0", "n4"]])
    assert error.what == "asked for 3 stages, but no cut is legal."
    assert "'n0' (layers.0), 'n4' (layers.4); with them what lies on a path" in error.why
    assert "'n1' (layers.1), 'n2' (layers.2), 'n3' (layers.3)" in error.why
    assert error.remedy == "n_stages=1."


# -- memory


@settings(max_examples=60, deadline=None)
@given(cost_graphs(max_nodes=6, tied=True), st.integers(2, 3), st.data())
def test_the_limit_that_the_remedy_names_works_and_one_byte_less_does_not(
    graph: CostGraph, k: int, data: st.DataObject
) -> None:
    hardware = wires(2.0)
    partitions = [p for p in oracles.all_partitions(graph, k) if len(set(p.values())) == k]
    if not partitions:
        return
    flight = data.draw(st.lists(st.integers(1, 4), min_size=k, max_size=k))
    needs = [
        max(oracles.stage_bytes(graph, hardware, stage_of, s, flight[s]) for s in range(k))
        for stage_of in partitions
    ]
    least = math.ceil(min(needs))
    options: dict[str, Any] = {"hardware": hardware, "in_flight": flight}
    assert solve(graph, k, memory_limit_bytes=least, **options).n_stages == k
    if not least:
        return
    with pytest.raises(InfeasibleError) as raised:
        solve(graph, k, memory_limit_bytes=data.draw(st.integers(0, least - 1)), **options)
    assert limit_of(raised.value.remedy) == least
    assert raised.value.why == "No split needs less."
    assert re.search(rf"the leanest split needs {least} bytes in stage \d", raised.value.where)


def test_a_node_larger_than_the_limit_is_named_with_its_module() -> None:
    error = refusal(chain(4, param_bytes=100), 2, memory_limit_bytes=300)
    assert error.where.startswith(
        "node 'n0' (layers.0) alone needs 400 bytes: 400 for parameters, gradients and optimizer state"
    )
    assert limit_of(error.remedy) == 800


def test_a_limit_that_nothing_fits_says_which_stage_needs_how_much() -> None:
    error = refusal(chain(4, param_bytes=50), 2, memory_limit_bytes=300)
    assert re.search(
        r"the leanest split needs 400 bytes in stage \d: 400 for 100 bytes of parameters", error.where
    )


def test_recompute_is_advised_where_it_lowers_the_need_and_works() -> None:
    graph = chain(4, saved_bytes=100)
    error = refusal(graph, 2, memory_limit_bytes=150)
    first, second = error.remedy.splitlines()
    assert limit_of(first) == 300
    assert second == "allow_recompute=True, with which 200 bytes are enough."
    partition = solve(graph, 2, hardware=wires(), memory_limit_bytes=200, allow_recompute=True)
    assert max(stage.memory_bytes for stage in partition.stages) <= 200


def test_a_node_larger_than_a_rank_is_named_with_a_limit_that_works() -> None:
    graph = chain(4, param_bytes=50)
    error = refusal(graph, 4, n_ranks=2, memory_limit_bytes=150)
    assert "'n0' (layers.0) alone needs 200 bytes" in error.where
    assert "150 bytes a rank of 2 stages" in error.what
    solve(graph, 4, hardware=wires(), n_ranks=2, memory_limit_bytes=limit_of(error.remedy))


def test_stages_that_share_a_rank_share_its_memory() -> None:
    graph = chain(6, param_bytes=50, saved_bytes=7)
    error = refusal(graph, 3, n_ranks=2, memory_limit_bytes=500)
    enough = limit_of(error.remedy)
    stepwise = refusal(graph, 3, n_ranks=2, memory_limit_bytes=500, objective="step_time")
    assert "that was tried" in stepwise.what
    assert not stepwise.why  # stages get equal shares of a rank there, others may be leaner
    partition = solve(graph, 3, hardware=wires(), n_ranks=2, memory_limit_bytes=enough)
    held = [0, 0]
    for stage, rank in zip(partition.stages, partition.rank_of_stage, strict=True):
        held[rank] += stage.memory_bytes
    assert max(held) <= enough


# -- pins


def test_pins_against_the_flow_are_named() -> None:
    error = refusal(chain(4), 2, pin={"n0": 1, "n2": 0})
    assert error.what == "pins contradict each other: 'n0' to stage 1, 'n2' to stage 0."
    assert error.remedy == "'n0' to stage 0 or earlier, or 'n2' to stage 1 or later."


def test_a_pin_that_leaves_a_stage_empty_is_named_with_the_stages_that_would_do() -> None:
    error = refusal(chain(6), 3, pin={"n1": 2, "n5": 2})
    assert error.what == "pin={'n1': 2} leaves too few nodes for stages 0 and 1 of 3."
    assert error.where == "stages 0 and 1 can only take 'n0' (layers.0)."
    assert error.why.startswith("What depends on 'n1' (layers.1) cannot come in an earlier stage")
    assert error.remedy == "pin={'n1': 0 or 1}."


@settings(max_examples=80, deadline=None)
@given(cost_graphs(max_nodes=6), st.integers(2, 4), st.data())
def test_pins_are_refused_exactly_where_no_partition_has_them(
    graph: CostGraph, k: int, data: st.DataObject
) -> None:
    names = st.sampled_from(list(graph.graph))
    pin = data.draw(st.dictionaries(names, st.integers(0, k - 1), max_size=3))
    possible = any(
        len(set(stage_of.values())) == k and all(stage_of[name] == stage for name, stage in pin.items())
        for stage_of in oracles.all_partitions(graph, k)
    )
    if possible:
        stage_of = solve(graph, k, hardware=wires(2.0), pin=pin).stage_of
        assert all(stage_of[name] == stage for name, stage in pin.items())
        return
    with pytest.raises(PartitionError, match=r"pins contradict|leaves too few nodes|(is|are) legal"):
        solve(graph, k, hardware=wires(2.0), pin=pin)


def test_a_pin_to_a_stage_that_is_not_there_is_refused_as_it_was_given() -> None:
    error = refusal(chain(4), 3, pin={"n0": -4})
    assert error.what == "node 'n0' is pinned to stage -4 of 3."
    assert error.remedy == "0 to 2; -1 is the last."
