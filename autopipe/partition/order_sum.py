"""The split of one linear order with the least sum of stage costs, none above a limit.

::

    order   a b | c d e | f          f[s, j] = min over i < j of f[s-1, i] + load(i, j),  load(i, j) <= limit
"""

from __future__ import annotations

import numpy as np

from autopipe.partition.chain_dp import cuts_within, stages_along
from autopipe.partition.problem import Ints, Problem
from autopipe.partition.segments import Segments, windows_of


def least_sum_of_order(problem: Problem, order: Ints, limit: float) -> Ints | None:
    """Find that split.

    Args:
        problem: The items.
        order: A topological order of them.
        limit: What a stage may cost, ms.

    Returns:
        The stage of every item; None where no split of this order stays within the limit.

    Complexity: O(k n L) where segments of L items reach the limit.
    """
    cuts, ends = cuts_within(problem, order, limit)
    segments = Segments(problem, order, limit, cuts)
    n, k = segments.n, problem.k
    best = np.where(np.arange(n + 1) == 0, 0.0, np.inf)
    back = np.zeros((k + 1, n + 1), dtype=np.int64)
    for s, (first, last) in enumerate(ends):
        if first >= last:
            return None
        loads = segments.loads(s)[first:last]
        reach = windows_of(best, segments.width)[first:last] + np.where(loads <= limit, loads, np.inf)
        chosen = reach.argmin(axis=1)
        best = np.full(n + 1, np.inf)
        best[first:last] = reach[np.arange(last - first), chosen]
        back[s + 1, first:last] = np.arange(first, last) - chosen
    if not np.isfinite(best[n]):
        return None
    return stages_along(order, cuts, back)
