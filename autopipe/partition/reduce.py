"""Lossless reduction: items that never need a cut between them become one.

::

    u --e--> v     u reads other nets r1, r2; v is the first of all that reads u
    Move u to v's stage: that stage no longer receives e but may receive r1, r2 and computes u;
    u's old stage no longer sends e nor computes u but may send r1, r2.
    If  w(u) + cost(r1) + cost(r2) <= cost(e)  no stage gets dearer, so u and v may be fused.

The mirror image moves v to the stage of u when u is the last that v depends on. Zero-weight views,
parameter reads and their casts, and side branches that are cheaper to keep than to send all go this
way. Nothing is moved across a pin, and with a memory limit only items without memory move.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from autopipe.partition.problem import Ints, Problem


@dataclass(frozen=True, slots=True)
class Reduced:
    """A smaller problem and where its items came from.

    Args:
        problem: The smaller problem.
        item_of: Its item for every item of the larger one.
    """

    problem: Problem
    item_of: Ints

    def expand(self, stage_of: Ints) -> Ints:
        """Stages of the larger problem's items."""
        expanded: Ints = stage_of[self.item_of]
        return expanded


def reduce_problem(problem: Problem) -> Reduced:
    """Fuse until no rule applies.

    Args:
        problem: A problem whose stages may stay empty: fusing can take a stage's last item.

    Returns:
        A problem with the same optimum (with one of its optima, where there are several).

    Complexity: linear in the pins a fusion; about linear altogether on narrow graphs.
    """
    return contract(problem, fused(problem))


def fused(problem: Problem, among: Iterable[int] | None = None) -> list[int]:
    """The class of every item, named by one of its items, after fusing until no rule applies.

    Args:
        problem: The items.
        among: Items that a rule may apply to by now; None: all.

    Returns:
        A leader an item.
    """
    work = _Fusion(problem)
    work.run(range(problem.n) if among is None else among)
    return work.leaders()


class _Fusion:
    """Items as union-find classes, with the succs, preds and nets of each class kept up to date."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        n = problem.n
        self.parent = list(range(n))
        self.succs = [set(x) for x in problem.succs]
        self.preds = [set(x) for x in problem.preds]
        self.weight = problem.weight.copy()
        self.ends = [set(x) for x in problem.pins]
        self.nets_of: list[set[int]] = [set() for _ in range(n)]
        for net, pins in enumerate(problem.pins):
            for pin in pins:
                self.nets_of[pin].add(net)
        self.cost = np.maximum(problem.cin, problem.cout)
        self.least = np.minimum(problem.cin, problem.cout)
        heavy = (problem.fixed > 0) | (problem.saved > 0)
        self.fixed = heavy if problem.limit is not None else np.zeros(n, dtype=bool)

    def leaders(self) -> list[int]:
        return [self.find(item) for item in range(self.problem.n)]

    def find(self, item: int) -> int:
        while self.parent[item] != item:
            self.parent[item] = self.parent[self.parent[item]]
            item = self.parent[item]
        return item

    def run(self, among: Iterable[int]) -> None:
        queue = list(among)
        waiting = set(queue)
        while queue:
            later: list[int] = []
            for item in queue:
                waiting.discard(item)
                if self.parent[item] == item:
                    self._settle(item, later, waiting)
            queue = sorted(later)

    def _settle(self, item: int, later: list[int], waiting: set[int]) -> None:
        for near in (self._first_reader(item), self._last_input(item)):
            if near is not None and self._free_to_move(item, near):
                for other in self._fuse(item, near):
                    if other not in waiting:
                        waiting.add(other)
                        later.append(other)
                return

    def _first_reader(self, item: int) -> int | None:
        """The successor that every other successor depends on, if there is one."""
        return self._dominant(self.succs[item], self.succs, reverse=False)

    def _last_input(self, item: int) -> int | None:
        return self._dominant(self.preds[item], self.preds, reverse=True)

    def _dominant(self, among: set[int], onward: list[set[int]], *, reverse: bool) -> int | None:
        if not among:
            return None
        pick = max(among) if reverse else min(among)
        rest = among - {pick}
        seen, stack, steps = {pick}, [pick], 0
        while rest and stack and steps < _SEARCH:
            steps += 1
            for after in onward[stack.pop()]:
                if after not in seen:
                    seen.add(after)
                    rest.discard(after)
                    stack.append(after)
        return None if rest else pick

    def _free_to_move(self, item: int, near: int) -> bool:
        problem = self.problem
        if (
            self.fixed[item]
            or problem.first[item] != problem.first[near]
            or problem.last[item] != problem.last[near]
        ):
            return False
        pair = {item, near}
        saved = [net for net in self.nets_of[item] if self.ends[net] == pair]
        added = [net for net in self.nets_of[item] if near not in self.ends[net]]
        if self.problem.limit is not None and self.problem.kept[added].sum() > self.problem.kept[saved].sum():
            return False
        gain = self.least[:, saved].sum(axis=1)
        loss = self.cost[:, added].sum(axis=1)
        if problem.overlap:
            return bool((self.weight[:, item] == 0).all() and (loss <= gain).all())
        return bool((self.weight[:, item] + loss <= gain).all())

    def _fuse(self, item: int, near: int) -> set[int]:
        """Join two classes; what lies between them in precedence does not exist by construction."""
        keep, drop = near, item
        self.parent[drop] = keep
        self.weight[:, keep] += self.weight[:, drop]
        self.fixed[keep] |= self.fixed[drop]
        for one, other in ((self.succs, self.preds), (self.preds, self.succs)):
            for x in one[drop]:
                other[x].discard(drop)
                if x != keep:
                    other[x].add(keep)
                    one[keep].add(x)
            one[keep].discard(drop)
            one[drop] = set()
        for net in self.nets_of[drop]:
            self.ends[net].discard(drop)
            self.ends[net].add(keep)
            self.nets_of[keep].add(net)
        for net in [x for x in self.nets_of[keep] if len(self.ends[x]) == 1]:
            self.nets_of[keep].discard(net)
        return {keep, *self.succs[keep], *self.preds[keep]}


_SEARCH = 64
"""Steps after which an item is taken to have no first reader; only a fusion is lost."""


def close_cycles(problem: Problem, leaders: list[int]) -> list[int]:
    """Join with every class what lies on a path from it to itself.

    Args:
        problem: The items.
        leaders: The class of every item, named by one of its items.

    Returns:
        Classes whose contraction closes no cycle, each named by its first item.

    Complexity: linear.
    """
    import networkx as nx

    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(problem.n))
    graph.add_edges_from((a, b) for a, after in enumerate(problem.succs) for b in after)
    for item, leader in enumerate(leaders):
        if item != leader:
            graph.add_edges_from([(item, leader), (leader, item)])
    closed = list(range(problem.n))
    for component in nx.strongly_connected_components(graph):
        first = min(component)
        for item in component:
            closed[item] = first
    return closed


def contract(problem: Problem, leaders: list[int]) -> Reduced:
    """Make every class of items one item, in a topological order by their leaders.

    Args:
        problem: The larger problem.
        leaders: The class of every item, named by one of its items; contracting them closes no cycle.

    Returns:
        The smaller problem.

    Complexity: O((n + pins) log n).
    """
    import networkx as nx

    quotient: nx.DiGraph[int] = nx.DiGraph()
    quotient.add_nodes_from(sorted(set(leaders)))
    pairs = ((leaders[a], leaders[b]) for a, after in enumerate(problem.succs) for b in after)
    quotient.add_edges_from((a, b) for a, b in pairs if a != b)
    order = list(nx.lexicographical_topological_sort(quotient))
    place = {leader: at for at, leader in enumerate(order)}
    item_of = np.array([place[leader] for leader in leaders], dtype=np.int64)
    members: list[list[int]] = [[] for _ in order]
    for item, at in enumerate(item_of.tolist()):
        members[at].extend(problem.members[item])
    nets: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for net, pins in enumerate(problem.pins):
        ends = tuple(sorted({int(item_of[pin]) for pin in pins}))
        if len(ends) > 1:
            nets.setdefault((int(item_of[problem.maker[net]]), ends), []).append(net)

    def summed(values: np.ndarray) -> np.ndarray:
        total = np.zeros((*values.shape[:-1], len(order)))
        np.add.at(np.moveaxis(total, -1, 0), item_of, np.moveaxis(values, -1, 0))
        return total

    def joined(values: np.ndarray) -> np.ndarray:
        columns = [values[..., group].sum(axis=-1) for group in nets.values()]
        return np.stack(columns, axis=-1) if columns else np.zeros((*values.shape[:-1], 0))

    first, last = np.zeros(len(order), dtype=np.int64), np.full(len(order), problem.k - 1, dtype=np.int64)
    np.maximum.at(first, item_of, problem.first)
    np.minimum.at(last, item_of, problem.last)
    smaller = replace(
        problem,
        members=tuple(map(tuple, members)),
        preds=tuple(tuple(sorted(place[x] for x in quotient.predecessors(leader))) for leader in order),
        succs=tuple(tuple(sorted(place[x] for x in quotient.successors(leader))) for leader in order),
        weight=summed(problem.weight),
        pins=tuple(ends for _, ends in nets),
        maker=np.array([maker for maker, _ in nets], dtype=np.int64),
        cin=joined(problem.cin),
        cout=joined(problem.cout),
        first=first,
        last=last,
        fixed=summed(problem.fixed),
        saved=summed(problem.saved),
        kept=joined(problem.kept),
        fwd=summed(problem.fwd),
        tied=tuple(replace(t, items=tuple(int(item_of[x]) for x in t.items)) for t in problem.tied),
    )
    return Reduced(smaller, item_of)
