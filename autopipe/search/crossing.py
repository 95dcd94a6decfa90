"""What crosses between the stages of a partition, read off the cost graph alone."""

from __future__ import annotations

from autopipe.ir.action import Transfer
from autopipe.ir.cost_graph import CostGraph
from autopipe.ir.partition import Partition


def transfers_between(graph: CostGraph, partition: Partition) -> tuple[Transfer, ...]:
    """List each value once for every stage that reads it elsewhere.

    Args:
        graph: What was cut.
        partition: Where; values that readers compute again are not sent.

    Returns:
        In the order of the nodes, then of the stages. O(edges).

    Example:
        >>> from autopipe.ir.cost_graph import CostNode
        >>> from autopipe.ir.partition import Certificate
        >>> graph = CostGraph.build([CostNode("a", out_bytes=8), CostNode("b")], [("a", "b")])
        >>> cut = Partition({"a": 0, "b": 1}, (0, 1), (), Certificate("by hand", 1.0, 0.0, ""))
        >>> [str(transfer) for transfer in transfers_between(graph, cut)]
        ['a: stage 0 -> 1, 8 bytes forward, no gradient back']
    """
    stage_of, again = partition.stage_of, set(partition.recomputed)
    readers: dict[str, set[int]] = {name: set() for name in graph.graph}
    makers: dict[str, list[str]] = {name: [] for name in again}
    for maker, reader, data in graph.edges():
        if data:
            readers[maker].add(stage_of[reader])
            if reader in again:
                makers[reader].append(maker)
    for name in reversed([name for name in graph.graph if name in again]):
        for maker in makers[name]:
            readers[maker] |= readers[name]
    return tuple(
        Transfer(node.name, stage_of[node.name], stage, node.out_bytes, node.grad_bytes)
        for node in graph.nodes
        if node.name not in again
        for stage in sorted(readers[node.name] - {stage_of[node.name]})
    )
