r"""A relaxed problem that counts small loose items instead of telling them apart.

::

    arange 2   fill 2   table 2   mask 4          u1 -> u2 -> u3 -> u4 -> u5     units of 2
       \         |        |        /
        x1       x2       x3      x4              x2, which two of them come before, waits for u2 alone

A thousand subsets of ten such items cost about the same; of ten units in a row there are ten. Every split
of the whole problem gives one of the relaxed problem that costs no more: let each stage take as many
units as it has items of the pool. So the optimum of the relaxed problem is a lower bound, and unlike one
that leaves these items out it still asks for their time. What an item of the pool and its only reader
cost each other is kept too: the reader's stage computes the item or receives it, so the cheaper of the
two moves from the item to the reader.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import networkx as nx
import numpy as np

from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reach import Bools, Reach
from autopipe.partition.relaxed import Relaxed, Units

_LIGHT = 0.01
"""Share of the target up to which an item may go into a pool."""

_QUIET = 5e-4
"""The same for the cost of what it reads, and of what it makes for several readers."""

_COARSE = 2e-2
"""The same where a bound that is near will do."""

_LOOSE = 0.25
"""Share of the target that must weigh beside an item for its place to be free."""

_ENOUGH = 8
"""Items in pools at least: fewer can be told apart."""

_MATTERS = 1e-3
"""Share of the target that they weigh together at least: less can be left out."""

_SHORT = 0.05
"""The same for what comes before an item, or after it, if its nets are dear."""

_UNITS = 1000
"""Units of a pool at most."""

_PAIR = 2
"""Ends of a net with one reader."""

_CHAINS = 4
"""Pools at most."""

_WORTHWHILE = 0.05
"""Share of an item's weight from which it pays to move it to a reader."""

_SAME = 1e-9
"""Weights that differ by this share are the same."""


@dataclass(frozen=True, slots=True)
class _Pool:
    """Units of one weight.

    Args:
        unit: Weight of each, by kind of position, `[C]` ms.
        count: How many every item stands for, `[n]`.
    """

    unit: Floats
    count: Ints

    @property
    def size(self) -> int:
        return int(self.count.sum())


def pool(
    problem: Problem, reach: Reach, target: float, *, quiet: bool, coarse: bool = False
) -> Relaxed | None:
    """Put small loose items into pools.

    Args:
        problem: The items; no memory limit, no pins.
        reach: Their closure.
        target: About the bottleneck, for what counts as small.
        quiet: Only items whose nets are all cheap; otherwise those with one reader may be dear.
        coarse: Take dearer nets for cheap too.

    Returns:
        The relaxed problem, or None if there are only a few such items.

    Complexity: O(n^2 / 8) for what comes before and after; about linear in the pins otherwise.
    """
    small = _small(problem, reach, target, quiet=quiet, cheap=_COARSE if coarse else _QUIET)
    if small.sum() < _ENOUGH or reach.weight[small].sum() < _MATTERS * target:
        return None
    weight = _shared(problem, small)
    pools = [_pool_of(weight, items) for items in _chains(reach, small)]
    return _assemble(problem, reach, small, weight, [x for x in pools if x.size])


def _small(problem: Problem, reach: Reach, target: float, *, quiet: bool, cheap: float) -> Bools:
    """Items that weigh little, share only cheap nets and have much that they do not depend on."""
    dearest = np.zeros(problem.n)
    for net, cost in enumerate(np.maximum(problem.cin, problem.cout).max(axis=0).tolist()):
        pins = list(problem.pins[net])
        if quiet or len(pins) > _PAIR:
            dearest[pins] = np.maximum(dearest[pins], cost)
    aside = reach.total - reach.before - reach.after + reach.weight
    light = problem.weight.max(axis=0) <= _LIGHT * target
    small: Bools = light & (dearest <= cheap * target) & (aside > _LOOSE * target)
    if not quiet:  # what lies inside a long branch is not loose, whatever goes on beside the branch
        small &= np.minimum(reach.before, reach.after) <= _SHORT * target
    return small


def _shared(problem: Problem, small: Bools) -> Floats:
    """Weights after what an item and its only reader, or its only maker, cost each other has moved there."""
    weight = problem.weight.copy()
    if problem.overlap:  # a stage may receive the item beside its compute, for nothing
        return weight
    least = np.minimum(problem.cin, problem.cout).min(axis=0)
    for net, pins in enumerate(problem.pins):
        if len(pins) > _PAIR:
            continue
        maker = int(problem.maker[net])
        reader = pins[0] if pins[1] == maker else pins[1]
        giver, taker = (maker, reader) if small[maker] else (reader, maker)
        if small[giver]:
            share = np.minimum(weight[:, giver], least[net])
            if (share > _WORTHWHILE * weight[:, giver]).any():
                weight[:, giver] -= share
                weight[:, taker] += share
    return weight


def _chains(reach: Reach, small: Bools) -> list[Ints]:
    """Rows of small items in which whoever comes first needs no more and is needed by no less than the next.

    Two such items of one weight can change places in any split that has them the other way round, so a row
    in a fixed order loses nothing. What fits in none of the rows joins the last one.
    """
    items = np.flatnonzero(small)
    before, after = reach.ancestors[np.ix_(items, ~small)], reach.ancestors[np.ix_(~small, items)].T
    order = np.lexsort((-after.sum(axis=1), before.sum(axis=1)))
    rows: list[list[int]] = []
    for at in order.tolist():
        for row in rows:
            end = row[-1]
            if not (before[end] & ~before[at]).any() and not (after[at] & ~after[end]).any():
                row.append(at)
                break
        else:
            if len(rows) < _CHAINS:
                rows.append([at])
            else:
                rows[-1].append(at)
    return [items[row] for row in rows]


def _pool_of(weight: Floats, items: Ints) -> _Pool:
    """The pool of some items whose unit loses least of their sum."""
    light = weight[:, items].min(axis=0)
    units = np.unique(light[light > 0])
    counts = np.floor(light * (1 + _SAME) / units[:, None]).astype(np.int64)
    sizes = counts.sum(axis=1)
    count = np.zeros(weight.shape[1], dtype=np.int64)
    if not len(units) or sizes.min() > _UNITS:
        return _Pool(np.zeros(len(weight)), count)
    count[items] = counts[np.where(sizes <= _UNITS, sizes * units, 0.0).argmax()]
    counted = np.flatnonzero(count)
    return _Pool((weight[:, counted] / count[counted]).min(axis=1), count)


def _assemble(problem: Problem, reach: Reach, small: Bools, weight: Floats, pools: list[_Pool]) -> Relaxed:
    """Lay kept items and units out as one problem."""
    n = problem.n
    graph = _order(problem, reach, small, pools)
    order = np.array(list(nx.lexicographical_topological_sort(graph)), dtype=np.int64)
    place = {int(x): at for at, x in enumerate(order)}
    ends = [[x for x in pins if not small[x]] for pins in problem.pins]
    nets = [x for x in range(problem.m) if len(ends[x]) > 1]
    lost = small[problem.maker[nets]]
    least = np.minimum(problem.cin, problem.cout)
    makers = [ends[x][0] if small[problem.maker[x]] else int(problem.maker[x]) for x in nets]
    n_units = sum(pool.size for pool in pools)
    every = np.repeat(np.arange(len(pools)), [pool.size for pool in pools])
    units = np.stack([pool.unit for pool in pools], axis=1)[:, every] if pools else np.zeros((len(weight), 0))

    def with_units(values: np.ndarray, fill: np.ndarray) -> np.ndarray:
        return np.concatenate([values, fill], axis=-1)[..., order]

    none, members = np.zeros(n_units), (*problem.members, *((),) * n_units)
    relaxed = replace(
        problem,
        members=tuple(members[x] for x in order),
        preds=tuple(tuple(sorted(place[y] for y in graph.predecessors(x))) for x in order.tolist()),
        succs=tuple(tuple(sorted(place[y] for y in graph.successors(x))) for x in order.tolist()),
        weight=with_units(weight, units),
        fwd=with_units(problem.fwd, np.zeros_like(units)),
        first=with_units(problem.first, np.zeros(n_units, dtype=np.int64)),
        last=with_units(problem.last, np.full(n_units, problem.k - 1)),
        fixed=with_units(problem.fixed, none),
        saved=with_units(problem.saved, none),
        pins=tuple(tuple(sorted(place[x] for x in ends[net])) for net in nets),
        maker=np.array([place[maker] for maker in makers], dtype=np.int64),
        cin=np.where(lost, least[:, nets], problem.cin[:, nets]),
        cout=np.where(lost, least[:, nets], problem.cout[:, nets]),
        kept=problem.kept[nets],
        tied=(),
    )
    counted, base = [], n
    for units_of in pools:
        items: Ints = np.flatnonzero(units_of.count)
        row = np.array([place[base + at] for at in range(units_of.size)], dtype=np.int64)
        counted.append(Units(items, units_of.count[items], row))
        base += units_of.size
    dropped = tuple(np.flatnonzero(small).tolist())
    return Relaxed(relaxed, np.where(order < n, order, -1), dropped, tuple(counted))


def _order(problem: Problem, reach: Reach, small: Bools, pools: list[_Pool]) -> nx.DiGraph[int]:
    """Precedence among kept items, which keep their numbers, and units, which come after these."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(np.flatnonzero(~small).tolist())
    through: list[set[int]] = []
    for item in range(problem.n):
        before = {x for x in problem.preds[item] if not small[x]}
        before.update(*(through[x] for x in problem.preds[item] if small[x]))
        through.append(before)
        if not small[item]:
            graph.add_edges_from((x, item) for x in before)
    base = problem.n
    for units in pools:
        graph.add_nodes_from(range(base, base + units.size))
        graph.add_edges_from((at, at + 1) for at in range(base, base + units.size - 1))
        needs, follow = reach.ancestors @ units.count, units.count @ reach.ancestors
        for item in np.flatnonzero(~small).tolist():
            if needs[item]:
                graph.add_edge(base + int(needs[item]) - 1, item)
            if follow[item]:
                graph.add_edge(item, base + units.size - int(follow[item]))
        base += units.size
    return graph
