"""The exact cost of every stage that lies between a downset of one level and one of the next.

::

    level j-1:  rows a        stage = b minus a, if a is a subset of b
    level j:    rows b        cost from the problem's own nets, memory and position, not from a relaxation
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autopipe.partition.downsets import Downsets
from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reach import Bools

PAIR = 30
"""Work of pricing one pair, in rows of an enumeration."""

_BLOCK = 2_000_000
"""Cells of a block of pairs by nets."""


class StagePrices:
    """Prices stages between two levels.

    Args:
        problem: The items.
        stage: Index of the stage, for its position and its microbatches in flight.
        before: Downsets of the level before it.
        after: Downsets of the level after it.
    """

    def __init__(self, problem: Problem, stage: int, before: Downsets, after: Downsets) -> None:
        """Split items and nets into those that all pairs agree on and those that they do not."""
        self.problem, self.stage = problem, stage
        self.kind = problem.kind_of_stage[stage]
        open_items = np.zeros(problem.n, dtype=bool)
        open_items[before.items] = open_items[after.items] = True
        self.union: Ints = np.flatnonzero(open_items)
        self.before = _members(before, self.union)
        self.after = _members(after, self.union)
        self.always = after.inside & ~before.inside & ~open_items
        self._sort_nets(open_items)
        weight = problem.weight[self.kind]
        self.weight = weight[self.union]
        self.base_weight = float(weight[self.always].sum())

    def _sort_nets(self, open_items: Bools) -> None:
        """Sum up the nets that all pairs agree on; lay out where the others have their free pins."""
        from scipy.sparse import csr_array

        problem, kind = self.problem, self.kind
        pins, net_of, size = problem.ends.pins, problem.ends.net_of, problem.ends.size
        free = open_items[pins]
        n_free = np.bincount(net_of[free], minlength=problem.m)
        n_sure = np.bincount(net_of[self.always[pins]], minlength=problem.m)
        surely = (n_free == 0) & (n_sure > 0) & (n_sure < size)
        made = self.always[problem.maker]
        self.fixed_out = float(problem.cout[kind, surely & made].sum())
        self.fixed_in = float(problem.cin[kind, surely & ~made].sum())
        self.fixed_kept = float(problem.kept[surely & ~made].sum())
        self.nets: Ints = np.flatnonzero(n_free)
        self.size = size[self.nets].astype(np.float32)
        self.base = n_sure[self.nets].astype(np.float32)
        column = np.where(self.always, -1, -2)
        column[self.union] = np.arange(len(self.union))
        self.makers: Ints = column[problem.maker[self.nets]]
        rows = np.searchsorted(self.nets, net_of[free])
        shape = len(self.union), len(self.nets)
        ones = np.ones(len(rows), dtype=np.float32)
        self.incidence = csr_array((ones, (column[pins[free]], rows)), shape=shape)
        self.absent = (~self.after).astype(np.float32)

    def subset(self, rows: Ints) -> Bools:
        """Which downsets of the later level contain those of the earlier one, `[rows, after]`."""
        return contained(self.before[rows], self.absent)

    def cost(self, a: Ints, b: Ints) -> Floats:
        """Cost of the stages between rows a and b, one a pair; infinite where memory does not fit."""
        step = max(1, _BLOCK // max(1, len(self.nets) + len(self.union)))
        parts = [self._cost(a[i : i + step], b[i : i + step]) for i in range(0, len(a), step)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def _cost(self, a: Ints, b: Ints) -> Floats:
        problem, kind = self.problem, self.kind
        stage = self.after[b] & ~self.before[a]
        compute = self.base_weight + stage @ self.weight
        count = stage.astype(np.float32) @ self.incidence + self.base
        cut = (count > 0) & (count < self.size)
        made = np.zeros_like(cut)
        inside = self.makers >= 0
        made[:, inside] = stage[:, self.makers[inside]]
        made[:, self.makers == -1] = True
        received = self.fixed_in + (cut & ~made) @ problem.cin[kind, self.nets]
        sent = self.fixed_out + (cut & made) @ problem.cout[kind, self.nets]
        total = _combine(problem, compute, received, sent)
        if problem.limit is None:
            return total
        kept = self.fixed_kept + (cut & ~made) @ problem.kept[self.nets]
        return self._within_memory(stage, total, (compute, received, sent), kept)

    def _within_memory(
        self, stage: Bools, total: Floats, parts: tuple[Floats, Floats, Floats], kept: Floats
    ) -> Floats:
        """The cost where the stage fits, that with recompute where only this fits, else infinity."""
        problem = self.problem
        assert problem.limit is not None
        fixed, saved = self._held(stage, problem.fixed), self._held(stage, problem.saved)
        for tied in problem.tied:
            count_of = np.zeros(problem.n)
            np.add.at(count_of, list(tied.items), 1.0)
            fixed -= tied.nbytes * np.maximum(self._held(stage, count_of) - 1, 0)
        flight, limit = problem.in_flight[self.stage], problem.limit + 0.5
        fits = fixed + flight * (saved + kept) <= limit
        if not problem.allow_recompute:
            return np.where(fits, total, np.inf)
        forward = self._held(stage, problem.fwd[self.kind])
        again = _combine(problem, parts[0] + forward, parts[1], parts[2])
        fits_again = fixed + flight * kept + saved <= limit
        return np.where(fits, total, np.where(fits_again, again, np.inf))

    def _held(self, stage: Bools, amount: Floats) -> Floats:
        held: Floats = float(amount[self.always].sum()) + stage @ amount[self.union]
        return held


def contained(before: Bools, absent: NDArray[np.float32]) -> Bools:
    """Which downsets hold all of which others.

    Args:
        before: Members of the smaller ones, `[a, items]`.
        absent: 1 for what is no member of the larger ones, `[b, items]`.

    Returns:
        `[a, b]`.
    """
    with np.errstate(all="ignore"):  # BLAS may flag lanes beyond the ends of small matrices
        holds: Bools = before.astype(np.float32) @ absent.T < 0.5
    return holds


def _combine(problem: Problem, compute: Floats, received: Floats, sent: Floats) -> Floats:
    if problem.overlap:
        return np.maximum(np.maximum(compute, received), sent)
    return compute + received + sent


def _members(downsets: Downsets, union: Ints) -> Bools:
    """Membership of the items of a union, `[rows, union]`."""
    full = np.repeat(downsets.inside[union][None, :], len(downsets), axis=0)
    full[:, np.searchsorted(union, downsets.items)] = downsets.matrix()
    return full
