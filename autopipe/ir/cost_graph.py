"""The cost graph: what every operation costs and what depends on what, free of torch.

::

    CostGraph = networkx.DiGraph of names           attribute "cost" of a node: CostNode
                  edge attribute "data": True       the reader needs the value: it crosses if cut
                                         False      order only: nothing is sent
              + together: groups of names that share one stage
              + tied: parameters that several nodes read
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import networkx as nx

from autopipe.errors import PartitionError
from autopipe.ir.cost_node import CostNode, TiedParam

__all__ = ["CostGraph", "CostNode", "Edge", "Graph", "TiedParam"]

Graph: TypeAlias = "nx.DiGraph[str]"
Edge: TypeAlias = tuple[str, str] | tuple[str, str, bool]


@dataclass(frozen=True, slots=True)
class CostGraph:
    """A priced operator graph in program order, which is a topological order.

    Example:
        >>> graph = CostGraph.build(
        ...     [CostNode("a", fwd_ms=1, out_bytes=4), CostNode("b", fwd_ms=2)], [("a", "b")])
        >>> print(graph)
        CostGraph: 2 nodes, 1 edge, 3 ms, 0 parameter bytes
    """

    graph: Graph
    together: tuple[tuple[str, ...], ...] = ()
    tied: tuple[TiedParam, ...] = ()

    @classmethod
    def build(
        cls,
        nodes: Iterable[CostNode],
        edges: Iterable[Edge],
        together: Iterable[Iterable[str]] = (),
        tied: Iterable[TiedParam] = (),
    ) -> CostGraph:
        """Make a cost graph from nodes in program order and their edges, and verify it.

        Args:
            nodes: In program order.
            edges: ``(maker, reader)``, or ``(before, after, False)`` where nothing is sent.
            together: Groups of node names that share a stage.
            tied: Parameters that several nodes read.

        Returns:
            The verified graph.

        Raises:
            PartitionError: See :meth:`verify`; also a node that is given twice.
        """
        graph: Graph = nx.DiGraph()
        for node in nodes:
            if node.name in graph:
                raise PartitionError(f"node {node.name!r} is given twice.")
            graph.add_node(node.name, cost=node)
        for source, target, *data in edges:
            for end in (source, target):
                if end not in graph:
                    raise PartitionError(f"edge {source!r} -> {target!r}: there is no node {end!r}.")
            known = graph.edges[source, target]["data"] if graph.has_edge(source, target) else False
            graph.add_edge(source, target, data=known or (data[0] if data else True))
        built = cls(graph, tuple(tuple(group) for group in together), tuple(tied))
        built.verify()
        return built

    @classmethod
    def from_networkx(
        cls, graph: Graph, together: Iterable[Iterable[str]] = (), tied: Iterable[TiedParam] = ()
    ) -> CostGraph:
        """Make a cost graph from a networkx graph whose node attributes are the fields of CostNode.

        Nodes are named ``str(node)``. The order is networkx's own where that is topological, else a
        topological order of it.

        Args:
            graph: Node attributes named as CostNode's fields (or one attribute ``cost``, a CostNode);
                edge attribute ``data`` may be False.
            together: Groups of node names that share a stage.
            tied: Parameters that several nodes read.

        Returns:
            The verified graph.

        Raises:
            PartitionError: See :meth:`verify`; also an undirected graph, or an attribute of a node that
                is no field of CostNode.

        Example:
            >>> import networkx as nx
            >>> g = nx.DiGraph(); g.add_node("a", fwd_ms=1.0); g.add_edge("a", "b")
            >>> [node.name for node in CostGraph.from_networkx(g).nodes]
            ['a', 'b']
        """
        if not graph.is_directed():
            raise PartitionError("the networkx graph has no directions.", remedy="networkx.DiGraph.")
        place = {node: index for index, node in enumerate(graph)}
        order = list(graph)
        if any(place[a] >= place[b] for a, b in graph.edges()) and nx.is_directed_acyclic_graph(graph):
            order = list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))
        nodes = []
        for node in order:
            fields = dict(graph.nodes[node])
            nodes.append(fields["cost"] if "cost" in fields else CostNode.of({"name": str(node), **fields}))
        edges = ((str(a), str(b), bool(data)) for a, b, data in graph.edges(data="data", default=True))
        return cls.build(nodes, edges, together, tied)

    @property
    def nodes(self) -> tuple[CostNode, ...]:
        """All nodes in program order."""
        return tuple(cost for _, cost in self.graph.nodes(data="cost"))

    def node(self, name: str) -> CostNode:
        """The node of that name.

        Raises:
            PartitionError: There is none.
        """
        if name not in self.graph:
            raise PartitionError(f"there is no node {name!r}.")
        cost: CostNode = self.graph.nodes[name]["cost"]
        return cost

    def edges(self) -> Iterator[tuple[str, str, bool]]:
        """All edges ``(maker, reader, data)`` in the order of their makers."""
        yield from self.graph.edges(data="data", default=True)

    def verify(self) -> None:
        """Raise unless the graph is acyclic, in program order, finite, and its groups exist.

        Raises:
            PartitionError: Names the offending node, edge, cycle or group.
        """
        for name, cost in self.graph.nodes(data="cost"):
            if not isinstance(cost, CostNode) or cost.name != name:
                raise PartitionError(f"node {name!r} has no cost of its own name.")
            cost.verify()
        place = {name: index for index, name in enumerate(self.graph)}
        backward = [(a, b) for a, b in self.graph.edges if place[a] >= place[b]]
        if backward:
            self._refuse_cycle_or_order(*backward[0])
        for group in (*self.together, *(tied.nodes for tied in self.tied)):
            for name in group:
                if name not in self.graph:
                    raise PartitionError(f"group {list(group)[:4]}: there is no node {name!r}.")
        for tied in self.tied:
            tied.verify()
            small = next((x for x in map(self.node, tied.nodes) if x.param_bytes < tied.nbytes), None)
            if small is not None:
                raise PartitionError(
                    f"tied parameter {tied}: node {small.name!r} has param_bytes = {small.param_bytes}.",
                    why="They include the tied parameter.",
                )

    def _refuse_cycle_or_order(self, maker: str, reader: str) -> None:
        if not nx.is_directed_acyclic_graph(self.graph):
            cycle = [edge[0] for edge in nx.find_cycle(self.graph)]
            path = " -> ".join([*cycle, cycle[0]])
            raise PartitionError("the cost graph has a cycle.", where=path)
        raise PartitionError(
            f"edge {maker!r} -> {reader!r} goes against the program order.",
            remedy="give the nodes in a topological order, or use CostGraph.from_networkx.",
        )

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types from which :meth:`from_json` makes an equal graph."""
        return {
            "nodes": [_given(node) for node in self.nodes],
            "edges": [[a, b] if data else [a, b, False] for a, b, data in self.edges()],
            "together": [list(group) for group in self.together],
            "tied": [{**_given(tied), "nodes": list(tied.nodes)} for tied in self.tied],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CostGraph:
        """The graph that :meth:`to_json` wrote; verified.

        Raises:
            PartitionError: See :meth:`verify`; also a part that is missing or has another form.
        """
        for part in ("nodes", "edges"):
            if part not in data:
                raise PartitionError(f"the cost graph has no {part!r}.")
        wrong = next((edge for edge in data["edges"] if len(edge) not in (2, 3)), None)
        if wrong is not None:
            raise PartitionError(f"edge {wrong} has not two ends.", remedy='["a", "b"] or ["a", "b", false].')
        return cls.build(
            (CostNode.of(node) for node in data["nodes"]),
            (tuple(edge) for edge in data["edges"]),
            data.get("together", ()),
            (TiedParam(**{**tied, "nodes": tuple(tied["nodes"])}) for tied in data.get("tied", ())),
        )

    def __eq__(self, other: object) -> bool:
        """Equal nodes, edges and groups, in the same order."""
        return isinstance(other, CostGraph) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        """Hash of the node names."""
        return hash(tuple(self.graph))

    def __len__(self) -> int:
        """Number of nodes."""
        return int(self.graph.number_of_nodes())

    def __str__(self) -> str:
        """One line: sizes and totals."""
        n_edges = self.graph.number_of_edges()
        total_ms = math.fsum(node.compute_ms for node in self.nodes)
        params = sum(node.param_bytes for node in self.nodes)
        params -= sum(tied.nbytes * (len(tied.nodes) - 1) for tied in self.tied)
        edges = f"{n_edges} edge{'s' if n_edges != 1 else ''}"
        return f"CostGraph: {len(self)} nodes, {edges}, {total_ms:g} ms, {params} parameter bytes"


def _given(cost: CostNode | TiedParam) -> dict[str, Any]:
    return {field: value for field, value in asdict(cost).items() if value is not None}
