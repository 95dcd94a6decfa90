"""Decide a target: windows first, then a walk through what they leave."""

from __future__ import annotations

import numpy as np

from autopipe.partition.attempt import Verdict, levels_within
from autopipe.partition.frontier import Walk
from autopipe.partition.problem import Problem
from autopipe.partition.reach import Reach
from autopipe.partition.strides import Strides
from autopipe.partition.sweep import Path
from autopipe.partition.symmetric import Symmetric

_NARROW = 2_000
"""Partial downsets up to which a level is enumerated beforehand, to narrow the windows."""


def walk(
    problem: Problem,
    reach: Reach,
    strides: Strides,
    branches: Symmetric,
    target: float,
    budget: int,
    width: int | None = None,
) -> Path:
    """Is there a split whose stages all cost no more than the target?

    Args:
        problem: The items; transfers summed with compute, no memory limit, stages may stay empty.
        reach: Their closure.
        strides: What comes along with them.
        branches: Which of them are alike.
        target: T, milliseconds.
        budget: Work in rows by items, about 1e7 a second.
        width: Follow only so many downsets a level: quick, and a split may be missed.

    Returns:
        A split, or the proof that there is none; neither if the budget ended first.

    Complexity: O(items) a row that a kept downset leads to.
    """
    narrowed = levels_within(problem, reach, target, budget // 4, cap=_NARROW)
    if narrowed.verdict is Verdict.IMPOSSIBLE:
        return Path(None, np.inf, True, narrowed.work)
    path = Walk(problem, narrowed.windows, budget - narrowed.work, strides, branches, width).path()
    return Path(path.stage_of, path.bottleneck_ms, path.complete, narrowed.work + path.work)
