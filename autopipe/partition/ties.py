"""Of splits with equal bottlenecks: the least sum of stage times, then the fewest bytes.

::

    a | b c       both have the bottleneck 5, but the second sends less:        a b | c
    3   5         stages that are not the slowest are not all the same          5     3
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from autopipe.ir.partition import Partition
from autopipe.partition.baselines import to_partition
from autopipe.partition.incumbent import RELATIVE, by_stage
from autopipe.partition.objective import Objective
from autopipe.partition.order_sum import least_sum_of_order
from autopipe.partition.problem import Ints, Problem
from autopipe.partition.search import Found
from autopipe.partition.tie_chain import least_of_equals

_MANY = 2500
"""Items above which the order of the split that was found is the only one that is tried."""

_FEW = 300
"""Items up to which all splits of the same bottleneck are gone through."""

_BUDGET = 1_000_000
"""Work that may take; windows come on top, some 20 ms a stage."""


def best_of_equals(prices: Objective, problem: Problem, found: Found, budget: int) -> Partition:
    """Lay out what a search found, or a split of the same bottleneck that costs less in sum.

    Args:
        prices: The prices.
        problem: The items.
        found: The split with the least bottleneck.
        budget: Work that the search may do; 0: linear orders only.

    Returns:
        The best of all on small graphs, else of those that keep to the order of the split that was found or
        to that of the program.

    Complexity: one dynamic programme an order, O(k n L) where segments of L items reach the bottleneck; on
    small graphs one more over the downsets that a split of that bottleneck can have.
    """
    assert found.stage_of is not None
    splits = [found.stage_of, *_of_orders(problem, found.stage_of, found.bottleneck_ms)]
    if budget and problem.n <= _FEW:
        limit = found.bottleneck_ms * (1 + RELATIVE / 2)
        exact = least_of_equals(prices, problem, limit, min(budget, _BUDGET))
        splits += [] if exact is None else [exact]
    laid_out = [
        to_partition(prices, problem, split, found.method, found.lower_bound_ms, found.stopped_by)
        for split in splits
    ]
    first = laid_out[0].certificate.bottleneck_ms * (1 + RELATIVE)
    return min((each for each in laid_out if each.certificate.bottleneck_ms <= first), key=_sum_and_bytes)


def _of_orders(problem: Problem, stage_of: Ints, bottleneck_ms: float) -> Iterator[Ints]:
    orders = [by_stage(stage_of)]
    if problem.n <= _MANY and orders[0] != list(range(problem.n)):
        orders.append(list(range(problem.n)))
    for order in orders:
        split = least_sum_of_order(problem, np.array(order), bottleneck_ms * (1 + RELATIVE / 2))
        if split is not None:
            yield split


def _sum_and_bytes(partition: Partition) -> tuple[float, int]:
    total = math.fsum(stage.total_ms for stage in partition.stages)
    return float(f"{total:.10g}"), sum(stage.recv_bytes for stage in partition.stages)
