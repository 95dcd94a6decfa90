"""Which items each item depends on, which depend on it, and what both weigh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopipe.partition.problem import Floats, Problem

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class RootedNet:
    """A net with one end that comes before (or after) all others.

    Args:
        root: That end.
        ends: The others.
        aside: For each other end the weight that is neither before the earlier nor after the later
            of the two: a stage that lies between them without touching either weighs no more.
        send: What the stage that sends pays.
        receive: What a stage that receives pays.
    """

    root: int
    ends: NDArray[np.int64]
    aside: Floats
    send: float
    receive: float


class RootedNets:
    """Rooted nets, with a quick look at which are open.

    Args:
        nets: All of them.
    """

    def __init__(self, nets: list[RootedNet]) -> None:
        """Lay the ends out in one array."""
        self.nets = nets
        self._roots = np.array([net.root for net in nets], dtype=np.int64)
        self._ends = np.concatenate([net.ends for net in nets]) if nets else np.zeros(0, dtype=np.int64)
        sizes = [len(net.ends) for net in nets]
        self._starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)

    def open(self, root_settled: Bools, end_settled: Bools) -> list[RootedNet]:
        """Nets whose root is not settled on the far side and some of whose ends are not on the near side."""
        if not self.nets:
            return []
        loose = np.add.reduceat((~end_settled)[self._ends], self._starts, dtype=np.int64) > 0
        chosen = np.flatnonzero(loose & ~root_settled[self._roots])
        return [self.nets[x] for x in chosen.tolist()]


class Reach:
    """Ancestors, descendants and roots of nets of a problem.

    Args:
        problem: The items, in topological order.

    Complexity: O(n^2 / 8 + arcs n / 8) bytes.
    """

    def __init__(self, problem: Problem) -> None:
        """Close the precedence and find for every net the item that all its other ends depend on."""
        n = problem.n
        ancestors = np.zeros((n, n), dtype=bool)
        for item, before in enumerate(problem.preds):
            if before:
                ancestors[item] = ancestors[list(before)].any(axis=0)
            ancestors[item, item] = True
        self.ancestors: Bools = ancestors
        self.weight: Floats = problem.weight.min(axis=0)
        self.total = float(self.weight.sum())
        self.before: Floats = ancestors @ self.weight
        self.after: Floats = self.weight @ ancestors
        self.least: Floats = np.minimum(problem.cin, problem.cout).min(axis=0)
        self.cin: Floats = problem.cin.min(axis=0)
        self.cout: Floats = problem.cout.min(axis=0)
        rooted: list[RootedNet] = []
        corooted: list[RootedNet] = []
        for net, pins in enumerate(problem.pins):
            head, tail = pins[0], pins[-1]
            least = float(self.least[net])
            if ancestors[list(pins), head].all():
                ends = np.array(pins[1:])
                makes = head == problem.maker[net]
                send, receive = (float(self.cout[net]), float(self.cin[net])) if makes else (least, least)
                aside = self.total - self.before[head] - self.after[ends]
                rooted.append(RootedNet(head, ends, aside, send, receive))
            elif ancestors[tail, list(pins)].all():
                ends = np.array(pins[:-1])
                aside = self.total - self.before[ends] - self.after[tail]
                corooted.append(RootedNet(tail, ends, aside, least, least))
        self.rooted, self.corooted = RootedNets(rooted), RootedNets(corooted)
        self.preds = self._reduced(problem)

    def _reduced(self, problem: Problem) -> tuple[tuple[int, ...], ...]:
        """Immediate predecessors only."""
        kept = []
        for before in problem.preds:
            group = list(before)
            among = self.ancestors[np.ix_(group, group)]
            kept.append(tuple(p for i, p in enumerate(group) if among[:, i].sum() == 1))
        return tuple(kept)
