"""Repeated modules in a row are drawn as one box.

::

    h.0 -> h.1 -> h.2 -> h.3       folds: the same inside, each read by the next alone
    d.0 -> d.1 -> d.2              does not fold: a later module reads d.0 and d.1 too
     '------'------> up
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from autopipe.view.grouping import Group

__all__ = ["SHORTEST_FOLD", "folded"]

SHORTEST_FOLD = 3  # two boxes are as easy to read as one that says "2 modules"

_NUMBERED = re.compile(r"(.*?)\.?(\d+)")


def folded(groups: Sequence[Group], edges: Sequence[tuple[str, str]]) -> list[list[Group]]:
    """Put groups that are drawn as one box together.

    Args:
        groups: The groups, in an order in which none reads a later one.
        edges: (maker, reader) of nodes, by name; none at all: nothing is known of them.

    Returns:
        Runs of the groups, most of them of one.
    """
    group_of = {one.cost.name: number for number, group in enumerate(groups) for one in group.members}
    readers: dict[int, set[int]] = defaultdict(set)
    for maker, reader in edges:
        if group_of[maker] != group_of[reader]:
            readers[group_of[maker]].add(group_of[reader])
    number_of = {(group.stage, group.fqn): number for number, group in enumerate(groups)}
    runs: dict[int, list[Group]] = {}  # by the last of each: what any of them reads comes before that
    taken: set[int] = set()
    for number, group in enumerate(groups):
        if number in taken:
            continue
        run = [number]
        while (after := number_of.get((group.stage, _next_name(groups[run[-1]])))) is not None:
            if not _repeats(groups[run[-1]], groups[after]) or (edges and readers[run[-1]] != {after}):
                break
            run.append(after)
        run = run if len(run) >= SHORTEST_FOLD else run[:1]
        taken.update(run)
        runs[run[-1]] = [groups[one] for one in run]
    return [runs[last] for last in sorted(runs)]


def _next_name(group: Group) -> str:
    match = _NUMBERED.fullmatch(group.fqn)
    if group.loose or match is None:
        return ""
    stem, number = match.groups()
    return f"{stem}{'.' if stem else ''}{int(number) + 1}"


def _repeats(group: Group, other: Group) -> bool:
    return not other.loose and _inside(group) == _inside(other)


def _inside(group: Group) -> list[tuple[str, ...]]:
    return [
        (one.cost.fqn[len(group.fqn) :], "" if one.cost.fqn == group.fqn else one.op) for one in group.members
    ]
