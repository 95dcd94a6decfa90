"""Cuts of one linear order moved by ones and twos until no rank gets faster.

::

    order   a b | c d | e f g | h       stage s = what lies between cut s and cut s + 1
    cuts    0   2     4       7  8      moving cut 4 to 5 changes stages 1 and 2, and so two ranks

What is made small is the sum of high powers of the ranks' times, so that a rank that is not the slowest
counts too and no plateau stops the search.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from autopipe.partition.chain_dp import allowed_ends
from autopipe.partition.problem import Floats, Ints
from autopipe.partition.rank_loads import RankLoads, Spread
from autopipe.partition.segments import Segments

_POWER = 24
"""High enough for the slowest rank to count most."""

_NEAR = 24
"""So many places to each side a cut is moved together with another."""

_APART = 4
"""Cuts that are moved together are so near in number."""

_MOVES = 400
"""Moves made, at most."""

_WIDE = 3.0
"""Multiple of the slowest rank beyond which stages are not looked at."""

_OVERFULL = 1e30
"""Score of a rank that holds more than it may, times how much more."""


def balanced_cuts(loads: RankLoads, order: Ints, stage_of: Ints) -> Spread | None:
    """Improve a split along an order.

    Args:
        loads: The prices.
        order: A topological order of the items.
        stage_of: Where to start; only the sizes of its stages count.

    Returns:
        The split; None if a rank holds too much, or a pin does not hold.

    Complexity: O(k n) a round for single cuts, O(k w^2) for pairs within w places.
    """
    sizes = np.bincount(stage_of, minlength=loads.problem.k)
    work = _Cuts(loads, order, np.concatenate([[0], np.cumsum(sizes)]))
    singles = [(cut,) for cut in range(1, loads.problem.k)]
    pairs = [(a, b) for a, b in combinations(range(1, loads.problem.k), 2) if b - a <= _APART]
    moves = 0
    while moves < _MOVES:
        made = sum(work.move(cuts) for cuts in singles) or sum(work.move(cuts) for cuts in pairs)
        moves += made
        if not made:
            break
    return work.spread()


class _Cuts:
    """Cuts of one order, the time and bytes of every stage between them, and how good that is."""

    def __init__(self, loads: RankLoads, order: Ints, cuts: Ints) -> None:
        self.loads, self.order = loads, order
        problem = loads.problem
        fair = float(problem.weight.max(axis=0).sum()) / loads.n_ranks
        largest = float(problem.weight.max()) + float((problem.cin + problem.cout).max(initial=0.0))
        self.scale = max(fair + largest, 1e-300)
        self.times = [Segments(way.times, order, _WIDE * self.scale) for way in loads.ways]
        self.held = [Segments(way.held, order, loads.limit) for way in loads.ways if way.held is not None]
        self.low, self.high = allowed_ends(problem, self.times[0].place)
        self.cuts = np.clip(cuts, self.low, self.high)
        self.score = np.inf

    def move(self, which: tuple[int, ...]) -> bool:
        """Move some cuts to where the ranks are fastest; says whether that was better."""
        cuts, places = self.cuts, {}
        for at, cut in enumerate(which):
            low, high = max(self.low[cut], int(cuts[cut - 1])), min(self.high[cut], int(cuts[cut + 1]))
            if len(which) > 1:
                low = max(self.low[cut], int(cuts[cut]) - _NEAR)
                high = min(self.high[cut], int(cuts[cut]) + _NEAR)
            shape = [1] * len(which)
            shape[at] = -1
            places[cut] = np.arange(low, high + 1).reshape(shape)
        score = self._scores(places)
        if not score.size or not score.min() < self.score * (1 - 1e-9):
            return False
        best = np.unravel_index(int(score.argmin()), score.shape)
        self.score = float(score[best])
        self.cuts = cuts.copy()
        for at, cut in enumerate(which):
            self.cuts[cut] = places[cut].ravel()[best[at]]
        return True

    def _scores(self, places: dict[int, Ints]) -> Floats:
        """How good the ranks would be with cuts at other places."""
        stages, n_ranks = range(self.loads.problem.k), self.loads.n_ranks
        ms: list[Floats] = [np.zeros(1)] * n_ranks
        held: list[Floats] = [np.zeros(1)] * n_ranks
        for stage in stages:
            begin, end = (places.get(cut, self.cuts[cut]) for cut in (stage, stage + 1))
            one_ms, one_held, _ = self._stage(stage, np.asarray(begin), np.asarray(end))
            ms[stage % n_ranks] = ms[stage % n_ranks] + one_ms
            held[stage % n_ranks] = held[stage % n_ranks] + one_held
        score: Floats = np.zeros(1)
        for rank in range(n_ranks):
            over = np.where(held[rank] > self.loads.limit, _OVERFULL * held[rank] / self.loads.limit, 0.0)
            score = score + (ms[rank] / self.scale) ** _POWER + over
        return score

    def _stage(self, stage: int, begin: Ints, end: Ints) -> tuple[Floats, Floats, Ints]:
        """Time, bytes and way of a stage between places."""
        ms = [_between(segments, stage, begin, end) for segments in self.times]
        if not self.held:
            return ms[0], np.zeros(1), np.zeros(ms[0].shape, dtype=np.int64)
        held = [_between(segments, stage, begin, end) for segments in self.held]
        if len(ms) == 1:
            return ms[0], held[0], np.zeros(ms[0].shape, dtype=np.int64)
        assert self.loads.problem.limit is not None
        again = (held[0] > self.loads.problem.limit + 0.5) & (held[1] < held[0])
        return np.where(again, ms[1], ms[0]), np.where(again, held[1], held[0]), again.astype(np.int64)

    def spread(self) -> Spread | None:
        """The split with the cuts where they are now."""
        if not np.isfinite(self.score):
            return None
        stage_of = np.empty(len(self.order), dtype=np.int64)
        ways = []
        for stage, (begin, end) in enumerate(zip(self.cuts[:-1], self.cuts[1:], strict=True)):
            stage_of[self.order[begin:end]] = stage
            ways.append(bool(self._stage(stage, np.asarray(begin), np.asarray(end))[2]))
        return self.loads.spread(stage_of, tuple(ways))


def _between(segments: Segments, stage: int, begin: Ints, end: Ints) -> Floats:
    """Cost of a stage between places; infinite where it is none, or too large."""
    length = end - begin
    band = segments.loads(stage)
    inside = (length >= 0) & (length <= segments.width)
    cost: Floats = np.where(inside, band[end + 0 * begin, np.clip(length, 0, segments.width)], np.inf)
    return cost
