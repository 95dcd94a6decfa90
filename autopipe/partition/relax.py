"""A relaxed problem without the small change that makes a graph look wide; its optimum is a lower bound.

::

    u weighs nothing and what it reads is no dearer than what it makes (an unsqueeze of a table that
    every block reads): its readers read what it reads, as if each stage had its own u

        a --> u --> v1, v2          a --> v1, v2

    a leaf that reads only tensors of no cost, or a source that makes one, and weighs next to nothing:
    left out; the stage that has room takes it afterwards

No stage of any split costs more in the relaxed problem. A split of the relaxed problem becomes one of
the whole by giving every item that was left out the best stage that its neighbours allow; if it costs
the same there, it is optimal.
"""

from __future__ import annotations

import enum
from dataclasses import replace

import numpy as np

from autopipe.partition.pooled import pool
from autopipe.partition.problem import Problem
from autopipe.partition.reach import Reach
from autopipe.partition.relaxed import Relaxed

_NEXT_TO_NOTHING = 5e-4
"""Share of the target below which the weight of a loose item may be left out of the bound."""

_UNHEARD = 3e-3
"""The same for an item that neither reads nor makes anything that costs more than a trace."""

_BESIDE = 0.02
"""Share of the target that must weigh beside an item of next to no weight, for the weight to be left out."""

_LOOSE = 0.25
"""The same for an item without weight."""

_TRACE = 1e-5
"""Share of the target that is a trace."""


class Depth(enum.Enum):
    """How much a relaxation may leave out."""

    NOTHING = "nothing"
    NO_WEIGHT = "loose items without weight"
    FRINGE = "loose items without weight, small dead ends, and the weight of small loose sources"
    LOOSE = "loose items of next to no weight"
    POOLED = "loose items without weight; small loose items are counted, not told apart"
    QUIET = "nothing, but small loose items that transfers hardly matter to are counted"
    COARSE = "nothing, but small loose items that transfers matter a little to are counted"
    ALL_SMALL = "items and nets of next to no cost beside anything else"


POOLS = (Depth.POOLED, Depth.QUIET, Depth.COARSE)
"""Those that count items instead of leaving them out."""

_WHOLE = (Depth.QUIET, Depth.COARSE)
"""Those that leave nothing out before."""


def relax(
    problem: Problem, reach: Reach, target: float, depth: Depth, exempt: frozenset[int] = frozenset()
) -> Relaxed:
    """Leave out what is loose.

    Args:
        problem: The items.
        reach: Their closure.
        target: About the bottleneck, for what counts as small.
        depth: How much may be left out.
        exempt: Items that are left as they are.

    Returns:
        The relaxed problem; with a memory limit or pins nothing is left out.

    Complexity: about linear in the pins.
    """
    work = _Bypass(problem, reach, target, Depth.NO_WEIGHT if depth is Depth.POOLED else depth)
    free = problem.limit is None and not problem.first.any() and (problem.last == problem.k - 1).all()
    if depth is Depth.NOTHING or not free:
        return work.result()
    fringe = depth is Depth.FRINGE
    for item in reversed(range(problem.n)) if fringe else range(problem.n):
        if item not in exempt and depth not in _WHOLE:
            work.try_item(item)
    if fringe:
        work.free_sources(reach, exempt)
    left = work.result()
    if depth not in POOLS:
        return left
    quiet, coarse = depth in _WHOLE, depth is Depth.COARSE
    pooled = pool(left.problem, Reach(left.problem), target, quiet=quiet, coarse=coarse)
    return _Bypass(problem, reach, target, Depth.NOTHING).result() if pooled is None else left.then(pooled)


class _Bypass:
    def __init__(self, problem: Problem, reach: Reach, target: float, depth: Depth) -> None:
        self.problem, self.target = problem, target
        small = depth in (Depth.LOOSE, Depth.ALL_SMALL)
        self.nothing = _NEXT_TO_NOTHING if small else 0.0
        self.unheard = _UNHEARD if small else 0.0
        self.dead_end = _UNHEARD if depth is Depth.FRINGE else self.unheard
        self.weights = problem.weight.copy()
        aside = reach.total - reach.before - reach.after + reach.weight
        self.loose = aside > (_BESIDE if depth is Depth.ALL_SMALL else _LOOSE) * target
        self.trace = _TRACE * target if depth is Depth.ALL_SMALL else 0.0
        self.weight = reach.weight
        if depth is Depth.ALL_SMALL:
            self.weights[:, (aside > _BESIDE * target) & (self.weight <= self.nothing * target)] = 0.0
        self.cost = np.maximum(problem.cin, problem.cout).max(axis=0)
        self.least = np.minimum(problem.cin, problem.cout).min(axis=0)
        self.ends = [set(pins) for pins in problem.pins]
        self.nets_of: list[set[int]] = [set() for _ in range(problem.n)]
        for net, pins in enumerate(problem.pins):
            for pin in pins:
                self.nets_of[pin].add(net)
        self.succs = [set(x) for x in problem.succs]
        self.preds = [set(x) for x in problem.preds]
        self.gone: list[int] = []

    def try_item(self, item: int) -> None:
        if not self.loose[item]:
            return
        open_nets = [x for x in self.nets_of[item] if len(self.ends[x]) > 1]
        makes = [x for x in open_nets if self.problem.maker[x] == item]
        reads = [x for x in open_nets if self.problem.maker[x] != item]
        made, read = float(self.least[makes].sum()), float(self.cost[reads].sum())
        traces = max(made, read) <= _TRACE * self.target
        if len(makes) > 1 or (makes and read > max(made, self.trace)):
            return
        least = (self.unheard if makes else self.dead_end) if traces else self.nothing
        if self.weight[item] <= least * self.target and (makes or traces):
            self._leave_share(item, makes, made - read)
            self._drop(item, makes, joins=read <= made)

    def free_sources(self, reach: Reach, exempt: frozenset[int]) -> None:
        """Let loose items that depend on nothing heavy weigh nothing; they then go with what reads them."""
        small = np.zeros(self.problem.n, dtype=bool)
        for item, before in enumerate(self.problem.preds):
            light = reach.before[item] <= _UNHEARD * self.target
            small[item] = light and bool(self.loose[item]) and all(small[x] for x in before)
        small[list(exempt)] = False
        self.weights[:, small] = 0.0

    def _leave_share(self, item: int, makes: list[int], spared: float) -> None:
        """An only reader computes the item in its stage or receives it: it pays the cheaper in any case."""
        ends = {x for net in makes for x in self.ends[net]} - {item}
        if len(ends) == 1 and not self.problem.overlap:
            share = np.minimum(self.problem.weight[:, item], max(spared, 0.0))
            self.weights[:, next(iter(ends))] += share

    def _drop(self, item: int, makes: list[int], *, joins: bool) -> None:
        """Take the item out; what it read goes straight to its readers, or to none where that costs more."""
        readers = {x for net in makes for x in self.ends[net]} - {item}
        for net in makes:
            for x in self.ends[net]:
                self.nets_of[x].discard(net)
            self.ends[net] = set()
        for net in list(self.nets_of[item]):
            self.ends[net].discard(item)
            if readers and joins:
                self.ends[net] |= readers
                for x in readers:
                    self.nets_of[x].add(net)
        self.nets_of[item] = set()
        for before in self.preds[item]:
            self.succs[before].discard(item)
            self.succs[before] |= self.succs[item]
        for after in self.succs[item]:
            self.preds[after].discard(item)
            self.preds[after] |= self.preds[item]
        self.gone.append(item)

    def result(self) -> Relaxed:
        problem, gone = self.problem, set(self.gone)
        kept = np.array([x for x in range(problem.n) if x not in gone], dtype=np.int64)
        if not gone:
            return Relaxed(replace(problem, weight=self.weights), kept, ())
        place = {int(item): at for at, item in enumerate(kept)}
        nets = [x for x in range(problem.m) if len(self.ends[x]) > 1]
        smaller = replace(
            problem,
            members=tuple(problem.members[x] for x in kept),
            preds=tuple(tuple(sorted(place[y] for y in self.preds[x])) for x in kept),
            succs=tuple(tuple(sorted(place[y] for y in self.succs[x])) for x in kept),
            weight=self.weights[:, kept],
            pins=tuple(tuple(sorted(place[y] for y in self.ends[x])) for x in nets),
            maker=np.array([place[int(problem.maker[x])] for x in nets], dtype=np.int64),
            cin=problem.cin[:, nets],
            cout=problem.cout[:, nets],
            first=problem.first[kept],
            last=problem.last[kept],
            fixed=problem.fixed[kept],
            saved=problem.saved[kept],
            kept=problem.kept[nets],
            fwd=problem.fwd[:, kept],
            tied=(),
        )
        return Relaxed(smaller, kept, tuple(sorted(gone)))
