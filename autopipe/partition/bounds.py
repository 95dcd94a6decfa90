"""Lower bounds that hold for every partition of the graph, whatever the order."""

from __future__ import annotations

from autopipe.partition.problem import Problem


def simple_bound(problem: Problem) -> float:
    """The larger of an equal share of all compute and the largest single item.

    Args:
        problem: The items.

    Returns:
        Milliseconds that no bottleneck is below.

    Complexity: linear.
    """
    if not problem.n:
        return 0.0
    cheapest = problem.weight.min(axis=0)
    return float(max(cheapest.sum() / problem.k, cheapest.max()))
