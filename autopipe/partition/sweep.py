r"""Sweep over all downsets: which can follow j stages that each stay within a target T, and who need be kept.

::

    after stage   1         2         3
                {a}       {a b c}   ...        a downset X makes a smaller one B needless if whatever can
                {a b}     {a b d}              follow B can follow X with every stage as cheap or cheaper:
                 ^keep     ^keep               the later stages lose what X has more, and nothing they read
                                               then costs more

One item more is needless to wait for if what it makes is no dearer than its weight and the nets that it
closes. Chains of such items are followed through the lattice, so each level keeps only those that reach
farthest: a few dozen of a hundred thousand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autopipe.partition.lattice import Lattice, packed
from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reach import Bools

_SLACK = 1e-10

_ROUNDING = 1e-13
"""Share of all compute below which a loss is rounding."""


@dataclass(frozen=True, slots=True)
class Path:
    """What a sweep found.

    Args:
        stage_of: Stages of the items of a split within the target, or None.
        bottleneck_ms: The dearest stage of that split.
        complete: The sweep was not cut short.
        work: Pairs looked at.
    """

    stage_of: Ints | None
    bottleneck_ms: float
    complete: bool
    work: int


class Sweep:
    """Prices stages between downsets of one lattice and decides targets.

    Args:
        problem: The items; transfers summed with compute, no memory limit.
        lattice: Its downsets.

    Complexity: O(nets x rows) to build.
    """

    def __init__(self, problem: Problem, lattice: Lattice) -> None:
        """Find the nets that every downset cuts, and the arcs along which waiting is needless."""
        self.problem, self.lattice = problem, lattice
        self.masks = [packed(pins, problem.n) for pins in problem.pins]
        self.same = len(set(problem.kind_of_stage)) == 1 and not problem.first.any()
        self.same &= bool((problem.last == problem.k - 1).all())
        n_kinds = len(problem.weight)
        self.done = np.stack([self._done(kind) for kind in range(n_kinds)])
        self.base = self.done.copy()
        gain = problem.weight.min(axis=0)[lattice.item]
        by_item = np.argsort(lattice.item, kind="stable")
        self._arcs_of = np.split(by_item, np.cumsum(np.bincount(lattice.item, minlength=problem.n))[:-1])
        rows = [self._cut(net, gain) for net in range(problem.m)]
        self.cut_nets = np.repeat(np.arange(problem.m), list(map(len, rows)))
        flat = np.concatenate([*rows, np.zeros(0, dtype=np.int64)])
        order = np.argsort(flat, kind="stable")
        self.cut_nets = self.cut_nets[order]
        self.cut_start = np.searchsorted(flat[order], np.arange(len(lattice) + 1))
        dear = np.maximum(problem.cin, problem.cout).max(axis=0)
        sums = np.concatenate([[0.0], np.cumsum(dear[self.cut_nets])])
        self.passing: Floats = sums[self.cut_start[1:]] - sums[self.cut_start[:-1]]
        self._order_arcs(gain >= -_ROUNDING * float(lattice.weight[-1]))

    def _done(self, kind: int) -> Floats:
        """Weight of every downset, summed along the arcs that first reach it."""
        lattice, weight = self.lattice, self.problem.weight[kind]
        if len(self.problem.weight) == 1:
            return lattice.weight
        total = np.zeros(len(lattice))
        for item in range(self.problem.n):
            total += weight[item] * lattice.holds(item)
        return total

    def _cut(self, net: int, gain: Floats) -> Ints:
        """Downsets that cut a net; charges it to `base`, and to or for the arcs of its ends."""
        problem, lattice = self.problem, self.lattice
        whole, some = np.ones(len(lattice), dtype=bool), np.zeros(len(lattice), dtype=bool)
        for word, mask in self.masks[net]:
            part = lattice.bits[word] & mask
            whole &= part == mask
            some |= part != 0
        cut = some & ~whole
        maker = int(problem.maker[net])
        made = lattice.holds(maker)
        cin, cout = problem.cin[:, net], problem.cout[:, net]
        self.base += np.where(cut, np.where(made, cout[:, None], cin[:, None]), 0.0)
        least, most = min(cin.min(), cout.min()), max(cin.max(), cout.max())
        for item in problem.pins[net]:
            arcs = self._arcs_of[item]
            before, after = some[lattice.source[arcs]], whole[lattice.target[arcs]]
            gain[arcs] += np.where(before & after, least, 0.0)
            gain[arcs] -= np.where(~before & ~after, most, 0.0)
            if item == maker and most > least:
                gain[arcs] -= np.where(before & ~after, most - least, 0.0)
        return np.flatnonzero(cut)

    def _order_arcs(self, good: Bools) -> None:
        """The arcs along which waiting is needless, by the size of their tails, the largest first."""
        lattice = self.lattice
        arcs = np.flatnonzero(good)
        arcs = arcs[np.argsort(-lattice.size[lattice.source[arcs]], kind="stable")]
        self.tails, self.heads = lattice.source[arcs], lattice.target[arcs]
        self.steps = np.flatnonzero(np.diff(lattice.size[self.tails], prepend=-1, append=-1))

    def cost(self, row: int, others: Ints, kind: int) -> Floats:
        """What the stage between a downset and each of some larger ones costs.

        Args:
            row: The downset before the stage.
            others: Downsets that contain it.
            kind: Kind of the stage's position.

        Returns:
            Milliseconds, one a downset.
        """
        problem, bits = self.problem, self.lattice.bits
        cost: Floats = self.base[kind, others] - self.done[kind, row]
        for net in self.cut_nets[self.cut_start[row] : self.cut_start[row + 1]].tolist():
            touched, whole = np.zeros(len(others), dtype=bool), np.ones(len(others), dtype=bool)
            for word, mask in self.masks[net]:
                part = bits[word][others] & mask
                touched |= part != bits[word, row] & mask
                whole &= part == mask
            maker = int(problem.maker[net])
            cin, cout = float(problem.cin[kind, net]), float(problem.cout[kind, net])
            word, at = maker // 64, np.uint64(maker % 64)
            if bits[word, row] >> at & np.uint64(1):
                cost += cin * touched - cout * ~whole
            else:
                made = bits[word][others] >> at & np.uint64(1) != 0
                cost += np.where(made, cout, cin) * (touched.astype(float) - ~whole)
        return cost

    def run(self, target: float, budget: int) -> Path:
        """Is there a split whose stages all cost no more than the target?

        Args:
            target: T, milliseconds.
            budget: Pairs looked at, at most.

        Returns:
            A split, or the proof that there is none.
        """
        return _Run(self, target, budget).path()


class _Run:
    """One target."""

    def __init__(self, sweep: Sweep, target: float, budget: int) -> None:
        self.sweep, self.target, self.budget = sweep, target, budget
        self.lattice, self.problem = sweep.lattice, sweep.problem
        n = len(self.lattice)
        self.level = np.full(n, self.problem.k + 1, dtype=np.int64)
        self.best = np.full(n, np.inf)
        self.back = np.full(n, -1, dtype=np.int64)
        self.level[0], self.best[0] = 0, 0.0
        self.slack = _SLACK * max(1.0, float(self.lattice.weight[-1]))
        self.work = 0

    def path(self) -> Path:
        last, k = len(self.lattice) - 1, self.problem.k
        front = np.zeros(1, dtype=np.int64)
        for j in range(1, k + 1):
            allowed = self._allowed(j)
            for row in front.tolist():
                self._extend(row, j, allowed)
                if self.work > self.budget:
                    return Path(None, np.inf, False, self.work)
            if self.level[last] <= j:
                return Path(self._stages(last), float(self.best[last]), True, self.work)
            front = self._front(j, allowed)
            self.work += len(self.sweep.tails) // 4
            if not len(front):
                break
        return Path(None, np.inf, True, self.work)

    def _extend(self, row: int, j: int, allowed: Bools) -> None:
        """Reach what lies one stage beyond a downset."""
        sweep, lattice, k = self.sweep, self.lattice, self.problem.k
        weight, begin = lattice.weight, lattice.weight[row]
        least = max(begin - self.slack, weight[-1] - (k - j) * self.target - self.slack)
        low, high = np.searchsorted(weight, [least, begin + self.target + self.slack])
        kind = self.problem.kind_of_stage[j - 1]
        most = self.target + self.slack + sweep.passing[row] + sweep.done[kind, row]
        near = (self.level[low:high] >= j) & (sweep.base[kind, low:high] <= most) & allowed[low:high]
        rows = np.flatnonzero(near) + low
        self.work += (high - low) // 32 + len(rows) // 4
        for word in lattice.bits:
            mask = word[row]
            if mask:
                rows = rows[word[rows] & mask == mask]
        self.work += len(rows)
        cost = sweep.cost(row, rows, kind)
        within = cost <= self.target
        rows, cost = rows[within], np.maximum(cost[within], self.best[row])
        better = cost < self.best[rows]
        rows = rows[better]
        self.best[rows], self.back[rows], self.level[rows] = cost[better], row, j

    def _allowed(self, j: int) -> Bools:
        """Downsets that pins allow after j stages."""
        allowed = np.ones(len(self.lattice), dtype=bool)
        if self.sweep.same:
            return allowed
        for item in range(self.problem.n):
            if self.problem.last[item] < j:
                allowed &= self.lattice.holds(item)
            if self.problem.first[item] >= j:
                allowed &= ~self.lattice.holds(item)
        return allowed

    def _front(self, j: int, allowed: Bools) -> Ints:
        """Downsets reached by now that no other makes needless; only new ones if positions are alike."""
        sweep = self.sweep
        reached = (self.level <= j) & allowed
        needless = np.zeros(len(self.lattice), dtype=bool)
        for low, high in zip(sweep.steps[:-1], sweep.steps[1:], strict=True):
            tails, heads = sweep.tails[low:high], sweep.heads[low:high]
            needless[tails[reached[heads] | needless[heads]]] = True
        fresh = self.level == j if sweep.same else reached
        front: Ints = np.flatnonzero(fresh & allowed & ~needless)
        return front

    def _stages(self, row: int) -> Ints:
        """Stages of the items, along the way back from a downset."""
        n = self.problem.n
        stage_of = np.zeros(n, dtype=np.int64)
        while row:
            before = int(self.back[row])
            added = self.lattice.members(row, n) & ~self.lattice.members(before, n)
            stage_of[added] = self.level[row] - 1
            row = before
        return stage_of
