"""The best layout of one linear order of the items on devices, with replicas: dynamic programming.

::

    order      a b | c d e | f          g[i] = min over j > i of g[j] + devices that order[i:j] needs within T
    devices     1      2     1          the least T with g[0] <= devices, by bisection
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.replicas import MANY, Parts, Turns

_POSITIONS = 400
"""Places of an order at which it may be cut, at most."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A split of the items into stages with replicas.

    Args:
        bottleneck_ms: Of the slowest stage.
        stage_of: Stage of every item.
        replicas: Devices a stage.
    """

    bottleneck_ms: float
    stage_of: Ints
    replicas: tuple[int, ...]


def layout_of_order(turns: Turns, order: Ints, lower: float, upper: float) -> Layout | None:
    """Find the best layout of one order.

    Args:
        turns: The prices.
        order: A topological order of the items.
        lower: No layout is better.
        upper: Layouts that are not better are of no interest.

    Returns:
        The layout; None where there is none that is better.

    Complexity: O(p^2 devices) for p places to cut, a few dozen times.
    """
    work = _Order(turns, order)
    best = work.within(upper)
    if best is None:
        return None
    high = best.bottleneck_ms
    while high - lower > 1e-7 * high:
        middle = (lower + high) / 2
        found = work.within(middle)
        if found is None:
            lower = middle
        else:
            best, high = found, found.bottleneck_ms
    return best


class _Order:
    """Parts of all segments between the places at which an order may be cut."""

    def __init__(self, turns: Turns, order: Ints) -> None:
        self.turns, self.order = turns, order
        problem = turns.problem
        self.place = np.empty(problem.n, dtype=np.int64)
        self.place[order] = np.arange(problem.n)
        self.at = _places(problem, order)
        received, sent, kept = self._crossing()
        self.forward = np.triu(np.ones((len(self.at), len(self.at)), dtype=bool), 1)
        self.parts = Parts(
            self._span(problem.weight[0]),
            received,
            sent,
            self._once(turns.params, turns.tied),
            self._once(problem.fixed, turns.held_twice),
            self._span(problem.saved),
            kept,
        )
        self.times = [turns.time_ms(self.parts, m) for m in range(1, turns.n_devices + 1)]

    def _span(self, amount: Floats) -> Floats:
        prefix = np.concatenate([[0.0], np.cumsum(amount[self.order])])[self.at]
        span: Floats = prefix[None, :] - prefix[:, None]
        return span

    def _once(self, amount: Floats, shared: list[tuple[float, Floats]]) -> Floats:
        span = self._span(amount)
        for nbytes, count in shared:
            span -= nbytes * np.maximum(self._span(count) - 1, 0)
        return span

    def _crossing(self) -> tuple[Floats, Floats, Floats]:
        """What arrives, leaves and is kept, by first and last place of a segment."""
        problem, at = self.turns.problem, self.at
        received, sent, kept = (np.zeros((len(at), len(at))) for _ in range(3))
        for net, pins in enumerate(problem.pins):
            before = np.searchsorted(np.sort(self.place[list(pins)]), at)
            touched = before[None, :] - before[:, None]
            cut = (touched > 0) & (touched < len(pins))
            maker = self.place[problem.maker[net]]
            makes = (at <= maker)[:, None] & (at > maker)[None, :]
            sent += problem.cout[0, net] * (cut & makes)
            received += problem.cin[0, net] * (cut & ~makes)
            kept += problem.kept[net] * (cut & ~makes)
        return received, sent, kept

    def within(self, target: float) -> Layout | None:
        """A layout with no stage slower than a target."""
        last, n_devices = len(self.at) - 1, self.turns.n_devices
        after = np.full(last + 1, MANY, dtype=np.int64)
        after[last] = 0
        onward = np.zeros(last + 1, dtype=np.int64)
        whole = self._all_needed(target) if self.turns.problem.limit is None else None
        for i in range(last - 1, -1, -1):
            reach = (self._needed(i, target, after) if whole is None else whole[i]) + after
            onward[i] = reach.argmin()
            after[i] = min(int(reach[onward[i]]), MANY)
        if after[0] > n_devices:
            return None
        return self._traced(onward, after)

    def _all_needed(self, target: float) -> Ints:
        """Devices by first and last place of a segment."""
        need = np.full(self.forward.shape, MANY, dtype=np.int64)
        for m in range(self.turns.n_devices, 0, -1):
            need[self.forward & (self.times[m - 1] <= target)] = m
        return need

    def _needed(self, i: int, target: float, after: Ints) -> Ints:
        """The same for one first place; what fits depends on the devices that come after."""
        need = np.full(len(self.at), MANY, dtype=np.int64)
        row = Parts(*(getattr(self.parts, name)[i] for name in Parts.__slots__))
        for m in range(self.turns.n_devices, 0, -1):
            good = self.forward[i] & (self.times[m - 1][i] <= target)
            good &= self.turns.fits(row, m, np.minimum(after, self.turns.n_devices))
            need[good] = m
        return need

    def _traced(self, onward: Ints, after: Ints) -> Layout:
        stage_of = np.empty(self.turns.problem.n, dtype=np.int64)
        replicas: list[int] = []
        slowest, i = 0.0, 0
        while i < len(self.at) - 1:
            j = int(onward[i])
            m = int(after[i] - after[j])
            stage_of[self.order[self.at[i] : self.at[j]]] = len(replicas)
            replicas.append(m)
            slowest = max(slowest, float(self.times[m - 1][i, j]))
            i = j
        return Layout(slowest, stage_of, tuple(replicas))


def _places(problem: Problem, order: Ints) -> Ints:
    """All places of a short order; of a long one those that cut least, spread over its work."""
    n = problem.n
    if n + 1 <= _POSITIONS:
        return np.arange(n + 1)
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    crossing = np.zeros(n + 2)
    for net, pins in enumerate(problem.pins):
        ends = place[list(pins)]
        crossing[ends.min() + 1] += problem.cin[0, net]
        crossing[ends.max() + 1] -= problem.cin[0, net]
    crossing = np.cumsum(crossing)[: n + 1]
    done = np.concatenate([[0.0], np.cumsum(problem.weight[0][order])])
    bucket = np.minimum((done / max(done[-1], 1e-300) * (_POSITIONS - 2)).astype(np.int64), _POSITIONS - 3)
    by_cut = np.lexsort((np.arange(n + 1), crossing, bucket))
    _, first = np.unique(bucket[by_cut], return_index=True)
    return np.unique(np.concatenate([[0, n], by_cut[first]]))
