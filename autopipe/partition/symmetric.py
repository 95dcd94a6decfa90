r"""Branches that can change places, such as the experts of a mixture: one order of them stands for all.

::

         /-- up 0 -- down 0 --\        a split that has up 0 in an earlier stage than up 1, and the one that
    norm --- up 1 -- down 1 --- stack  has it the other way round, cost the same: of downsets that differ
         \-- up 2 -- down 2 --/        in no more than that only one need be followed

With r branches in a block up to r! downsets become one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reach import Bools, Reach

_SAME = 1e-12
"""Costs that differ by less, relatively, are the same."""

_SHORT = 2**-40
"""Weight of a position in a branch when branches are put in order; more positions are not told apart."""


@dataclass(frozen=True, slots=True)
class Symmetric:
    """Groups of branches that can change places.

    Args:
        groups: For each group the items of its branches, `[branches, items]`; a column is one role.
    """

    groups: tuple[Ints, ...]

    @classmethod
    def of(cls, problem: Problem, reach: Reach) -> Symmetric:
        """Find them.

        Args:
            problem: The items.
            reach: Their closure.

        Returns:
            Disjoint groups. A branch is an item and all that depends on it and on no other item of its kind.

        Complexity: about linear in the items, times their descendants where several read the same.
        """
        kinds: dict[object, list[int]] = {}
        for item in range(problem.n):
            kinds.setdefault(_kind(problem, item), []).append(item)
        taken = np.zeros(problem.n, dtype=bool)
        swaps = _Swaps(problem)
        groups = []
        for roots in kinds.values():
            if len(roots) > 1 and not taken[roots].any():
                for group in swaps.alike(_branches(reach, roots)):
                    taken[group.ravel()] = True
                    groups.append(group)
        return cls(tuple(groups))

    def sorted(self, members: Bools) -> tuple[Bools, Ints]:
        """Put the branches of every downset in order.

        Args:
            members: Downsets, `[rows, n]`.

        Returns:
            The same with their branches in order, and for each row and branch which one came there, group by
            group, `[rows, branches]`.
        """
        turns = []
        members = members.copy()
        for group in self.groups:
            held = members[:, group]
            key = held @ (2.0 ** -np.minimum(np.arange(group.shape[1]), 40)) + _SHORT * held.sum(axis=2)
            turn = np.argsort(-key, axis=1, kind="stable")
            members[:, group.ravel()] = np.take_along_axis(held, turn[:, :, None], axis=1).reshape(
                len(held), -1
            )
            turns.append(turn)
        return members, np.concatenate(turns, axis=1)

    def turned(self, turn: Ints, n: int) -> Ints:
        """Where each of n items went in one row of such turns, `[n]`."""
        to, at = np.arange(n), 0
        for group in self.groups:
            to[group[turn[at : at + len(group)]]] = group
            at += len(group)
        return to


def _kind(problem: Problem, item: int) -> object:
    """What branches that can change places have in common at their beginning."""
    window = int(problem.first[item]), int(problem.last[item])
    weight = tuple(float(f"{ms:.9g}") for ms in problem.weight[:, item])
    return problem.preds[item] or item, window, weight


def _branches(reach: Reach, roots: list[int]) -> list[Ints]:
    """What depends on one of the roots alone."""
    below = reach.ancestors[:, roots]
    alone = below.sum(axis=1) == 1
    return [np.flatnonzero(below[:, at] & alone) for at in range(len(roots))]


class _Swaps:
    """Tells whether two branches can change places."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.costs: dict[tuple[int, tuple[int, ...]], Floats] = {}
        for net, pins in enumerate(problem.pins):
            key, costs = (
                (int(problem.maker[net]), pins),
                np.stack([problem.cin[:, net], problem.cout[:, net]]),
            )
            self.costs[key] = self.costs.get(key, 0.0) + costs
        self.nets_of: list[list[int]] = [[] for _ in range(problem.n)]
        for net, pins in enumerate(problem.pins):
            for pin in pins:
                self.nets_of[pin].append(net)

    def alike(self, branches: list[Ints]) -> Iterator[Ints]:
        """Groups of branches each of which can change places with the first."""
        left = branches
        while len(left) > 1:
            first, *others = left
            same = [other for other in others if self._can(first, other)]
            if same:
                yield np.stack([first, *same])
            chosen = {id(one) for one in (first, *same)}
            left = [one for one in left if id(one) not in chosen]

    def _can(self, one: Ints, other: Ints) -> bool:
        """Does everything stay as it is if they change places, item by item in their order?"""
        problem = self.problem
        if len(one) != len(other) or not _close(problem.weight[:, one], problem.weight[:, other]):
            return False
        pairs = list(zip(one.tolist(), other.tolist(), strict=True))
        to = dict(pairs) | {b: a for a, b in pairs}
        return all(self._stays(item, to) for item in to)

    def _stays(self, item: int, to: dict[int, int]) -> bool:
        """Do the neighbours of an item go to those of the item in whose place it comes?"""
        problem, place = self.problem, to[item]
        if (problem.first[item], problem.last[item]) != (problem.first[place], problem.last[place]):
            return False
        for near in (problem.preds, problem.succs):
            if sorted(to.get(x, x) for x in near[item]) != list(near[place]):
                return False
        for net in self.nets_of[item]:
            maker = int(problem.maker[net])
            pins = tuple(sorted(to.get(x, x) for x in problem.pins[net]))
            twin = self.costs.get((to.get(maker, maker), pins))
            if twin is None or not _close(twin, self.costs[maker, problem.pins[net]]):
                return False
        return True


def _close(some: Floats, others: Floats) -> bool:
    return bool(np.allclose(some, others, rtol=_SAME, atol=0.0))
