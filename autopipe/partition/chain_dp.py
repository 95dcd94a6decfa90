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
    cuts, ends = cuts_within(problem, order, below)
    segments = Segments(problem, order, below, cuts)
    n, k = segments.n, problem.k
    best = np.where(np.arange(n + 1) == 0, 0.0, np.inf)
    back = np.zeros((k + 1, n + 1), dtype=np.int64)
    for s, (first, last) in enumerate(ends):
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
    return float(best[n]), stages_along(order, cuts, back)


def stages_along(order: Ints, cuts: Ints, back: Ints) -> Ints:
    """The stage of every item, by the cut where the last stage before each begins: `[k + 1, cuts]`."""
    stage_of = np.empty(len(order), dtype=np.int64)
    end = len(cuts) - 1
    for s in reversed(range(len(back) - 1)):
        start = int(back[s + 1, end])
        stage_of[order[cuts[start] : cuts[end]]] = s
        end = start
    return stage_of


def cuts_within(problem: Problem, order: Ints, limit: float) -> tuple[Ints, list[tuple[int, int]]]:
    """Where stages within a limit can end so that enough is left for the rest, as pins allow.

    ::

        order    a b c d e f g h      the first of two stages may end behind d or e:   cuts 0 4 5 8
                 |_______^ ^_____|

    Args:
        problem: The items.
        order: A topological order of them.
        limit: What a stage may weigh, ms; may be infinite.

    Returns:
        The cuts, 0 and n among them, and for each stage the first of them that it may end at, and one more
        than the last; O(n + k log n).
    """
    n, k = problem.n, problem.k
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    low, high = map(np.array, allowed_ends(problem, place))
    done = np.concatenate([[0.0], np.cumsum(problem.weight.min(axis=0)[order])])
    first, last = low[1:], high[1:] + 1
    if np.isfinite(limit):
        slack, level = 1e-9 * max(1.0, done[-1]), np.arange(1, k + 1)
        first = np.maximum(first, np.searchsorted(done, done[-1] - (k - level) * limit - slack))
        last = np.minimum(last, np.searchsorted(done, level * limit + slack, side="right"))
    allowed = np.zeros(n + 1, dtype=bool)
    allowed[[0, n]] = True
    for begin, end in zip(first[:-1].tolist(), last[:-1].tolist(), strict=True):
        allowed[begin:end] = True
    cuts = np.flatnonzero(allowed)
    ends = zip(np.searchsorted(cuts, first).tolist(), np.searchsorted(cuts, last).tolist(), strict=True)
    return cuts, list(ends)


def allowed_ends(problem: Problem, place: Ints) -> tuple[list[int], list[int]]:
    """By level: the shortest and the longest prefix that pins allow."""
    low, high = [], []
    for level in range(problem.k + 1):
        inside = place[problem.last < level]
        outside = place[problem.first >= level]
        low.append(int(inside.max()) + 1 if inside.size else 0)
        high.append(int(outside.min()) if outside.size else problem.n)
    return low, high
