"""What calls share changes no answer, whatever was asked before."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autopipe.errors import PartitionError
from autopipe.ir.cost_graph import CostGraph, CostNode
from autopipe.ir.partition import Partition
from autopipe.partition import Known, solve
from autopipe.partition.compiled import compile_problem
from autopipe.partition.groundwork import posed
from autopipe.partition.objective import Objective, Rules
from autopipe.partition.reduce import reduce_problem
from tests.partition.random_graphs import cost_graphs, wires

FIELDS = (
    *("members", "preds", "succs", "pins", "kind_of_stage", "in_flight"),
    *("weight", "maker", "cin", "cout", "first", "last", "fixed", "saved", "kept", "fwd"),
)


def answer(graph: CostGraph, k: int, rate: float, **options: object) -> Partition | str:
    try:
        return solve(graph, k, hardware=wires(rate), **options)  # type: ignore[arg-type]
    except PartitionError as error:
        return str(error)


@settings(max_examples=25, deadline=None)
@given(
    cost_graphs(max_nodes=7, groups=True, tied=True),
    st.lists(
        st.tuples(
            st.integers(1, 4),
            st.sampled_from([1.0, 3.0, 1e12]),
            st.sampled_from([1, 5, None]),
            st.sampled_from([None, 60, 200]),
            st.booleans(),
        ),
        min_size=2,
        max_size=4,
    ),
)
def test_answers_to_many_questions_are_those_of_each_alone(
    graph: CostGraph, questions: list[tuple[int, float, int | None, int | None, bool]]
) -> None:
    known = Known()
    for k, rate, step, limit, recompute in questions:
        asked = {"n_microbatches": step, "memory_limit_bytes": limit, "allow_recompute": recompute}
        alone, among = answer(graph, k, rate, **asked), answer(graph, k, rate, **asked, known=known)
        if isinstance(alone, str) or isinstance(among, str):
            assert alone == among
            continue
        assert among.certificate.bottleneck_ms == pytest.approx(alone.certificate.bottleneck_ms)
        assert among.certificate.gap == pytest.approx(0, abs=1e-6)
        sums = [sum(stage.total_ms for stage in one.stages) for one in (alone, among)]
        assert sums[1] == pytest.approx(sums[0])


@settings(max_examples=40, deadline=None)
@given(cost_graphs(max_nodes=7, groups=True), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_the_items_of_a_question_are_those_of_a_graph_compiled_for_it(
    graph: CostGraph, first: int, then: int, limited: bool
) -> None:
    known = Known()
    for k in (first, then):
        rules = Rules(memory_limit_bytes=100 if limited else None)
        prices = Objective(graph, wires(2.0), k, rules, known)
        problem, reduced = posed(known, prices, (), {}, allow_empty=True)
        alone = compile_problem(Objective(graph, wires(2.0), k, rules), allow_empty=True)
        fewer = reduce_problem(alone)
        for one, other in ((problem, alone), (reduced.problem, fewer.problem)):
            for name in FIELDS:
                mine, theirs = getattr(one, name), getattr(other, name)
                assert mine == theirs if isinstance(mine, tuple) else (mine == theirs).all(), name
        assert reduced.item_of.tolist() == fewer.item_of.tolist()


def test_a_graph_is_contracted_once_for_all_numbers_of_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    monkeypatch.setattr(
        "autopipe.partition.groundwork.compile_problem",
        lambda *args, **kwargs: times.append(1) or compile_problem(*args, **kwargs),
    )
    nodes = [CostNode(name, fwd_ms=1.0, out_bytes=1) for name in "abcdef"]
    graph = CostGraph.build(nodes, [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "f")])
    known = Known()
    for k in (2, 3, 4):
        solve(graph, k, hardware=wires(1.0), known=known)
    assert len(times) == 1
