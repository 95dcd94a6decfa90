"""The best split of one linear order of the items, with transfers and memory: dynamic programming.

::

    order   a b | c d e | f          f[s, j] = min over i < j of max(f[s-1, i], load(i, j))
            0   2       5   6        load(i, j): stage cost of order[i:j]

Exact for the order, so an upper bound for the graph. The loads of all segments come from one pass:
every net adds its cost to a few rectangles of the (start, end) plane, summed up by prefix sums.
Source: Jaffe's and others' chain partition; cost of nets by segments as in Archer et al., ICML 2024.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from autopipe.partition.bounds import simple_bound
from autopipe.partition.problem import Floats, Ints, Problem


class SegmentLoads:
    """Costs and memory of every segment of one order.

    Args:
        problem: The items.
        order: A topological order of them.

    Complexity: O(n^2 + pins) a kind of position, in time and memory.
    """

    def __init__(self, problem: Problem, order: Sequence[int]) -> None:
        """Place the pins of every net on the order."""
        self.problem = problem
        self.order = np.asarray(order, dtype=np.int64)
        self.place = np.empty(problem.n, dtype=np.int64)
        self.place[self.order] = np.arange(problem.n)
        self._pins = [sorted(self.place[list(ends)].tolist()) for ends in problem.pins]
        self._cache: dict[tuple[int, int], Floats] = {}
        self._rectangles()

    def _rectangles(self) -> None:
        """Rectangles (net, sign, i_low, i_high, j_low, j_high) where a net is touched, made, contained."""
        n = self.problem.n
        touched: list[tuple[int, ...]] = []
        made: list[tuple[int, ...]] = []
        for net, ends in enumerate(self._pins):
            at = int(self.place[self.problem.maker[net]])
            before = 0
            for end in ends:
                touched.append((net, 1, before, end, end + 1, n))
                before = end + 1
            made.append((net, 1, 0, at, at + 1, n))
            touched.append((net, -1, 0, at, at + 1, n))
            made.append((net, -1, 0, ends[0], ends[-1] + 1, n))
        self._received = np.array(touched, dtype=np.int64).reshape(-1, 6)
        self._sent = np.array(made, dtype=np.int64).reshape(-1, 6)

    def _sum(self, rectangles: Ints, cost: Floats) -> Floats:
        n = self.problem.n
        plane = np.zeros((n + 2, n + 2))
        net, sign, i0, i1, j0, j1 = rectangles.T
        value = cost[net] * sign
        np.add.at(plane, (i0, j0), value)
        np.add.at(plane, (i1 + 1, j0), -value)
        np.add.at(plane, (i0, j1 + 1), -value)
        np.add.at(plane, (i1 + 1, j1 + 1), value)
        np.cumsum(plane, axis=0, out=plane)
        np.cumsum(plane, axis=1, out=plane)
        return plane[: n + 1, : n + 1]

    def _span(self, cost: Floats) -> Floats:
        prefix: Floats = np.concatenate([[0.0], np.cumsum(cost[self.order])])
        span: Floats = prefix[None, :] - prefix[:, None]
        return span

    def loads(self, stage: int) -> Floats:
        """Cost of every segment as that stage, infinite where it is none or does not fit, `[n+1, n+1]`."""
        kind = self.problem.kind_of_stage[stage]
        key = kind, self.problem.in_flight[stage] if self.problem.limit is not None else 0
        if key not in self._cache:
            self._cache[key] = self._loads(stage, kind)
        return self._cache[key]

    def _loads(self, stage: int, kind: int) -> Floats:
        problem = self.problem
        compute = self._span(problem.weight[kind])
        received = self._sum(self._received, problem.cin[kind])
        sent = self._sum(self._sent, problem.cout[kind])

        def total(compute_ms: Floats) -> Floats:
            if problem.overlap:
                return np.maximum(np.maximum(compute_ms, received), sent)
            return compute_ms + received + sent

        load = total(compute)
        if problem.limit is not None:
            fits, fits_again = self._fits(stage)
            if problem.allow_recompute:
                again = total(compute + self._span(problem.fwd[kind]))
                load = np.where(fits, load, np.where(fits_again, again, np.inf))
            else:
                load[~fits] = np.inf
        size = np.arange(problem.n + 1)
        load[size[:, None] > size[None, :]] = np.inf
        np.fill_diagonal(load, 0.0 if problem.allow_empty else np.inf)
        return load

    def _fits(self, stage: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        problem, limit = self.problem, self.problem.limit
        assert limit is not None
        fixed, saved = self._span(problem.fixed), self._span(problem.saved)
        for tied in problem.tied:
            count = np.zeros(problem.n)
            np.add.at(count, list(tied.items), 1.0)
            fixed = fixed - tied.nbytes * np.maximum(self._span(count) - 1, 0)
        kept = self._sum(self._received, problem.kept)
        flight = problem.in_flight[stage]
        slack = limit + 1e-6 * max(1.0, limit * 1e-6)
        return fixed + flight * (saved + kept) <= slack, fixed + flight * kept + saved <= slack


def split_order(problem: Problem, order: Sequence[int], below: float = np.inf) -> tuple[float, Ints | None]:
    """The best split of one order.

    Args:
        problem: The items.
        order: A topological order of them.
        below: Splits that are not better are of no interest.

    Returns:
        The bottleneck, and the stage of every item; infinity and None where no split of this order is
        allowed and better.

    Complexity: O(k n^2), less where few prefixes can be reached by stages below the limit.
    """
    loads = SegmentLoads(problem, order)
    guess = 1.25 * simple_bound(problem)
    while guess < min(below, _HOPELESS * simple_bound(problem)):
        bottleneck, stage_of = _split_below(problem, loads, guess)
        if stage_of is not None:
            return bottleneck, stage_of
        guess *= 1.6
    return _split_below(problem, loads, below)


def _split_below(problem: Problem, loads: SegmentLoads, below: float) -> tuple[float, Ints | None]:
    """The recursion, over prefixes that stages below the limit can reach and leave enough for the rest."""
    n, k = problem.n, problem.k
    low, high = _allowed_ends(problem, loads.place)
    best = np.full((k + 1, n + 1), np.inf)
    best[0, 0] = 0.0
    back = np.zeros((k + 1, n + 1), dtype=np.int64)
    done = np.concatenate([[0.0], np.cumsum(problem.weight.min(axis=0)[loads.order])])
    slack = 1e-9 * max(1.0, done[-1])
    for s in range(k):
        starts = np.flatnonzero(best[s] < below)
        if not len(starts):
            return np.inf, None
        first, last = max(low[s + 1], int(starts[0])), high[s + 1] + 1
        if np.isfinite(below):
            first = max(first, int(np.searchsorted(done, done[-1] - (k - s - 1) * below - slack)))
            last = min(last, int(np.searchsorted(done, (s + 1) * below + slack, side="right")))
        if first >= last:
            return np.inf, None
        reach = np.maximum(best[s][starts, None], loads.loads(s)[starts, first:last])
        chosen = reach.argmin(axis=0)
        best[s + 1, first:last] = reach[chosen, np.arange(reach.shape[1])]
        back[s + 1, first:last] = starts[chosen]
    if not best[k, n] < below:
        return np.inf, None
    stage_of = np.empty(n, dtype=np.int64)
    end = n
    for s in reversed(range(k)):
        start = int(back[s + 1, end])
        stage_of[loads.order[start:end]] = s
        end = start
    return float(best[k, n]), stage_of


_HOPELESS = 8.0
"""Multiple of the simple bound above which guessing a limit does not pay."""


def _allowed_ends(problem: Problem, place: Ints) -> tuple[list[int], list[int]]:
    """By level: the shortest and the longest prefix that pins allow."""
    low, high = [], []
    for level in range(problem.k + 1):
        inside = place[problem.last < level]
        outside = place[problem.first >= level]
        low.append(int(inside.max()) + 1 if inside.size else 0)
        high.append(int(outside.min()) if outside.size else problem.n)
    return low, high
