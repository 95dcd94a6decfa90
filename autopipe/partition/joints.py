"""Which borders can be the two ends of one stage with replicas.

::

    border a  (contained in)  border b      stage = b minus a      within T on m devices?

Weights and subset tests rule most pairs out; the others are priced exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autopipe.partition.borders import Borders
from autopipe.partition.problem import Floats, Ints
from autopipe.partition.reach import Bools
from autopipe.partition.replicas import Parts, Turns

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_CELLS = 6_000_000
"""Pairs by items and nets priced at once."""

_TINY = 1e-9
"""Slack of a test that only rules out."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """What crosses some borders.

    Args:
        nets: Which nets do, `[rows, nets]`.
        sent: Time to send all of them, `[rows]` ms.
        received: Time to receive all of them, `[rows]` ms.
        params: Parameter bytes before the border, `[rows]`.
    """

    nets: Bools
    sent: Floats
    received: Floats
    params: Floats

    def keep(self, rows: Ints) -> Crossing:
        """Only those rows."""
        return Crossing(self.nets[rows], self.sent[rows], self.received[rows], self.params[rows])


class Joints:
    """Prices stages between borders.

    Args:
        turns: The prices.
        target: T, milliseconds.
    """

    def __init__(self, turns: Turns, target: float) -> None:
        """Count nothing yet."""
        self.turns, self.target = turns, target
        self.work = 0
        problem = turns.problem
        self.chunk = max(1, _CELLS // max(1, problem.n + problem.m))
        firsts = np.array([pins[0] for pins in problem.pins], dtype=np.int64)
        self.early: Bools = problem.maker == firsts
        self.plain = bool(self.early.all()) and not self.turns.tied and problem.limit is None

    @cached_property
    def _incidence(self) -> csr_array[np.float32]:
        """Which items each net joins, `[n, m]`."""
        from scipy.sparse import csr_array

        problem, ends = self.turns.problem, self.turns.problem.ends
        ones = np.ones(len(ends.pins), dtype=np.float32)
        return csr_array((ones, (ends.pins, ends.net_of)), shape=(problem.n, problem.m))

    @cached_property
    def _size(self) -> NDArray[np.float32]:
        return self.turns.problem.ends.size.astype(np.float32)

    def crossing(self, borders: Borders) -> Crossing:
        """What crosses every border, of nets whose maker comes before all others.

        Complexity: linear in rows times items and nets.
        """
        problem = self.turns.problem
        nets = np.zeros((len(borders), problem.m), dtype=bool)
        params = np.zeros(len(borders))
        for start in range(0, len(borders), self.chunk):
            rows = np.arange(start, min(start + self.chunk, len(borders)))
            inside = borders.members(rows)
            count = inside.astype(np.float32) @ self._incidence
            nets[rows] = (count > 0) & (count < self._size) & self.early
            params[rows] = inside @ self.turns.params
        self.work += len(borders) * (1 + problem.m // 64)
        return Crossing(nets, nets @ problem.cout[0], nets @ problem.cin[0], params)

    def reach(self, ends: Borders, sources: list[tuple[Borders, int]], after: int) -> tuple[Ints, Ints]:
        """For every end a begin from which a stage leads to it.

        Args:
            ends: Later borders.
            sources: Earlier borders, and how many devices lie between.
            after: Devices after the ends.

        Returns:
            The source and its row by end; -1 where there is none.
        """
        where, row = np.full(len(ends), -1), np.full(len(ends), -1)
        many = self.crossing(ends)
        for at, (begins, m) in enumerate(sources):
            for a, b in self._pairs(begins, ends, m, (self.crossing(begins), many), row, forward=True):
                good = self._within(begins, ends, a, b, m, after)
                row[b[good]] = a[good]
            where[(row >= 0) & (where < 0)] = at
        return where, row

    def lead(self, begins: Borders, sinks: list[tuple[Borders, int, int]]) -> tuple[Ints, Ints]:
        """For every begin an end to which a stage leads from it.

        Args:
            begins: Earlier borders.
            sinks: Later borders, how many devices lie between, and how many come after them.

        Returns:
            The sink and its row by begin; -1 where there is none.
        """
        where, row = np.full(len(begins), -1), np.full(len(begins), -1)
        many = self.crossing(begins)
        for at, (ends, m, after) in enumerate(sinks):
            for b, a in self._pairs(ends, begins, m, (self.crossing(ends), many), row, forward=False):
                good = self._within(begins, ends, a, b, m, after)
                row[a[good]] = b[good]
            where[(row >= 0) & (where < 0)] = at
        return where, row

    def _pairs(
        self,
        few: Borders,
        many: Borders,
        m: int,
        cross: tuple[Crossing, Crossing],
        found: Ints,
        *,
        forward: bool,
    ) -> Iterator[tuple[Ints, Ints]]:
        """Nested pairs that may do with m devices; those that surely do are noted in ``found`` at once."""
        waiting: list[tuple[Ints, Ints]] = []
        count = 0
        open_rows = np.flatnonzero(found < 0)
        for row in range(len(few)):
            if not len(open_rows):
                break
            near = self._near(few, many, row, open_rows, m * self.target, forward=forward)
            compute = np.abs(many.weight[near] - few.weight[row])
            good, exact = self._may_do(cross, row, near, m, compute, forward=forward)
            self.work += len(open_rows) // 5 + 2 * len(near)
            found[near[good & exact]] = row
            near = near[good & ~exact]
            waiting.append((np.full(len(near), row), near))
            count += len(near)
            if count >= self.chunk:
                yield from self._batches(waiting)
                waiting, count = [], 0
            open_rows = open_rows[found[open_rows] < 0]
        yield from self._batches(waiting)

    def _near(
        self, few: Borders, many: Borders, row: int, open_rows: Ints, room: float, *, forward: bool
    ) -> Ints:
        """Rows that properly contain one (or are contained in it) and weigh no more than a room beside it."""
        limit = room * (1 + 1e-12) + 1e-12
        step = many.weight[open_rows] - few.weight[row]
        near = open_rows[(np.abs(step) <= limit) & ((step >= 0) if forward else (step <= 0))]
        bits = few.bits[row]
        for word in range(many.bits.shape[1]):
            column = many.bits[near, word]
            near = near[(bits[word] & ~column if forward else column & ~bits[word]) == 0]
        proper: Ints = near[(many.bits[near] != bits).any(axis=1)]
        return proper

    def _may_do(
        self,
        cross: tuple[Crossing, Crossing],
        row: int,
        near: Ints,
        m: int,
        compute: Floats,
        *,
        forward: bool,
    ) -> tuple[Bools, Bools]:
        """Whether a stage may do by what crosses one border and not the other, and whether that is all."""
        problem, (few, many) = self.turns.problem, cross
        shared = np.flatnonzero(few.nets[row])
        both = many.nets[np.ix_(near, shared)]
        ends, begins = (
            (many.sent[near], few.received[row]) if forward else (few.sent[row], many.received[near])
        )
        none = np.zeros(len(near))
        params = none if self.turns.tied else np.abs(many.params[near] - few.params[row])
        surely = Parts(
            compute,
            np.maximum(begins - both @ problem.cin[0, shared], 0.0) + none,
            np.maximum(ends - both @ problem.cout[0, shared], 0.0) + none,
            params,
            none,
            none,
            none,
        )
        exact = np.full(len(near), self.plain)
        exact &= ~both.any(axis=1)
        slack = np.where(exact, self.target, self.target * (1 + _TINY) + _TINY)
        good = np.zeros(len(near), dtype=bool)
        for devices in range(1, m + 1):
            good |= self.turns.time_ms(surely, devices) <= slack
        return good, exact

    def _batches(self, waiting: list[tuple[Ints, Ints]]) -> Iterator[tuple[Ints, Ints]]:
        if not waiting:
            return
        few, many = (np.concatenate(side) for side in zip(*waiting, strict=True))
        for start in range(0, len(few), self.chunk):
            yield few[start : start + self.chunk], many[start : start + self.chunk]

    def _within(self, begins: Borders, ends: Borders, a: Ints, b: Ints, m: int, after: int) -> Bools:
        self.work += 30 * len(a)
        stage = ends.members(b) & ~begins.members(a)
        good: Bools = self.turns.needed(self.parts(stage), self.target, after, m) <= m
        return good

    def parts(self, stage: Bools) -> Parts:
        """What stages are made of.

        Args:
            stage: Their items, `[p, n]`.

        Returns:
            Sums by stage, `[p]`.
        """
        problem = self.turns.problem
        count = stage.astype(np.float32) @ self._incidence
        cut = (count > 0) & (count < self._size)
        made = cut & stage[:, problem.maker]
        arrives = cut & ~made
        return Parts(
            stage @ problem.weight[0],
            arrives @ problem.cin[0],
            made @ problem.cout[0],
            _once(stage, self.turns.params, self.turns.tied),
            _once(stage, problem.fixed, self.turns.held_twice),
            stage @ problem.saved,
            arrives @ problem.kept,
        )


def _once(stage: Bools, amount: Floats, shared: list[tuple[float, Floats]]) -> Floats:
    """Sums by stage of what items count, tied parameters once."""
    total: Floats = stage @ amount
    for nbytes, count in shared:
        total -= nbytes * np.maximum(stage @ count - 1, 0)
    return total
