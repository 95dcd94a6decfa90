"""Which items each item depends on, which depend on it, and what both weigh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopipe.partition.problem import Floats, Ints, Problem

Bools = NDArray[np.bool_]

_ROWS = 64
"""Items whose ancestors are turned into numbers at once."""


@dataclass(frozen=True, slots=True)
class RootedNets:
    """Nets with one end that comes before (or after) all others, laid out one after the other.

    Args:
        root: That end, `[nets]`.
        send: What the stage that sends pays, `[nets]` ms.
        receive: What a stage that receives pays, `[nets]` ms.
        ends: The other ends, net by net.
        net_of_end: Which net each is of.
        aside: For each of them the weight that is neither before the earlier nor after the later of it and
            the root: a stage that lies between them without touching either weighs no more.
    """

    root: Ints
    send: Floats
    receive: Floats
    ends: Ints
    net_of_end: Ints
    aside: Floats


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
        self.before: Floats
        self.after: Floats
        self._weigh()
        self.least: Floats = np.minimum(problem.cin, problem.cout).min(axis=0)
        self.cin: Floats = problem.cin.min(axis=0)
        self.cout: Floats = problem.cout.min(axis=0)
        self.rooted, self.corooted = self._nets(problem)
        self.preds = self._reduced(problem)
        arcs = [(item, before) for item, group in enumerate(self.preds) for before in group]
        self.arcs: Ints = np.array(arcs, dtype=np.int64).reshape(-1, 2).T

    def _weigh(self) -> None:
        """Sum up what each item depends on, and what depends on it."""
        n = len(self.ancestors)
        self.before, self.after = np.zeros(n), np.zeros(n)
        for start in range(0, n, _ROWS):
            rows = slice(start, start + _ROWS)
            among = self.ancestors[rows].astype(np.float64)
            self.before[rows] = among @ self.weight
            self.after += self.weight[rows] @ among

    def _nets(self, problem: Problem) -> tuple[RootedNets, RootedNets]:
        """Nets whose first pin comes before all others, and of the rest those whose last comes after all.

        ``made_first`` says which nets are made before all that reads them.
        """
        pins, net_of = problem.ends.pins, problem.ends.net_of
        stop = np.cumsum(problem.ends.size)
        head, tail = pins[stop - problem.ends.size], pins[stop - 1]

        def whole(related: Bools) -> Bools:
            strangers = np.bincount(net_of, weights=~related, minlength=problem.m)
            return np.asarray(strangers == 0)

        rooted = whole(self.ancestors[pins, head[net_of]])
        corooted = whole(self.ancestors[tail[net_of], pins]) & ~rooted
        makes = head == problem.maker
        self.made_first: Bools = rooted & makes
        both = []
        for chosen, root in ((rooted, head), (corooted, tail)):
            ends = chosen[net_of] & (pins != root[net_of])
            earlier, later = (root[net_of[ends]], pins[ends])[:: 1 if root is head else -1]
            sends = np.where(makes & rooted, self.cout, self.least)[chosen]
            receives = np.where(makes & rooted, self.cin, self.least)[chosen]
            rank = np.cumsum(chosen) - 1
            aside = self.total - self.before[earlier] - self.after[later]
            both.append(RootedNets(root[chosen], sends, receives, pins[ends], rank[net_of[ends]], aside))
        return both[0], both[1]

    def _reduced(self, problem: Problem) -> tuple[tuple[int, ...], ...]:
        """Immediate predecessors only."""
        kept = []
        for before in problem.preds:
            group = list(before)
            among = self.ancestors[np.ix_(group, group)]
            kept.append(tuple(p for i, p in enumerate(group) if among[:, i].sum() == 1))
        return tuple(kept)
