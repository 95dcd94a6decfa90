"""A handful of linear orders whose prefixes are likely to contain a good split.

::

    program   as the model runs           lifo    finish a branch before the next (depth first)
    fifo      breadth first               cut     next the item that leaves the cheapest cut behind
    each also from the sinks backward, where late items are taken as late as possible
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from autopipe.partition.problem import Problem

Neighbours = tuple[tuple[int, ...], ...]


def linear_orders(problem: Problem) -> Iterator[tuple[str, list[int]]]:
    """Topological orders of the items, different ones only, the cheapest to make first.

    Args:
        problem: The items.

    Yields:
        A name and an order.

    Complexity: O((n + pins) log n) each.
    """
    seen: set[tuple[int, ...]] = set()
    for name, make in _MAKERS:
        order = make(problem)
        if tuple(order) not in seen:
            seen.add(tuple(order))
            yield name, order


def _forward(problem: Problem, key: Callable[[int, int], float]) -> list[int]:
    return _kahn(problem.preds, problem.succs, key)


def _backward(problem: Problem, key: Callable[[int, int], float]) -> list[int]:
    return _kahn(problem.succs, problem.preds, key)[::-1]


def _kahn(preds: Neighbours, succs: Neighbours, key: Callable[[int, int], float]) -> list[int]:
    """Take the ready item with the least ``key(item, when it became ready)``."""
    missing = [len(p) for p in preds]
    ready = [(key(i, 0), i) for i, count in enumerate(missing) if not count]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        _, item = heapq.heappop(ready)
        order.append(item)
        for after in succs[item]:
            missing[after] -= 1
            if not missing[after]:
                heapq.heappush(ready, (key(after, len(order)), after))
    return order


def _greedy_cut(problem: Problem, preds: Neighbours, succs: Neighbours) -> list[int]:
    """Take the ready item that changes the cut least; ties by depth first."""
    cost = problem.cin.min(axis=0) + problem.cout.min(axis=0)
    nets_of: list[list[int]] = [[] for _ in range(problem.n)]
    for net, ends in enumerate(problem.pins):
        for item in ends:
            nets_of[item].append(net)
    left = [len(ends) for ends in problem.pins]
    size = left.copy()

    def change(item: int) -> float:
        opened = sum(cost[net] for net in nets_of[item] if left[net] == size[net])
        closed = sum(cost[net] for net in nets_of[item] if left[net] == 1)
        return float(opened - closed)

    missing = [len(p) for p in preds]
    ready = {i: 0 for i, count in enumerate(missing) if not count}
    order: list[int] = []
    while ready:
        item = min(ready, key=lambda i: (change(i), -ready[i], i))
        del ready[item]
        order.append(item)
        for net in nets_of[item]:
            left[net] -= 1
        for after in succs[item]:
            missing[after] -= 1
            if not missing[after]:
                ready[after] = len(order)
    return order


_MAKERS: tuple[tuple[str, Callable[[Problem], list[int]]], ...] = (
    ("program", lambda p: list(range(p.n))),
    ("cut", lambda p: _greedy_cut(p, p.preds, p.succs)),
    ("cut from the sinks", lambda p: _greedy_cut(p, p.succs, p.preds)[::-1]),
    ("lifo", lambda p: _forward(p, lambda i, at: (-at) * p.n + i)),
    ("lifo from the sinks", lambda p: _backward(p, lambda i, at: (-at) * p.n - i)),
    ("late", lambda p: _backward(p, lambda i, at: -i)),
    ("fifo", lambda p: _forward(p, lambda i, at: at)),
)
