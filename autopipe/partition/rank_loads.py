"""What a stage may cost and hold where several share a rank: as it is, or with its forward run twice."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from autopipe.partition.lean import lean_problem
from autopipe.partition.loads import stage_loads
from autopipe.partition.problem import Floats, Ints, Problem


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run a stage.

    Args:
        times: The items priced in milliseconds, without a memory limit.
        held: The items priced by the bytes that a stage holds; None without a limit.
        again: The forward is run twice.
    """

    times: Problem
    held: Problem | None
    again: bool


@dataclass(frozen=True, slots=True)
class Spread:
    """A split over ranks.

    Args:
        slowest_ms: Of the ranks.
        stage_of: Stage of every item.
        again: Stages that run their forward twice.
    """

    slowest_ms: float
    stage_of: Ints
    again: tuple[bool, ...]


class RankLoads:
    """The ways to run a stage, and what ranks may hold.

    Args:
        problem: The items; with a memory limit, a stage that holds more than that may run twice.
        n_ranks: Ranks.
        limit: What a rank may hold, bytes.
    """

    def __init__(self, problem: Problem, n_ranks: int, limit: int | None) -> None:
        """Price the ways."""
        self.problem, self.n_ranks = problem, n_ranks
        self.limit = np.inf if limit is None else limit + 0.5
        plain = replace(problem, limit=None)
        if limit is None:
            self.ways = [Way(plain, None, again=False)]
            return
        self.ways = [Way(plain, lean_problem(replace(problem, allow_recompute=False)), again=False)]
        if problem.allow_recompute:
            twice = replace(plain, weight=problem.weight + problem.fwd)
            self.ways.append(Way(twice, lean_problem(problem), again=True))

    @property
    def everything(self) -> int:
        """More bytes than any stage holds."""
        problem = self.problem
        most = max(problem.in_flight) * (problem.saved.sum() + problem.kept.sum())
        return int(problem.fixed.sum() + most) + 1

    def summed(self, by_stage: Floats) -> Floats:
        """Sums by rank of what stages have, `[ranks]`."""
        total = np.zeros(self.n_ranks)
        np.add.at(total, np.arange(len(by_stage)) % self.n_ranks, by_stage)
        return total

    def spread(self, stage_of: Ints, again: tuple[bool, ...]) -> Spread | None:
        """Price a split, each stage run in its way; None if a rank holds too much.

        Args:
            stage_of: Stage of every item.
            again: Stages that run their forward twice.

        Returns:
            The split with its slowest rank.
        """
        chosen = np.array(again, dtype=np.int64)
        stages = np.arange(self.problem.k)
        ms = np.array([stage_loads(way.times, stage_of) for way in self.ways])[chosen, stages]
        held = [stage_loads(way.held, stage_of) for way in self.ways if way.held is not None]
        if held and (self.summed(np.array(held)[chosen, stages]) > self.limit).any():
            return None
        return Spread(float(self.summed(ms).max()), stage_of, again)
