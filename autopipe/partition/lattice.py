r"""All downsets of a problem, by weight, with the arcs from each to those with one item more.

::

    {}  -a->  {a}  -b->  {a b}  -c->  {a b c}        size by size: every downset of a size is one row of
                 \--c->  {a c}  -b->  /              packed bits; equal rows are found by hash and compared
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reach import Bools

Words = NDArray[np.uint64]

_BITS = 64

_WIDTH = 6
"""Arcs a downset, on average, beyond which a lattice counts as too large."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """Downsets in ascending order of weight; the first is empty, the last is everything.

    Args:
        bits: Packed membership, `[words, rows]`.
        weight: Least compute time over the kinds of position, `[rows]` ms.
        size: Number of items, `[rows]`.
        source: Row at the tail of each arc, `[arcs]`.
        target: Row at its head, `[arcs]`.
        item: The item that the head has more, `[arcs]`.
    """

    bits: Words
    weight: Floats
    size: Ints
    source: Ints
    target: Ints
    item: Ints

    def __len__(self) -> int:
        """Number of downsets."""
        return len(self.weight)

    def holds(self, item: int) -> Bools:
        """Which downsets contain an item."""
        held: Bools = (self.bits[item // _BITS] >> np.uint64(item % _BITS)) & np.uint64(1) != 0
        return held

    def members(self, row: int, n: int) -> Bools:
        """Membership of the items of one downset, `[n]`."""
        octets = np.ascontiguousarray(self.bits[:, row]).view(np.uint8)
        return np.unpackbits(octets, bitorder="little")[:n].astype(bool)


def packed(items: Iterable[int], n: int) -> list[tuple[int, np.uint64]]:
    """A set of items as its nonzero words.

    Args:
        items: The items.
        n: How many there are in all.

    Returns:
        Pairs of word and bits.
    """
    words: dict[int, int] = {}
    for item in items:
        assert item < n
        words[item // _BITS] = words.get(item // _BITS, 0) | 1 << item % _BITS
    return [(word, np.uint64(bits)) for word, bits in sorted(words.items())]


def build_lattice(problem: Problem, cap: int) -> Lattice | None:
    """List all downsets.

    Args:
        problem: The items.
        cap: Give up beyond so many.

    Returns:
        The lattice, or None if it is larger.

    Complexity: O(rows x width) with width the largest number of items that a downset can take next.
    """
    return _Growth(problem, cap).run()


class _Growth:
    """One size after the other."""

    def __init__(self, problem: Problem, cap: int) -> None:
        self.problem, self.cap, n = problem, cap, problem.n
        self.n_words = max(1, -(-n // _BITS))
        self.needs = [packed(before, n) for before in problem.preds]
        self.hash = np.random.default_rng(0).integers(1, 2**63, size=n, dtype=np.uint64)
        self.weight = problem.weight.min(axis=0)
        self.total, self.n_arcs = 1, 0
        self.arcs: list[tuple[Ints, Ints, Ints]] = []

    def run(self) -> Lattice | None:
        layer = np.zeros((1, self.n_words), dtype=np.uint64)
        keys, weights = np.zeros(1, dtype=np.uint64), np.zeros(1)
        layers, all_weights = [layer], [weights]
        candidates = [item for item, before in enumerate(self.problem.preds) if not before]
        while candidates:
            rows, items, ready = self._ready(layer, candidates)
            keys, first, inverse = np.unique(
                keys[rows] ^ self.hash[items], return_index=True, return_inverse=True
            )
            start, self.total = self.total, self.total + len(keys)
            self.n_arcs += len(rows)
            if self.total > self.cap or self.n_arcs > _WIDTH * self.cap:
                return None
            grown = layer[rows]
            grown[np.arange(len(rows)), items // _BITS] |= np.uint64(1) << (items % _BITS).astype(np.uint64)
            if not (grown == grown[first][inverse]).all():
                return None
            self.arcs.append((rows + start - len(layer), start + inverse.astype(np.int64), items))
            layer, weights = grown[first], weights[rows[first]] + self.weight[items[first]]
            layers.append(layer)
            all_weights.append(weights)
            candidates = sorted({*ready, *(x for item in ready for x in self.problem.succs[item])})
            if len(layers) > self.problem.n:
                break
        return self._sorted(layers, all_weights)

    def _ready(self, layer: Words, candidates: list[int]) -> tuple[Ints, Ints, list[int]]:
        """Rows and the items that each can take next."""
        rows: list[Ints] = []
        items: list[Ints] = []
        ready: list[int] = []
        for item in candidates:
            good = (layer[:, item // _BITS] >> np.uint64(item % _BITS)) & np.uint64(1) == 0
            for word, mask in self.needs[item]:
                good &= (layer[:, word] & mask) == mask
            found = np.flatnonzero(good)
            if len(found):
                rows.append(found)
                items.append(np.full(len(found), item, dtype=np.int64))
                ready.append(item)
        return np.concatenate(rows), np.concatenate(items), ready

    def _sorted(self, layers: list[Words], weights: list[Floats]) -> Lattice:
        weight = np.concatenate(weights)
        size = np.repeat(np.arange(len(layers)), [len(layer) for layer in layers])
        order = np.lexsort((size, weight))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        source, target, item = (np.concatenate(parts) for parts in zip(*self.arcs, strict=True))
        bits = np.ascontiguousarray(np.concatenate(layers)[order].T)
        return Lattice(bits, weight[order], size[order], place[source], place[target], item)
