"""The best split of one linear order of the items, with transfers and memory: dynamic programming.

::

    order   a b | c d e | f          f[s, j] = min over i < j of max(f[s-1, i], load(i, j))
            0   2       5   6        load(i, j): stage cost of order[i:j]

Exact for the order, so an upper bound for the graph.
Source: Jaffe's and others' chain partition; cost of nets by segments as in Archer et al., ICML 2024.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autopipe.partition.bounds import simple_bound
from autopipe.partition.problem import Ints, Problem
from autopipe.partition.segments import Segments, windows_of

_HOPELESS = 8.0
"""Multiple of the simple bound above which guessing a limit does not pay."""


def split_order(problem: Problem, order: Sequence[int], below: float = np.inf) -> tuple[float, Ints | None]:
    """The best split of one order.

    Args:
        problem: The items.
        order: A topological order of them.
        below: Splits that are not better are of no interest.

    Returns:
        The bottleneck, and the stage of every item; infinity and None where no split of this order is
        allowed and better.

    Complexity: O(k n L) where segments of L items reach the limit, about k n^2 / k.
    """
    places = np.asarray(order, dtype=np.int64)
    bound = simple_bound(problem)
    guess = 1.25 * bound
    while guess < min(below, _HOPELESS * bound):
        bottleneck, stage_of = _split_below(problem, places, guess)
        if stage_of is not None:
            return bottleneck, stage_of
        guess *= 1.6
    return _split_below(problem, places, below)


def _split_below(problem: Problem, order: Ints, below: float) -> tuple[float, Ints | None]:
    """The recursion, over prefixes that stages below the limit can reach and leave enough for the rest."""
    n, k = problem.n, problem.k
    segments = Segments(problem, order, below)
    best = np.where(np.arange(n + 1) == 0, 0.0, np.inf)
    back = np.zeros((k + 1, n + 1), dtype=np.int64)
    for s, (first, last) in enumerate(ends_within(segments, below)):
        if first >= last:
            return np.inf, None
        begins = windows_of(best, segments.width)[first:last]
        reach = np.maximum(begins, segments.loads(s)[first:last])
        chosen = reach.argmin(axis=1)
        best = np.full(n + 1, np.inf)
        best[first:last] = reach[np.arange(last - first), chosen]
        best[best >= below] = np.inf
        back[s + 1, first:last] = np.arange(first, last) - chosen
        if not np.isfinite(best).any():
            return np.inf, None
    if not best[n] < below:
        return np.inf, None
    return float(best[n]), stages_along(order, back)


def stages_along(order: Ints, back: Ints) -> Ints:
    """The stage of every item, by where each prefix's last stage begins: ``back`` is `[k + 1, n + 1]`."""
    stage_of = np.empty(len(order), dtype=np.int64)
    end = len(order)
    for s in reversed(range(len(back) - 1)):
        start = int(back[s + 1, end])
        stage_of[order[start:end]] = s
        end = start
    return stage_of


def ends_within(segments: Segments, limit: float) -> list[tuple[int, int]]:
    """Prefixes that stages within a limit can reach and leave enough for the rest, as pins allow.

    Args:
        segments: The order.
        limit: What a stage may weigh, ms; may be infinite.

    Returns:
        For each stage the shortest prefix that it may end, and one more than the longest; O(k log n).
    """
    k, done = segments.problem.k, segments.done
    low, high = allowed_ends(segments.problem, segments.place)
    if not np.isfinite(limit):
        return [(first, last + 1) for first, last in zip(low[1:], high[1:], strict=True)]
    slack = 1e-9 * max(1.0, done[-1])
    level = np.arange(1, k + 1)
    least = np.searchsorted(done, done[-1] - (k - level) * limit - slack)
    most = np.searchsorted(done, level * limit + slack, side="right")
    ends = zip(np.maximum(low[1:], least).tolist(), np.minimum(high[1:], most - 1).tolist(), strict=True)
    return [(first, last + 1) for first, last in ends]


def allowed_ends(problem: Problem, place: Ints) -> tuple[list[int], list[int]]:
    """By level: the shortest and the longest prefix that pins allow."""
    low, high = [], []
    for level in range(problem.k + 1):
        inside = place[problem.last < level]
        outside = place[problem.first >= level]
        low.append(int(inside.max()) + 1 if inside.size else 0)
        high.append(int(outside.min()) if outside.size else problem.n)
    return low, high
