from __future__ import annotations

import json

import networkx as nx
import pytest

from autopipe.errors import PartitionError
from autopipe.ir.cost_graph import CostGraph, CostNode, TiedParam


def diamond() -> CostGraph:
    nodes = [CostNode(name, fqn=f"m.{name}", fwd_ms=1.5, out_bytes=4, param_bytes=8) for name in "abcd"]
    edges = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d", False)]
    return CostGraph.build(nodes, edges, [("b", "c")], [TiedParam("w", 8, ("a", "d"))])


def test_json_round_trip_keeps_everything() -> None:
    graph = diamond()
    again = CostGraph.from_json(json.loads(json.dumps(graph.to_json())))
    assert again == graph
    assert again.graph.edges["c", "d"]["data"] is False


def test_networkx_in_any_order_becomes_program_order() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node("late", fwd_ms=2.0)
    graph.add_node("early", fwd_ms=1.0)
    graph.add_edge("early", "late")
    assert [node.name for node in CostGraph.from_networkx(graph).nodes] == ["early", "late"]


def test_a_cycle_is_named() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph([("a", "b"), ("b", "a")])
    with pytest.raises(PartitionError, match="cycle"):
        CostGraph.from_networkx(graph)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "3", None])
def test_a_cost_that_is_no_cost_is_named(value: float) -> None:
    with pytest.raises(PartitionError, match="node 'a' has fwd_ms"):
        CostGraph.build([CostNode("a", fwd_ms=value)], [])


def test_an_attribute_that_is_no_cost_is_named_with_those_that_are() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_node("a", weight=3.0)
    with pytest.raises(PartitionError, match=r"(?s)node 'a' has an unknown field 'weight'.*fwd_ms"):
        CostGraph.from_networkx(graph)


def test_a_graph_without_directions_is_refused_and_parallel_edges_are_one() -> None:
    with pytest.raises(PartitionError, match="no directions"):
        CostGraph.from_networkx(nx.Graph([("a", "b")]))
    assert list(CostGraph.from_networkx(nx.MultiDiGraph([("a", "b"), ("a", "b")])).edges()) == [
        ("a", "b", True)
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "no 'nodes'"),
        ({"nodes": [{"fwd_ms": 1.0}], "edges": []}, "has no name"),
        ({"nodes": [{"name": "a", "ms": 1.0}], "edges": []}, "unknown field 'ms'"),
        ({"nodes": [{"name": "a"}], "edges": [["a"]]}, "has not two ends"),
    ],
)
def test_json_of_another_form_is_refused_with_what_is_wrong(data: dict[str, object], message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        CostGraph.from_json(data)


@pytest.mark.parametrize("nbytes", [9, -1, float("nan")])
def test_a_tied_parameter_larger_than_what_reads_it_is_refused(nbytes: int) -> None:
    nodes = [CostNode("a", param_bytes=8), CostNode("b", param_bytes=16)]
    with pytest.raises(PartitionError, match="tied parameter w"):
        CostGraph.build(nodes, [], tied=[TiedParam("w", nbytes, ("a", "b"))])


def test_unknown_names_are_refused() -> None:
    with pytest.raises(PartitionError, match="there is no node 'b'"):
        CostGraph.build([CostNode("a")], [("a", "b")])
    with pytest.raises(PartitionError, match="there is no node 'x'"):
        CostGraph.build([CostNode("a")], [], together=[("a", "x")])
    with pytest.raises(PartitionError, match="given twice"):
        CostGraph.build([CostNode("a"), CostNode("a")], [])


def test_printing_counts_a_tied_parameter_once() -> None:
    assert str(diamond()) == "CostGraph: 4 nodes, 4 edges, 6 ms, 24 parameter bytes"
