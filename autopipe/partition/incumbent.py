"""The best split so far and the best bound so far."""

from __future__ import annotations

import numpy as np

from autopipe.partition.bounds import simple_bound
from autopipe.partition.chain_dp import split_order
from autopipe.partition.polish import polish
from autopipe.partition.problem import Ints, Problem

RELATIVE = 1e-9
"""Splits whose bottlenecks differ by less are the same."""


class Incumbent:
    """A split of the items with its bottleneck, and a proven bound.

    Args:
        problem: The items.
        lower: A bound known beforehand, milliseconds.
    """

    def __init__(self, problem: Problem, lower: float = 0.0) -> None:
        """Start without a split."""
        self.problem = problem
        self.upper, self.method = np.inf, "none"
        self.stage_of: Ints | None = None
        self.lower = max(lower, simple_bound(problem))

    @property
    def below(self) -> float:
        """A target that only a better split meets."""
        return self.upper * (1 - RELATIVE)

    def closed(self) -> bool:
        """Do split and bound meet?"""
        return self.lower >= self.below

    def prove(self, bound: float) -> None:
        """No split is below that."""
        self.lower = max(self.lower, bound)

    def beat(self, upper: float) -> None:
        """Count only splits that are better than one that is kept elsewhere."""
        if upper <= self.upper:
            self.upper, self.stage_of, self.method = upper, None, "none"

    def try_order(self, order: list[int], name: str) -> None:
        """Take the best split of an order if it is better."""
        bottleneck, stage_of = split_order(self.problem, order, self.upper)
        if bottleneck < self.below:
            self.upper, self.stage_of, self.method = bottleneck, stage_of, name

    def offer(self, stage_of: Ints, name: str) -> Ints:
        """Take a split if it is better, repaired where that is easy; returns the repaired one."""
        stage, bottleneck = polish(self.problem, stage_of)
        if self.problem.limit is None and bottleneck < self.below:
            self.upper, self.stage_of, self.method = bottleneck, stage, name
        self.try_order(by_stage(stage), name)
        return stage


def by_stage(stage_of: Ints) -> list[int]:
    """Items in an order that goes stage by stage, topological if the stages agree with precedence."""
    return sorted(range(len(stage_of)), key=lambda x: (int(stage_of[x]), x))
