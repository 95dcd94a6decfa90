"""A partition by step time: what ``solve`` does for that objective."""

from __future__ import annotations

import math
from dataclasses import replace

from autopipe.ir.partition import Partition
from autopipe.partition.baselines import to_partition
from autopipe.partition.objective import Objective
from autopipe.partition.problem import Problem
from autopipe.partition.ranks import on_ranks
from autopipe.partition.search import Found
from autopipe.partition.step_time import search_step_time


def least_step(
    prices: Objective, problem: Problem, first: Found, n_microbatches: int, n_ranks: int, budget: int
) -> Partition:
    """The split with the least step time, with both certificates.

    Args:
        prices: The prices.
        problem: The items.
        first: The split with the least bottleneck.
        n_microbatches: Of a step.
        n_ranks: Ranks that share the stages.
        budget: Work, as in :func:`autopipe.partition.search.search`.

    Returns:
        The partition. With virtual stages the split is that for one stage a rank, and the bound is that of
        the ranks.
    """
    found = search_step_time(problem, first, n_microbatches, budget)
    partition = to_partition(
        prices, problem, found.stage_of, found.method, first.lower_bound_ms, found.stopped_by
    )
    partition = on_ranks(partition, n_ranks)
    certificate, more = partition.certificate, n_microbatches - 1
    step_ms = math.fsum(stage.total_ms for stage in partition.stages) + more * certificate.bottleneck_ms
    bound_ms = found.bound_ms
    if n_ranks < problem.k:
        bound_ms = float(problem.weight.min(axis=0).sum()) + more * certificate.lower_bound_ms
    if found.stopped_by == "optimal" and n_ranks == problem.k:
        bound_ms = step_ms  # sums in another order
    certificate = replace(
        certificate,
        objective="step_time",
        step_time_ms=step_ms,
        step_time_bound_ms=min(bound_ms, step_ms),
    )
    return replace(partition, certificate=certificate)
