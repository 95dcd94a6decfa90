r"""What a stage had better take along with an item, if there is room for it.

::

    x --> q --\            D holds what x needs, but not x        D with the stride of x, up to the sum
      --> k ---> mix --> +     later stages have x to q, k, v         later stages have less to do, and
      --> v --/                and mix to compute                     receive the sum instead of x's input

The stride of an item x is x and others, with all that they need besides what x needs. If adding it to any
downset that holds what x needs is a gain for every later stage, then a downset that stops short of x is
needless wherever the larger one still fits into its stage.

It is a gain if each step on the way is. Take downsets X < Y on the way from D to D with the stride, and a
later stage that would hold Y - X. It is spared the weight of Y - X and every net that X cuts, that Y - X
touches and that ends within the stride. It may have to receive a net that Y - X makes and that goes on, but
only if it could hold that net whole and pay nothing. One minimum cut for each choice of makers of such
nets finds the step that is spared least.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from autopipe.partition.charges import CutNets
from autopipe.partition.min_cut import LevelCuts
from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reach import Bools, Reach

_ENDS = 40
"""Items that a stride may end with: the first that depend on its item."""

_TESTS = 4
"""Strides of one item that are compared by cuts, the cheapest first."""

_GOING_ON = 2
"""Items of a stride at most whose nets go on."""

_SHARE = 0.5
"""Share of the target that a stride weighs at most."""

_ROUNDING = 1e-12
"""Share of the target below which a loss is rounding."""


@dataclass(frozen=True, slots=True)
class Stride:
    """What comes along with one item.

    Args:
        items: The items.
        constant: Their weight and what their nets that go on cost to send, by kind, `[C]` ms.
        received: Nets that they read and that the stages before may have made.
        closed: Nets that they do not make and that end with them, with an end that needs the item.
    """

    items: Ints
    constant: Floats
    received: Ints
    closed: Ints


@dataclass(frozen=True, slots=True)
class _Choice:
    """What may become a stride: all that one item needs, besides what another needs."""

    base: Bools
    items: Bools
    end: int
    going_on: Ints
    closed: Ints


class Strides:
    """The strides of a problem, found as they are asked for.

    Args:
        problem: The items; transfers summed with compute, no memory limit.
        reach: Their closure.
        target: No stage costs more, ms.

    Complexity: an item takes O(nets) and a few minimum cuts.
    """

    def __init__(self, problem: Problem, reach: Reach, target: float) -> None:
        """Find where nets end, and which of them one stage can hold."""
        self.problem, self.reach, self.target = problem, reach, target
        ancestors = reach.ancestors
        self.within: Bools = np.zeros((problem.n, problem.m), dtype=bool)
        short: Bools = np.zeros(problem.m, dtype=bool)
        for net, pins in enumerate(problem.pins):
            ends, maker = list(pins), int(problem.maker[net])
            self.within[:, net] = ancestors[:, ends].all(axis=1)
            between = ancestors[ends].any(axis=0) & ancestors[:, maker]
            short[net] = reach.weight[between].sum() <= target * (1 + _ROUNDING)
        self.ends_at: Ints = np.where(self.within.any(axis=0), self.within.argmax(axis=0), -1)
        self.least = np.minimum(problem.cin, problem.cout).min(axis=0)
        most = np.maximum(problem.cin, problem.cout).max(axis=0)
        self.opening: Floats = np.where(short | ~reach.made_first, most, most - self.least)
        self._goes_on = ancestors[:, problem.maker] & ~self.within
        self._unrooted = np.zeros(problem.n, dtype=bool)
        for net in np.flatnonzero(~reach.made_first).tolist():
            self._unrooted[list(problem.pins[net])] = True
        self._known: dict[int, Stride | None] = {}

    def of(self, item: int) -> Stride | None:
        """The stride of an item that costs a stage least, of those that are known to be a gain; or none."""
        if item not in self._known:
            choice = self._gaining(item)
            self._known[item] = None if choice is None else self._stride(item, choice)
        return self._known[item]

    def extra(self, item: int, before: Bools, j: int) -> Floats | None:
        """What the stride of an item adds to stage j - 1 at most, where that holds what the item needs.

        Args:
            item: The item.
            before: Downsets before the stage, `[rows, n]`.
            j: The level after the stage.

        Returns:
            Milliseconds, `[rows]`; None without a stride that may be there.
        """
        stride, problem, kind = self.of(item), self.problem, self.problem.kind_of_stage[j - 1]
        if stride is None or (problem.first[stride.items] >= j).any():
            return None
        base = self.reach.ancestors[item]
        extra: Floats = np.full(len(before), float(stride.constant[kind]))
        for net in stride.received.tolist():
            maker = int(problem.maker[net])
            known = [x for x in problem.pins[net] if x == maker or (base[x] and x != item)]
            extra += float(problem.cin[kind, net]) * before[:, known].all(axis=1)
        for net in stride.closed.tolist():
            extra -= float(problem.cout[kind, net]) * ~before[:, int(problem.maker[net])]
        return extra

    def _gaining(self, item: int) -> _Choice | None:
        """The cheapest choice that is a gain, or None if none is found."""
        problem, weight = self.problem, self.reach.weight
        base = self.reach.ancestors[item].copy()
        base[item] = False
        ends = np.flatnonzero(self.reach.ancestors[:, item])[:_ENDS]
        items = self.reach.ancestors[ends] & ~base
        made = base[problem.maker]
        going_on = self._goes_on[ends] & ~made
        ending = self.within[ends] & made
        closed = ending & ~self._whole(~self.reach.ancestors[:, item])
        heavy, spared = items @ weight, (ending & ~self._whole(base)) @ self.least
        good = (heavy + spared >= going_on @ self.opening) & (heavy <= _SHARE * self.target)
        good &= ~(items & self._unrooted).any(axis=1)
        price = heavy + going_on @ problem.cout.max(axis=0) - closed @ self.least
        tests = 0
        for at in sorted(np.flatnonzero(good).tolist(), key=lambda x: (price[x], x)):
            nets = [np.flatnonzero(part[at]) for part in (going_on, closed)]
            choice = _Choice(base, items[at], int(ends[at]), *nets)
            opening = self._opening(choice)
            if len(opening) > _GOING_ON:
                continue
            if self._gains(choice, opening):
                return choice
            tests += 1
            if tests == _TESTS:
                break
        return None

    def _whole(self, downset: Bools) -> Bools:
        """Nets all of whose ends a downset holds."""
        missing = np.bincount(
            self.problem.ends.net_of, weights=~downset[self.problem.ends.pins], minlength=self.problem.m
        )
        return np.asarray(missing == 0)

    def _opening(self, choice: _Choice) -> dict[int, float]:
        """What later stages may have to receive, by maker."""
        opening: dict[int, float] = {}
        for net in choice.going_on[self.opening[choice.going_on] > 0].tolist():
            maker = int(self.problem.maker[net])
            opening[maker] = opening.get(maker, 0.0) + float(self.opening[net])
        return opening

    def _gains(self, choice: _Choice, opening: dict[int, float]) -> bool:
        """Whether no step on the way is a loss, whichever of the makers it takes."""
        slack = _ROUNDING * self.target
        return all(
            self._spared(choice, makers) >= sum(opening[x] for x in makers) - slack
            for size in range(1, len(opening) + 1)
            for makers in combinations(sorted(opening), size)
        )

    def _spared(self, choice: _Choice, makers: tuple[int, ...]) -> float:
        """What a step that takes these makers spares later stages at least."""
        reach, problem, base = self.reach, self.problem, choice.base
        taken = reach.ancestors[list(makers)].any(axis=0) & choice.items
        outside = ~base & ~taken
        outside[list(makers)] = True
        closing = self.within[choice.end] & ~outside[problem.maker]
        pins, net_of = problem.ends.pins, problem.ends.net_of
        ends = closing[net_of] & taken[pins] & (pins != problem.maker[net_of])
        nets, net_of_end = np.unique(net_of[ends], return_inverse=True)
        nothing, forward = np.zeros(len(nets)), np.ones(len(nets), dtype=bool)
        charges = CutNets(problem.maker[nets], self.least[nets], nothing, forward, pins[ends], net_of_end)
        weight = np.where(taken, reach.weight, 0.0)
        every = float(weight.sum())
        cuts = LevelCuts(base, outside, reach.arcs, charges)
        return cuts.least([(1.0, 0.0, -weight)], every + 4 * self.target)[0] + every

    def _stride(self, item: int, choice: _Choice) -> Stride:
        problem = self.problem
        constant = problem.weight[:, choice.items].sum(axis=1) + problem.cout[:, choice.going_on].sum(axis=1)
        touched = ~self._whole(~choice.items)
        earlier = choice.base | (choice.items & ~self.reach.ancestors[:, item])
        received = np.flatnonzero(touched & earlier[problem.maker])
        return Stride(np.flatnonzero(choice.items), constant, received, choice.closed)
