"""Pins that leave a stage empty: which ones, and which stages would do.

::

    a -> b -> c -> d      pin c to 3 of 5        stages that an item may be in:
                                                 a 0-3   b 0-3   c 3   d 3-4
    stages 0, 1 and 2 need three of a and b

A split with no stage empty exists just where a different item can be found for every stage: two that
stand against the flow can change places, since both their ranges of stages are ordered as the flow is. So
a bipartite matching decides.
"""

from __future__ import annotations

from collections.abc import Mapping

from autopipe.errors import PartitionError
from autopipe.partition.objective import Objective
from autopipe.partition.problem import Problem
from autopipe.partition.refusals import listed, named

_TRIED = 64
"""More pins than that are not told apart."""


def check_pins(objective: Objective, problem: Problem, pin: Mapping[str, int]) -> None:
    """Raise if the pins leave too few nodes for some stages.

    Args:
        objective: Knows the names.
        problem: The items with the stages that each may be in.
        pin: Node name to stage, counted from 0.

    Raises:
        PartitionError: Names the pins, the stages and the nodes that are left for them.

    Complexity: O(k (n + k)); where it raises, once more a pin and stage.
    """
    if not pin or problem.allow_empty:
        return
    reach = _Reach(objective, problem)
    if not reach.starved(pin):
        return
    culprits = dict(pin)
    if len(pin) <= _TRIED:
        for name in pin:
            rest = {x: stage for x, stage in culprits.items() if x != name}
            if reach.starved(rest):
                culprits = rest
    stages = reach.starved(culprits)
    left = [node for item in reach.candidates(stages, culprits) for node in problem.members[item]]
    pins = ", ".join(f"{name!r}: {stage}" for name, stage in culprits.items())
    raise PartitionError(
        f"pin={{{pins}}} leaves too few nodes for {_stages(stages)} of {problem.k}.",
        where=f"{_stages(stages)} can only take {listed(objective, left)}." if left else "",
        why=_why(objective, culprits, stages),
        remedy=_remedy(reach, culprits, problem.k),
    )


def _stages(stages: list[int]) -> str:
    if len(stages) == 1:
        return f"stage {stages[0]}"
    return f"stages {', '.join(map(str, stages[:-1]))} and {stages[-1]}"


def _why(objective: Objective, culprits: Mapping[str, int], stages: list[int]) -> str:
    early = next((name for name, stage in culprits.items() if stage < min(stages)), None)
    late = next((name for name, stage in culprits.items() if stage > max(stages)), None)
    if late is None and early is not None:
        said = f"What {named(objective, objective.index[early])} depends on cannot come in a later stage"
    else:
        name = late or next(iter(culprits))
        said = f"What depends on {named(objective, objective.index[name])} cannot come in an earlier stage"
    return f"{said}, and no stage may be empty."


def _remedy(reach: _Reach, culprits: dict[str, int], k: int) -> str:
    """Stages that one of the pins could have, the others as they are."""
    for name in culprits:
        works = [s for s in range(k) if not reach.starved({**culprits, name: s})]
        if works:
            return f"pin={{{name!r}: {' or '.join(map(str, works[:3]))}}}."
    return f"without the pins of {', '.join(map(repr, culprits))}."


class _Reach:
    """Stages that every item may be in, for any set of pins."""

    def __init__(self, objective: Objective, problem: Problem) -> None:
        self.problem = problem
        self.item_of = {objective.names[node]: i for i, nodes in enumerate(problem.members) for node in nodes}

    def ranges(self, pin: Mapping[str, int]) -> tuple[list[int], list[int]]:
        """Earliest and latest stage of every item."""
        problem = self.problem
        first, last = [0] * problem.n, [problem.k - 1] * problem.n
        for name, stage in pin.items():
            item = self.item_of[name]
            first[item], last[item] = max(first[item], stage), min(last[item], stage)
        for item in range(problem.n):
            first[item] = max([first[item], *(first[x] for x in problem.preds[item])])
        for item in reversed(range(problem.n)):
            last[item] = min([last[item], *(last[x] for x in problem.succs[item])])
        return first, last

    def starved(self, pin: Mapping[str, int]) -> list[int]:
        """Stages that have fewer items among them than they are, or none; all of them if pins clash."""
        first, last = self.ranges(pin)
        if any(a > b for a, b in zip(first, last, strict=True)):
            return list(range(self.problem.k))
        able = [[i for i in range(self.problem.n) if first[i] <= s <= last[i]] for s in range(self.problem.k)]
        taken: dict[int, int] = {}
        for stage in range(self.problem.k):
            seen: dict[int, None] = {}
            if not _augment(stage, able, taken, seen):
                return sorted({stage, *(taken[item] for item in seen)})
        return []

    def candidates(self, stages: list[int], pin: Mapping[str, int]) -> list[int]:
        """Items that may be in one of the stages."""
        first, last = self.ranges(pin)
        return [i for i in range(self.problem.n) if any(first[i] <= s <= last[i] for s in stages)]


def _augment(stage: int, able: list[list[int]], taken: dict[int, int], seen: dict[int, None]) -> bool:
    """Find an item for a stage, moving others if need be; ``seen`` are the items that were asked."""
    free = next((item for item in able[stage] if item not in taken), None)
    if free is not None:
        taken[free] = stage
        return True
    for item in able[stage]:
        if item not in seen:
            seen[item] = None
            if _augment(taken[item], able, taken, seen):
                taken[item] = stage
                return True
    return False
