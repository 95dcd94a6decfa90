"""The best split over ranks by a walk over downsets that carries the load of every rank.

::

    level     0            1                 2               a label: the downset, what each rank has to
    labels    {} (0, 0)    {a} (5, 0)        {a b} (5, 3)    do so far, and what it holds. One that is no
                           {a b} (8, 0)      {a b c} (5, 6)  better than another at its downset is dropped.

Every rank keeps within a target, so each stage does too: the downsets are those of the search for stages.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autopipe.partition.attempt import Verdict, levels_within
from autopipe.partition.downsets import Downsets
from autopipe.partition.incumbent import RELATIVE
from autopipe.partition.pairs import StagePrices
from autopipe.partition.problem import Floats, Ints
from autopipe.partition.rank_loads import RankLoads, Spread
from autopipe.partition.reach import Reach

_CAP = 4_000
"""Downsets of a level after which a target is given up."""

_LABELS = 1_500
"""Labels of one downset after which a target is given up."""

_PAIRS = 2_000_000
"""New labels of one level after which a target is given up."""

_STEPS = (1 / 16, 1 / 4, 1.0)
"""How far from the bound to the best split the targets lie."""


@dataclass(frozen=True, slots=True)
class RankProof:
    """What the walk found: a better split or none, and a bound."""

    spread: Spread | None
    lower_bound_ms: float


@dataclass(frozen=True, slots=True)
class _Labels:
    """Partial splits that end at downsets of one level: `[labels]`, and `[labels, ranks]`."""

    row: Ints
    ms: Floats
    held: Floats
    before: Ints
    way: Ints


class _TooMany(Exception):
    """The budget ended."""


def best_on_ranks(loads: RankLoads, upper: float, lower: float, budget: int) -> RankProof:
    """Look for the best split below a known one, from targets near the bound upward.

    Args:
        loads: The prices.
        upper: The slowest rank of the best split so far; infinite if there is none.
        lower: No split is below that.
        budget: Work, about 1e7 a second.

    Returns:
        The optimum if it is below ``upper``; a bound that is raised where targets are impossible.

    Complexity: exponential in the ranks at worst; given up beyond the budget.
    """
    problem = loads.ways[0].times
    reach = Reach(problem)
    everything = float(problem.weight.max(axis=0).sum() * 2 + (problem.cin + problem.cout).sum() + 1.0)
    high = min(upper, everything)
    for step in _STEPS:
        target = (lower + step * (high - lower)) * (1 - RELATIVE)
        within = levels_within(problem, reach, target, budget, cap=_CAP)
        budget -= within.work
        if within.levels is None:
            if within.verdict is not Verdict.IMPOSSIBLE:
                break
        else:
            walk = _Walk(loads, within.levels, target, budget)
            try:
                spread = walk.run()
            except _TooMany:
                break
            budget -= walk.work
            if spread is not None:
                return RankProof(spread, spread.slowest_ms)
        lower = target if step < 1 else upper
    return RankProof(None, lower)


class _Walk:
    """One target."""

    def __init__(self, loads: RankLoads, levels: list[Downsets], target: float, budget: int) -> None:
        self.loads, self.levels, self.budget = loads, levels, budget
        self.target = target * (1 + 1e-12)
        self.work = 0
        none = np.zeros((1, loads.n_ranks))
        zero = np.zeros(1, dtype=np.int64)
        self.labels = [_Labels(zero, none, none, zero, zero)]

    def run(self) -> Spread | None:
        for j in range(1, len(self.levels)):
            labels = self._step(j)
            if not len(labels.row):
                return None
            self.labels.append(labels)
        last = self.labels[-1]
        return self._traced(int(last.ms.max(axis=1).argmin()))

    def _step(self, j: int) -> _Labels:
        """Every label of a level, with every stage that may follow it, run in every way."""
        known = self.labels[-1]
        a, b = self._stages(j)
        found = [self._extended(j, known, a, b, way) for way in range(len(self.loads.ways))]
        parts = zip(*((x.row, x.ms, x.held, x.before, x.way) for x in found), strict=True)
        every = _Labels(*(np.concatenate(part) for part in parts))
        return _take(every, self._undominated(every))

    def _stages(self, j: int) -> tuple[Ints, Ints]:
        """Rows of the level before that labels are of, each with a row of this level that contains it."""
        before, after = self.levels[j - 1], self.levels[j]
        rows = np.unique(self.labels[-1].row)
        prices = StagePrices(self.loads.ways[0].times, j - 1, before, after)
        at, b = np.nonzero(prices.subset(rows))
        self._spend(len(rows) * len(after) // 5 + 30 * len(at))
        a = rows[at]
        if not self.loads.problem.allow_empty:
            proper = (prices.before[a] != prices.after[b]).any(axis=1) | bool(prices.always.any())
            a, b = a[proper], b[proper]
        return a, b

    def _extended(self, j: int, known: _Labels, a: Ints, b: Ints, way: int) -> _Labels:
        loads, rank = self.loads, (j - 1) % self.loads.n_ranks
        chosen = loads.ways[way]
        ends = self.levels[j - 1], self.levels[j]
        ms = StagePrices(chosen.times, j - 1, *ends).cost(a, b)
        held = np.zeros(len(a)) if chosen.held is None else StagePrices(chosen.held, j - 1, *ends).cost(a, b)
        good = (ms <= self.target) & (held <= loads.limit)
        a, b, ms, held = a[good], b[good], ms[good], held[good]
        label, pair = _joined(known.row, a)
        self._spend(loads.n_ranks * len(label))
        new_ms, new_held = known.ms[label], known.held[label]
        new_ms[:, rank] += ms[pair]
        new_held[:, rank] += held[pair]
        rest = self.levels[-1].weight[0] - self.levels[j].weight[b[pair]]
        room = loads.n_ranks * self.target - new_ms.sum(axis=1)
        fits = (new_ms[:, rank] <= self.target) & (new_held[:, rank] <= loads.limit)
        fits &= room >= rest - 1e-9 * (1 + rest)
        every = _Labels(b[pair], new_ms, new_held, label, np.full(len(label), way))
        return _take(every, np.flatnonzero(fits))

    def _undominated(self, labels: _Labels) -> Ints:
        """Labels that no other at the same downset is as good as."""
        costs = np.concatenate([labels.ms, labels.held], axis=1)
        if not labels.held.any():
            costs = labels.ms
        order = np.lexsort((np.arange(len(costs)), costs.sum(axis=1), labels.row))
        rows = labels.row[order]
        borders = np.flatnonzero(rows[1:] != rows[:-1]) + 1
        groups = np.split(order, borders) if len(order) else []
        return np.concatenate([np.zeros(0, dtype=np.int64), *(self._front(costs, group) for group in groups)])

    def _front(self, costs: Floats, group: Ints) -> Ints:
        """Of labels by their sums, those that none before them is as good as."""
        front = np.zeros((0, costs.shape[1]))
        kept: list[int] = []
        for label in group.tolist():
            if not (front <= costs[label] * (1 + 1e-12)).all(axis=1).any():
                front = np.concatenate([front, costs[label][None, :]])
                kept.append(label)
                if len(kept) > _LABELS:
                    raise _TooMany
        self._spend(50 * len(group) + len(group) * len(kept) // 8)
        return np.array(kept, dtype=np.int64)

    def _spend(self, work: int) -> None:
        self.work += work
        if self.work > self.budget:
            raise _TooMany

    def _traced(self, label: int) -> Spread | None:
        problem = self.loads.problem
        stage_of = np.zeros(problem.n, dtype=np.int64)
        again = [False] * problem.k
        members = [level.members() for level in self.levels]
        for j in range(problem.k, 0, -1):
            labels = self.labels[j]
            parent = int(labels.before[label])
            inside = members[j][labels.row[label]] & ~members[j - 1][self.labels[j - 1].row[parent]]
            stage_of[inside] = j - 1
            again[j - 1] = self.loads.ways[int(labels.way[label])].again
            label = parent
        return self.loads.spread(stage_of, tuple(again))


def _joined(rows: Ints, a: Ints) -> tuple[Ints, Ints]:
    """Pairs of a label and a stage that begins at its downset."""
    by_row = np.argsort(a, kind="stable")
    first = np.searchsorted(a[by_row], rows, side="left")
    count = np.searchsorted(a[by_row], rows, side="right") - first
    if count.sum() > _PAIRS:
        raise _TooMany
    label = np.repeat(np.arange(len(rows)), count)
    offset = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return label, by_row[np.repeat(first, count) + offset]


def _take(labels: _Labels, chosen: Ints) -> _Labels:
    return _Labels(*(getattr(labels, name)[chosen] for name in _Labels.__slots__))
