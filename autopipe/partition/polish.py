"""Small repairs of a split: single items leave the dearest stage while that helps."""

from __future__ import annotations

import numpy as np

from autopipe.partition.problem import Floats, Ints, Problem

_MOVES = 400
"""Items moved at most."""

_LESS = 1 - 1e-12


def polish(problem: Problem, stage_of: Ints) -> tuple[Ints, float]:
    """Move items one by one out of the dearest stage as long as it gets cheaper and no other as dear.

    Args:
        problem: The items; without a memory limit.
        stage_of: A split.

    Returns:
        A split that is as good or better, and its bottleneck in milliseconds.

    Complexity: the pins of the items of one stage a move.
    """
    work = _Split(problem, stage_of)
    for _ in range(_MOVES):
        if problem.limit is not None or not work.improve():
            break
    return work.stage, float(work.loads.max())


def stage_loads(problem: Problem, stage_of: Ints) -> Floats:
    """Cost of every stage of a split, milliseconds.

    Args:
        problem: The items.
        stage_of: Their stages.

    Returns:
        `[k]`.
    """
    return _Split(problem, stage_of).loads


class _Split:
    """A split with the parts of every stage's load, kept up to date."""

    def __init__(self, problem: Problem, stage_of: Ints) -> None:
        self.problem, self.stage = problem, stage_of.copy()
        self.nets_of: list[list[int]] = [[] for _ in range(problem.n)]
        for net, pins in enumerate(problem.pins):
            for pin in pins:
                self.nets_of[pin].append(net)
        self.parts = np.zeros((3, problem.k))
        for item in range(problem.n):
            self._count(self.parts, item)
        for net in range(problem.m):
            self._charge(self.parts, net, 1.0)

    @property
    def loads(self) -> Floats:
        """Cost of every stage."""
        return self._combined(self.parts)

    def _combined(self, parts: Floats) -> Floats:
        combined: Floats = parts.max(axis=0) if self.problem.overlap else parts.sum(axis=0)
        return combined

    def _count(self, parts: Floats, item: int, sign: float = 1.0) -> None:
        at = int(self.stage[item])
        parts[0, at] += sign * self.problem.weight[self.problem.kind_of_stage[at], item]

    def _charge(self, parts: Floats, net: int, sign: float) -> None:
        problem = self.problem
        touched = {int(self.stage[pin]) for pin in problem.pins[net]}
        if len(touched) == 1:
            return
        home = int(self.stage[problem.maker[net]])
        for at in touched:
            kind = problem.kind_of_stage[at]
            if at == home:
                parts[2, at] += sign * problem.cout[kind, net]
            else:
                parts[1, at] += sign * problem.cin[kind, net]

    def _moved(self, item: int, to: int) -> Floats:
        """Parts of the loads with an item in another stage."""
        parts, home = self.parts.copy(), self.stage[item]
        for sign, at in ((-1.0, home), (1.0, to)):
            self.stage[item] = at
            self._count(parts, item, sign)
            for net in self.nets_of[item]:
                self._charge(parts, net, sign)
        self.stage[item] = home
        return parts

    def improve(self) -> bool:
        """Make the move that lowers the dearest stage most, if any does."""
        problem, loads = self.problem, self.loads
        worst = int(loads.argmax())
        best: tuple[float, int, int] | None = None
        for item in np.flatnonzero(self.stage == worst).tolist():
            low = max([int(problem.first[item]), *(int(self.stage[x]) for x in problem.preds[item])])
            high = min([int(problem.last[item]), *(int(self.stage[x]) for x in problem.succs[item])])
            for to in range(low, high + 1):
                if to == worst:
                    continue
                after = self._combined(self._moved(item, to))
                others = np.delete(after, worst)
                changed = others != np.delete(loads, worst)
                if (others[changed] >= loads[worst] * _LESS).any() or after[worst] >= loads[worst] * _LESS:
                    continue
                dearest = float(max(after[worst], others[changed].max(initial=0.0)))
                if best is None or dearest < best[0]:
                    best = dearest, item, to
        if best is None:
            return False
        _, item, to = best
        self.parts = self._moved(item, to)
        self.stage[item] = to
        return True
