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
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

import networkx as nx

from autopipe.errors import PartitionError

Graph: TypeAlias = "nx.DiGraph[str]"
Edge: TypeAlias = tuple[str, str] | tuple[str, str, bool]


@dataclass(frozen=True, slots=True)
class CostNode:
    """One operation: its times for one microbatch, and the bytes it makes, owns and keeps.

    Args:
        name: Unique in its graph.
        fqn: The module that the operation belongs to, ``""`` at the top.
        fwd_ms: Forward time.
        bwd_input_ms: Time of the gradient with respect to the inputs.
        bwd_weight_ms: Time of the gradient with respect to the parameters.
        out_bytes: What crosses forward if the value is cut, once per reading stage.
        grad_bytes: What comes back for it; 0 where no gradient flows.
        param_bytes: Parameters that the operation reads, tied ones included.
        saved_bytes: What is kept for the backward of one microbatch.
        recomputable: Running it twice gives the same value and has no effect.
        trained_bytes: Of ``param_bytes``, those that get a gradient; None: all of them.
        n_trained: How many elements those are; None: one every four bytes.
    """

    name: str
    fqn: str = ""
    fwd_ms: float = 0
    bwd_input_ms: float = 0
    bwd_weight_ms: float = 0
    out_bytes: int = 0
    grad_bytes: int = 0
    param_bytes: int = 0
    saved_bytes: int = 0
    recomputable: bool = False
    trained_bytes: int | None = None
    n_trained: int | None = None

    @property
    def bwd_ms(self) -> float:
        """Both halves of the backward."""
        return self.bwd_input_ms + self.bwd_weight_ms

    @property
    def compute_ms(self) -> float:
        """Forward and backward."""
        return self.fwd_ms + self.bwd_input_ms + self.bwd_weight_ms

    def verify(self) -> None:
        """Raise unless every cost is a finite number that is not negative.

        Raises:
            PartitionError: A cost is negative, infinite or NaN; names the node and the field.
        """
        for field in _COSTS:
            value = getattr(self, field)
            if value is not None and (not math.isfinite(value) or value < 0):
                raise PartitionError(
                    f"node {self.name!r} has {field} = {value}.",
                    why="A cost is a finite number, zero or more.",
                )


_COSTS = tuple(each.name for each in fields(CostNode) if each.name not in ("name", "fqn", "recomputable"))


@dataclass(frozen=True, slots=True)
class TiedParam:
    """A parameter that several nodes read: a stage that holds several of them counts it once.

    Args:
        name: Its FQN.
        nbytes: Its size.
        nodes: The nodes that read it; ``param_bytes`` of each includes it.
        trained_bytes: As in `CostNode`.
        n_trained: As in `CostNode`.
    """

    name: str
    nbytes: int
    nodes: tuple[str, ...]
    trained_bytes: int | None = None
    n_trained: int | None = None

    def verify(self) -> None:
        """Raise PartitionError if the size is negative or a node is named twice."""
        if self.nbytes < 0 or len(set(self.nodes)) != len(self.nodes):
            raise PartitionError(f"tied parameter {self}: a negative size, or a node named twice.")

    def __str__(self) -> str:
        """Print as ``embed.weight, 4096 bytes, read by embed, head``."""
        return f"{self.name}, {self.nbytes} bytes, read by {', '.join(self.nodes)}"


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
            PartitionError: See :meth:`verify`.

        Example:
            >>> import networkx as nx
            >>> g = nx.DiGraph(); g.add_node("a", fwd_ms=1.0); g.add_edge("a", "b")
            >>> [node.name for node in CostGraph.from_networkx(g).nodes]
            ['a', 'b']
        """
        place = {node: index for index, node in enumerate(graph)}
        order = list(graph)
        if any(place[a] >= place[b] for a, b in graph.edges) and nx.is_directed_acyclic_graph(graph):
            order = list(nx.lexicographical_topological_sort(graph, key=place.__getitem__))
        nodes = []
        for node in order:
            fields = dict(graph.nodes[node])
            nodes.append(fields["cost"] if "cost" in fields else CostNode(**{"name": str(node), **fields}))
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
        for tied in self.tied:
            tied.verify()
        for group in (*self.together, *(tied.nodes for tied in self.tied)):
            for name in group:
                if name not in self.graph:
                    raise PartitionError(f"group {list(group)[:4]}: there is no node {name!r}.")

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
        """The graph that :meth:`to_json` wrote; verified."""
        return cls.build(
            (CostNode(**node) for node in data["nodes"]),
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
