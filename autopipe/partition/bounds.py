"""Lower bounds that hold for every partition of the graph, whatever the order."""

from __future__ import annotations

from autopipe.partition.problem import Problem


def simple_bound(problem: Problem) -> float:
    """The larger of a fair share of all compute and the largest single item.

    Kinds of position share in proportion to their speed: with r_c = 1 / (all work on kind c), every stage has
    r_c x time <= r_c x T, so T is at least the sum over items of the least r_c x time, by the sum of all r_c.

    Args:
        problem: The items.

    Returns:
        Milliseconds that no bottleneck is below.

    Complexity: linear.
    """
    if not problem.n:
        return 0.0
    cheapest = problem.weight.min(axis=0)
    work = problem.weight.sum(axis=1)
    if len(work) == 1 or not work.all():
        return float(max(cheapest.sum() / problem.k, cheapest.max()))
    rates = 1.0 / work
    share = (problem.weight * rates[:, None]).min(axis=0).sum() / rates[list(problem.kind_of_stage)].sum()
    return float(max(share, cheapest.sum() / problem.k, cheapest.max()))
