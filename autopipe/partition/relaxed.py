"""What a relaxation keeps of a problem, and how a split of it becomes one of the whole."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from autopipe.partition.problem import Floats, Ints, Problem


@dataclass(frozen=True, slots=True)
class Units:
    """Items that are counted, and the units of the relaxed problem that stand for them.

    Args:
        items: Items of the whole problem.
        counts: How many units each stands for.
        units: The units, in their order.
    """

    items: Ints
    counts: Ints
    units: Ints


@dataclass(frozen=True, slots=True)
class Relaxed:
    """The relaxed problem and which items it kept.

    Args:
        problem: The relaxed problem.
        kept: For each of its items the item of the whole problem, -1 for a unit of a pool.
        dropped: The others, in topological order.
        pools: How those of them that are counted are.
    """

    problem: Problem
    kept: Ints
    dropped: tuple[int, ...]
    pools: tuple[Units, ...] = ()

    def whole(self) -> tuple[Ints, Ints]:
        """Items of the whole problem that were kept, and which items of the relaxed one they are."""
        at = np.flatnonzero(self.kept >= 0)
        return self.kept[at], at

    def then(self, other: Relaxed) -> Relaxed:
        """This relaxation and another one of what it left.

        Args:
            other: Of its problem.

        Returns:
            Both as one.
        """
        kept = np.where(other.kept >= 0, self.kept[other.kept], -1)
        dropped = (*self.dropped, *self.kept[list(other.dropped)].tolist())
        pools = tuple(replace(pool, items=self.kept[pool.items]) for pool in other.pools)
        return Relaxed(other.problem, kept, tuple(sorted(dropped)), pools)


def place_dropped(problem: Problem, relaxed: Relaxed, stage_of: Ints) -> Ints:
    """Give every item that was left out a stage: its first reader's, or where there is most room.

    Args:
        problem: The whole problem.
        relaxed: What was kept of it.
        stage_of: Stages of the relaxed problem's items.

    Returns:
        A stage for every item, no item before what it depends on.
    """
    stage = np.full(problem.n, -1, dtype=np.int64)
    items, at = relaxed.whole()
    stage[items] = stage_of[at]
    floor = np.zeros(problem.n, dtype=np.int64)
    for item in range(problem.n):
        floor[item] = max(
            (max(int(stage[x]), int(floor[x])) for x in problem.preds[item]), default=int(problem.first[item])
        )
    room = -_loads(problem, stage)
    for item in reversed(relaxed.dropped):
        ceiling = min((int(stage[x]) for x in problem.succs[item]), default=problem.k - 1)
        weight = problem.weight[:, item].max()
        if weight == 0 and problem.succs[item]:
            stage[item] = ceiling
            continue
        low = min(int(floor[item]), ceiling)
        stage[item] = low + int(np.argmax(room[low : ceiling + 1]))
        room[stage[item]] -= weight
    return stage


def _loads(problem: Problem, stage: Ints) -> Floats:
    """Cost of every stage; items of stage -1 are nowhere."""
    loads = np.zeros(problem.k)
    for item in np.flatnonzero(stage >= 0).tolist():
        loads[stage[item]] += problem.weight[problem.kind_of_stage[stage[item]], item]
    for net, pins in enumerate(problem.pins):
        touched = {int(stage[x]) for x in pins} - {-1}
        home = int(stage[problem.maker[net]])
        if len(touched) > 1:
            for s in touched:
                kind = problem.kind_of_stage[s]
                loads[s] += problem.cout[kind, net] if s == home else problem.cin[kind, net]
    return loads
