"""Several stages a rank: the split whose slowest rank is as fast as can be, and what is proven of it.

::

    stage     0    1    2    3          rank 0 has stages 0 and 2, rank 1 has 1 and 3
    rank      0    1    0    1
    ms        5    3    1    4          the slowest rank takes 7: a large stage may go with a small one

Stages of one rank share its memory and its time as suits them. Three numbers hold for every split: the
bound of a single stage, the least sum of all stages shared out equally, and, on small graphs, what a walk
over all downsets with the loads of every rank finds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autopipe.ir.partition import Certificate, Partition
from autopipe.partition.baselines import to_partition
from autopipe.partition.incumbent import RELATIVE, by_stage
from autopipe.partition.objective import Objective
from autopipe.partition.problem import Ints, Problem
from autopipe.partition.rank_cuts import balanced_cuts
from autopipe.partition.rank_labels import best_on_ranks
from autopipe.partition.rank_loads import RankLoads, Spread
from autopipe.partition.search import Found, leanest, search
from autopipe.partition.step_time import search_step_time

_MANY = 2500
"""Items above which only the order of the best split is tried."""

_LEAN_BUDGET = 20_000_000
"""Work spent at most on a split that holds little."""

_PROOF_BUDGET = 3_000_000
"""Work spent at most on each of the two bounds that are not those of single stages."""


def least_on_ranks(
    prices: Objective, problem: Problem, n_ranks: int, rank_limit: int | None, budget: int
) -> Partition | None:
    """The split with the least time of the slowest rank.

    Args:
        prices: The prices.
        problem: The items; its memory limit is the equal share of a stage.
        n_ranks: Ranks; stage s runs on rank ``s % n_ranks``.
        rank_limit: What the stages of a rank may hold together.
        budget: Work, as in :func:`autopipe.partition.search.search`.

    Returns:
        The partition; None where no split fits, or none was found that does.

    Complexity: two searches for stages, then cuts of a few orders moved by ones and twos, then a walk
    with a budget of its own.
    """
    alone = replace(problem, limit=None if rank_limit is None else float(rank_limit))
    first = search(alone, budget)
    if first.stage_of is None:
        return None
    loads = RankLoads(problem, n_ranks, rank_limit)
    share_ms, few_cuts = _from_step_time(alone, first, n_ranks, budget)
    best, method = _by_orders(
        problem, loads, [(first.method, first.stage_of), ("step time", few_cuts)], budget
    )
    lower = max(first.lower_bound_ms, share_ms, float(problem.weight.min(axis=0).sum()) / n_ranks)
    stopped = "virtual stages: bound by stages and by equal shares"
    if budget and (best is None or lower < best.slowest_ms * (1 - RELATIVE)):
        proof = best_on_ranks(
            loads, np.inf if best is None else best.slowest_ms, lower, min(budget, _PROOF_BUDGET)
        )
        lower = max(lower, proof.lower_bound_ms)
        if proof.spread is not None:
            best, method = proof.spread, "downsets"
    return None if best is None else _partition(prices, problem, loads, best, (method, lower, stopped))


def _by_orders(
    problem: Problem, loads: RankLoads, starts: list[tuple[str, Ints | None]], budget: int
) -> tuple[Spread | None, str]:
    """Move the cuts of a few splits along their orders until no rank gets faster."""
    if problem.limit is not None:
        shared = search(problem, budget)
        lean = leanest(problem, min(budget, _LEAN_BUDGET)) if shared.stage_of is None else shared
        starts.append((lean.method, lean.stage_of))
    best: Spread | None = None
    method = "none"
    for name, stage_of in starts:
        if stage_of is None:
            continue
        orders = [np.array(by_stage(stage_of))]
        if problem.n <= _MANY:
            orders.append(np.arange(problem.n))
        for order in orders:
            spread = balanced_cuts(loads, order, stage_of)
            if spread is not None and (best is None or spread.slowest_ms < best.slowest_ms * (1 - RELATIVE)):
                best, method = spread, name
    return best, method


def _from_step_time(problem: Problem, first: Found, n_ranks: int, budget: int) -> tuple[float, Ints]:
    """What the slowest rank takes at least, as sum and maximum of all stages are at least so much.

    Of R ranks that take T at most, all stages together take no more than R T, and none takes more than T.
    So (R + 1) T is no less than the least sum of all stages and once the slowest, which is the step time
    of two microbatches.
    """
    found = search_step_time(problem, first, 2, min(budget, _PROOF_BUDGET))
    return found.bound_ms / (n_ranks + 1), found.stage_of


def _partition(
    prices: Objective, problem: Problem, loads: RankLoads, best: Spread, known: tuple[str, float, str]
) -> Partition:
    method, lower, stopped = known
    limits = tuple(0 if again else loads.everything for again in best.again)
    priced = Objective(
        prices.graphs, prices.hardware, prices.n_stages, replace(prices.rules, stage_limits=limits)
    )
    partition = to_partition(priced, problem, best.stage_of, method, lower, stopped)
    ranks = tuple(stage % loads.n_ranks for stage in range(problem.k))
    totals = np.zeros(loads.n_ranks)
    np.add.at(totals, list(ranks), [stage.total_ms for stage in partition.stages])
    slowest = float(totals.max())
    if lower >= slowest * (1 - RELATIVE):
        lower, stopped = slowest, "optimal"
    return replace(partition, rank_of_stage=ranks, certificate=Certificate(method, slowest, lower, stopped))
