r"""What is still open in a split, as a linear program whose optimum is a lower bound.

::

    x[j, i]   how much of item i is done after j stages, where that is not known, from 0 to 1
    order     done stays done, and after what it needs:  x[j, i] <= x[j+1, i], x[j, i] <= x[j, before i]
    stage j   holds x[j+1] - x[j]; with a charge for every net that it cuts at most the bottleneck

A stage pays for a net that it makes if one end is elsewhere, and for one that it reads if the maker is
elsewhere: a charge is at least every difference that says so. What HiGHS computes is not trusted: whatever
its dual values are, weak duality makes a bound of them (Neumaier and Shcherbina, *Safe bounds in linear and
mixed-integer linear programming*, Mathematical Programming 99, 2004).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reach import Bools

_SCALE = 30.0
"""What the bottleneck is scaled to, so that small charges are far above the tolerances of HiGHS."""

_AMISS = 1e-6
"""What counts have to be wrong by, in all solutions, for there to be none."""

_ROUNDING = 1e-12
"""Share of what is counted that may be rounding."""

_HALF = 0.5

_Sum = dict[int, float]
"""A sum of variables with their factors; -1 is the constant."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known about the items done after 0 to k stages.

    Args:
        inside: Done, `[k + 1, n]`.
        outside: Not done, `[k + 1, n]`.
    """

    inside: Bools
    outside: Bools


@dataclass(frozen=True, slots=True)
class Counted:
    """How much of some items is done after 0 to k stages.

    Args:
        items: The items.
        amounts: Of each, `[items]`.
        least: `[k + 1]`.
        most: `[k + 1]`.
    """

    items: Ints
    amounts: Floats
    least: Floats
    most: Floats


@dataclass(frozen=True, slots=True)
class Solved:
    """A solution of the linear program.

    Args:
        bound_ms: No split costs less; infinite if there is none, 0 if HiGHS gave up.
        values: Of what is open, or None.
    """

    bound_ms: float
    values: Floats | None


class Program:
    """The linear program of what is open.

    Args:
        problem: The items; transfers summed with compute, no memory limit, stages may stay empty.
        known: What is known about them.
        target: About the bottleneck, ms.
        counted: What is known about items together.

    Complexity: O(k (items + pins)) of what is open to lay out.
    """

    def __init__(self, problem: Problem, known: Known, target: float, counted: Counted | None) -> None:
        """Lay out variables and rows."""
        self.problem, self.known = problem, known
        self.scale = _SCALE / target if target > 0 else 1.0
        still = ~known.inside & ~known.outside
        self.at: Ints = np.full(still.shape, -1, dtype=np.int64)
        self.n_open = int(still.sum())
        self.at[still] = np.arange(self.n_open)
        self.bottleneck, self.spare, self.n = self.n_open, self.n_open + 1, self.n_open + 2
        self._rows: list[_Sum] = []
        self._least: list[float] = []
        self._loads: list[int] = []
        self._order()
        for stage in range(problem.k):
            self._load(stage)
        if counted is not None:
            self._count(counted)
        self._lay_out()

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self._least)

    def solve(self, lower: Floats, upper: Floats) -> Solved:
        """The least bottleneck within bounds of what is open.

        Args:
            lower: 0 or 1 for each, `[open]`.
            upper: The same.

        Returns:
            A bound that holds whatever rounding did, and where the optimum lies.
        """
        low, high = np.zeros(self.n), np.ones(self.n)
        low[: self.n_open], high[: self.n_open], high[self.bottleneck] = lower, upper, np.inf
        high[self.spare] = 0.0
        bound, values = self._least_of(self.bottleneck, low, high)
        if values is not None:
            return Solved(bound / self.scale, values[: self.n_open])
        high[self.spare] = np.inf
        amiss, _ = self._least_of(self.spare, low, high)
        return Solved(np.inf if amiss > _AMISS else 0.0, None)

    def _least_of(self, variable: int, low: Floats, high: Floats) -> tuple[float, Floats | None]:
        """A bound of one variable of those without bounds, from dual values, and where it is least."""
        from scipy.optimize import linprog

        aim, free = np.zeros(self.n), [self.bottleneck, self.spare]
        aim[variable] = 1.0
        bounds = np.stack([low, high], axis=1)
        found = linprog(aim, -self._matrix, -self._right, bounds=bounds, method="highs-ds")
        if found.x is None:
            return 0.0, None
        dual = np.maximum(-found.ineqlin.marginals, 0.0)
        if variable == self.spare:
            dual[self._loads] = 0.0
        dual /= max(1.0, float((self._matrix.T @ dual)[variable]))
        left = aim - self._matrix.T @ dual
        limited = np.ones(self.n, dtype=bool)
        limited[free] = False
        bound = self._right @ dual + left[limited] @ np.where(left > 0, low, high)[limited]
        return float(bound), found.x

    def follow(self, lower: Floats, upper: Floats) -> bool:
        """Draw conclusions from what is decided; False if it contradicts itself.

        Args:
            lower: 0 or 1 for each, `[open]`, which is changed.
            upper: The same.
        """
        later, earlier = self._ordered.T
        while True:
            before = lower.sum() - upper.sum()
            np.maximum.at(lower, later, lower[earlier])
            np.minimum.at(upper, earlier, upper[later])
            if lower.sum() - upper.sum() == before:
                return not (lower > upper).any()

    def stages(self, values: Floats) -> Ints:
        """The split that rounding gives, with no item before what it depends on.

        Args:
            values: Of what is open.

        Returns:
            A stage for every item.
        """
        done = self.known.inside.copy()
        done[self.at >= 0] = values > _HALF
        stage: Ints = np.asarray((~done[1:]).sum(axis=0), dtype=np.int64)
        for item, needed in enumerate(self.problem.preds):  # a hair beside a half may be rounded apart
            stage[item] = stage[[item, *needed]].max()
        return stage

    def _order(self) -> None:
        """What is done stays done, and comes after what it needs."""
        pairs: list[tuple[int, int]] = []
        for j, item in zip(*np.nonzero(self.at >= 0), strict=True):
            for other in ((j + 1, item), *((j, before) for before in self.problem.preds[item])):
                pairs += [(int(self.at[other]), int(self.at[j, item]))] * bool(self.at[other] >= 0)
        self._ordered: Ints = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        for later, earlier in pairs:
            self._add({later: 1.0, earlier: -1.0})

    def _load(self, stage: int) -> None:
        """The stage costs no more than the bottleneck."""
        problem, kind = self.problem, self.problem.kind_of_stage[stage]
        still: Bools = np.asarray((self.at[stage : stage + 2] >= 0).any(axis=0))
        ends = problem.ends
        open_nets: Bools = np.bincount(ends.net_of, weights=still[ends.pins], minlength=problem.m) > 0
        total: _Sum = {-1: self._surely(stage, still, open_nets) * self.scale}
        for item in np.flatnonzero(still).tolist():
            _join(total, self._held(stage, item), float(problem.weight[kind, item]) * self.scale)
        for net in np.flatnonzero(open_nets).tolist():
            made = self._held(stage, int(problem.maker[net]))
            others = [self._held(stage, x) for x in problem.pins[net] if x != problem.maker[net]]
            received = self._largest(_less(end, made) for end in others)
            _join(total, received, float(problem.cin[kind, net]) * self.scale)
            sent = self._largest(_less(made, end) for end in others)
            _join(total, sent, float(problem.cout[kind, net]) * self.scale)
        self._loads.append(len(self._rows))
        self._add(_less({self.bottleneck: 1.0}, total))

    def _count(self, counted: Counted) -> None:
        """So much of the counted items is done, and no more."""
        slack = _ROUNDING * float(counted.amounts.sum())
        for j in range(1, self.problem.k):
            total: _Sum = {}
            for item, amount in zip(counted.items.tolist(), counted.amounts.tolist(), strict=True):
                _join(total, self._done(j, item), amount * self.scale)
            for one, sign in ((counted.least[j] - slack, 1.0), (counted.most[j] + slack, -1.0)):
                row: _Sum = {self.spare: 1.0, -1: -sign * float(one) * self.scale}
                _join(row, total, sign)
                self._add(row)

    def _surely(self, stage: int, still: Bools, open_nets: Bools) -> float:
        """What the stage costs whatever is still open."""
        problem, kind = self.problem, self.problem.kind_of_stage[stage]
        held = self.known.inside[stage + 1] & ~self.known.inside[stage] & ~still
        n_held = np.bincount(problem.ends.net_of, weights=held[problem.ends.pins], minlength=problem.m)
        cut = (n_held > 0) & (n_held < problem.ends.size) & ~open_nets
        charge = np.where(held[problem.maker], problem.cout[kind], problem.cin[kind])
        return float(problem.weight[kind] @ held + charge @ cut)

    def _done(self, j: int, item: int) -> _Sum:
        at = int(self.at[j, item])
        return {at: 1.0} if at >= 0 else {-1: float(self.known.inside[j, item])}

    def _held(self, stage: int, item: int) -> _Sum:
        return _less(self._done(stage + 1, item), self._done(stage, item))

    def _largest(self, sums: Iterable[_Sum]) -> _Sum:
        """No less than any of the sums, nor than 0."""
        surely, unsure = 0.0, []
        for one in sums:
            if any(key >= 0 for key in one):
                unsure.append(one)
            else:
                surely = max(surely, one.get(-1, 0.0))
        if surely >= 1 or not unsure:
            return {-1: surely}
        charge, self.n = self.n, self.n + 1
        for one in unsure:
            self._add(_less({charge: 1.0}, one))
        return {charge: 1.0}

    def _add(self, total: _Sum) -> None:
        """The sum is no less than 0."""
        row = {key: value for key, value in total.items() if key >= 0 and value}
        if row:
            self._rows.append(row)
            self._least.append(-total.get(-1, 0.0))

    def _lay_out(self) -> None:
        from scipy.sparse import csr_array

        size = [len(row) for row in self._rows]
        columns = np.fromiter((key for row in self._rows for key in row), dtype=np.int64, count=sum(size))
        values = np.fromiter((x for row in self._rows for x in row.values()), dtype=float, count=sum(size))
        shape = len(self._rows), self.n
        self._matrix = csr_array((values, columns, np.cumsum([0, *size])), shape=shape)
        self._right: Floats = np.array(self._least)


def _less(one: _Sum, other: _Sum) -> _Sum:
    total = dict(one)
    _join(total, other, -1.0)
    return total


def _join(total: _Sum, more: _Sum, factor: float) -> None:
    for key, value in more.items():
        total[key] = total.get(key, 0.0) + factor * value
