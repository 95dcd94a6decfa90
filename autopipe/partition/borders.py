r"""Borders between stages with replicas: the downsets that can follow d of N devices within a target T.

::

    devices        0 ... d                  d ... N
    downset        D                        the rest
                   weight <= d T            weight <= (N - d) T        whatever the stages are
                   sends  <= d T            receives <= (N - d) T      (added to the weight without overlap)

A stage with m replicas spends no more than m T on compute, on sending and on receiving, so sums over the
stages before and after hold too. Rows are packed bits, one an item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autopipe.partition.problem import Floats, Ints, Problem
from autopipe.partition.reach import Bools, Reach

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Borders:
    """Downsets of a problem.

    Args:
        n: Items.
        bits: `[rows, words]`.
        weight: `[rows]` ms.
    """

    n: int
    bits: Words
    weight: Floats

    def __len__(self) -> int:
        """Number of downsets."""
        return len(self.weight)

    def keep(self, rows: Bools | Ints) -> Borders:
        """Only those rows."""
        return Borders(self.n, self.bits[rows], self.weight[rows])

    def members(self, rows: Ints) -> Bools:
        """Which items are in, `[rows, items]`."""
        octets = np.ascontiguousarray(self.bits[rows]).view(np.uint8).reshape(len(rows), -1)
        return np.unpackbits(octets, axis=1, bitorder="little")[:, : self.n].astype(bool)


def lone_border(problem: Problem, *, everything: bool) -> Borders:
    """The downset before the first device, or after the last."""
    words = np.zeros((1, -(-problem.n // 64)), dtype=np.uint64)
    if everything:
        for item in range(problem.n):
            words[0, item // 64] |= np.uint64(1) << np.uint64(item % 64)
    return Borders(problem.n, words, np.full(1, problem.weight[0].sum() if everything else 0.0))


class Level:
    """Enumerates the borders after d devices.

    Args:
        problem: The items.
        reach: Their closure.
        room: What the devices before may spend, d T.
        rest: What the devices after may spend, (N - d) T.
        cap: Give up beyond so many rows.
    """

    def __init__(self, problem: Problem, reach: Reach, room: float, rest: float, cap: int) -> None:
        """Sort the items into those that must be in, must be out, and the open ones."""
        self.problem, self.reach, self.cap = problem, reach, cap
        self.slack = 1e-10 * max(1.0, reach.total)
        self.room, self.rest = room + self.slack, rest + self.slack
        self.inside: Bools = reach.total - reach.after < reach.total - self.rest
        self.outside: Bools = reach.before > self.room
        self.work = 0
        self.words = -(-problem.n // 64)

    def run(self) -> Borders | None:
        """All borders of the level, or None beyond the cap.

        Complexity: O(rows (items + pins)); ``work`` counts rows by items.
        """
        if (self.inside & self.outside).any():
            return Borders(self.problem.n, np.zeros((0, self.words), dtype=np.uint64), np.zeros(0))
        weight = self.reach.weight
        start = self._mask(np.flatnonzero(self.inside))
        rows = _Rows(
            start[None, :].copy(), float(weight[self.inside].sum()), float(weight[self.outside].sum())
        )
        self._charges()
        rows.send += self.surely[0]
        rows.receive += self.surely[1]
        for item in np.flatnonzero(~self.inside & ~self.outside).tolist():
            rows = self._branch(rows, item)
            self.work += len(rows.weight)
            if len(rows.weight) > self.cap:
                return None
            if not len(rows.weight):
                break
        return Borders(self.problem.n, rows.bits, rows.weight)

    def among(self, borders: Borders) -> Borders:
        """Those of some borders that the work before and after them leaves; O(rows)."""
        return borders.keep((borders.weight <= self.room) & (self.reach.total - borders.weight <= self.rest))

    def _mask(self, items: Ints | list[int]) -> Words:
        mask: Words = np.zeros(self.words, dtype=np.uint64)
        for item in items:
            mask[item // 64] |= np.uint64(1) << np.uint64(item % 64)
        return mask

    def _charges(self) -> None:
        """At which decision a net is known to cross: its first pin left out, its maker let in."""
        self.on_exclude: dict[int, list[tuple[Words, int]]] = {}
        self.on_include: dict[int, list[int]] = {}
        self.surely = [0.0, 0.0]
        for net, pins in enumerate(self.problem.pins):
            if self.problem.maker[net] != pins[0] or self.outside[pins[0]]:
                continue
            maker = pins[0]
            if self.outside[list(pins)].any():
                if self.inside[maker]:
                    self.surely[0] += self.problem.cout[0, net]
                    self.surely[1] += self.problem.cin[0, net]
                else:
                    self.on_include.setdefault(maker, []).append(net)
                continue
            for at, pin in enumerate(pins[1:], 1):
                if not self.inside[pin]:
                    self.on_exclude.setdefault(pin, []).append((self._mask(list(pins[:at])), net))

    def _branch(self, rows: _Rows, item: int) -> _Rows:
        weight, problem = float(self.reach.weight[item]), self.problem
        before = self._mask([x for x in self.reach.preds[item] if not self.inside[x]])
        included = rows.take(rows.holds(before))
        for mask, net in self.on_exclude.get(item, ()):
            crosses = rows.holds(mask)
            rows.send += problem.cout[0, net] * crosses
            rows.receive += problem.cin[0, net] * crosses
        rows.left += weight
        for net in self.on_include.get(item, ()):
            included.send += problem.cout[0, net]
            included.receive += problem.cin[0, net]
        included.bits[:, item // 64] |= np.uint64(1) << np.uint64(item % 64)
        included.weight += weight
        return self._allowed(rows).join(self._allowed(included))

    def _allowed(self, rows: _Rows) -> _Rows:
        if self.problem.overlap:
            good = (rows.weight <= self.room) & (rows.send <= self.room)
            good &= (rows.left <= self.rest) & (rows.receive <= self.rest)
        else:
            good = (rows.weight + rows.send <= self.room) & (rows.left + rows.receive <= self.rest)
        return rows if good.all() else rows.take(good)


class _Rows:
    """Partial downsets: what is in, its weight, the weight left out, and what crosses."""

    __slots__ = ("bits", "left", "receive", "send", "weight")

    def __init__(self, bits: Words, weight: float, left: float) -> None:
        self.bits = bits
        self.weight, self.left = np.full(len(bits), weight), np.full(len(bits), left)
        self.send, self.receive = np.zeros(len(bits)), np.zeros(len(bits))

    def take(self, rows: Bools) -> _Rows:
        other = object.__new__(_Rows)
        for name in _Rows.__slots__:
            setattr(other, name, getattr(self, name)[rows])
        return other

    def join(self, other: _Rows) -> _Rows:
        for name in _Rows.__slots__:
            setattr(self, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        return self

    def holds(self, mask: Words) -> Bools:
        result = np.ones(len(self.weight), dtype=bool)
        for word in np.flatnonzero(mask).tolist():
            result &= (self.bits[:, word] & mask[word]) == mask[word]
        return result
