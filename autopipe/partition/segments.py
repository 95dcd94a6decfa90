"""Costs of the segments of one linear order that are light enough to matter, as a band.

::

    order     a b c d e f        row j, column d:  the stage  order[j - d : j]

              d = 0  1  2  3
    j = 3         -  c bc abc
    j = 4         -  d cd bcd    a segment heavier than the target is no stage, so the band is
    j = 5         -  e de cde    about n / k wide

A net is received where a segment holds its first pin from some point on and not its maker; it is sent
where a segment holds its maker and not all its pins. Both are sums of steps along the end of a segment.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from autopipe.partition.problem import Floats, Ints, Problem

_CHUNK = 2_000_000
"""Steps laid down at once."""


class Segments:
    """Costs and memory of the segments of one order that weigh no more than a target.

    Args:
        problem: The items.
        order: A topological order of them.
        below: The target; infinite: all segments.
        cuts: Places where segments may begin and end, 0 and n among them; None: everywhere. Items between two
            of them count as one, and so do places and lengths.

    Complexity: O(c L + pins L) time and memory for bands of width L of c cuts.
    """

    def __init__(self, problem: Problem, order: Ints, below: float, cuts: Ints | None = None) -> None:
        """Place the pins of every net on the order and measure the band."""
        self.problem, self.order = problem, order
        self.cuts: Ints = np.arange(problem.n + 1) if cuts is None else cuts
        n = self.n = len(self.cuts) - 1
        self.place = np.empty(problem.n, dtype=np.int64)
        self.place[order] = np.repeat(np.arange(n), np.diff(self.cuts))
        self.done: Floats = self._until(problem.weight.min(axis=0))
        slack = 1e-9 * max(1.0, self.done[-1])
        ends = np.searchsorted(self.done, self.done + below + slack, side="right") - 1
        self.width = int((ends - np.arange(n + 1)).max(initial=0))
        self._cache: dict[tuple[int, int], Floats] = {}
        self._lay_out()

    def _lay_out(self) -> None:
        """Steps of "received" and "sent whole" as (net, segments that start in low..high, end)."""
        problem, ends = self.problem, self.problem.ends
        by_net = np.lexsort((self.place[ends.pins], ends.net_of))
        pins, net = self.place[ends.pins][by_net], ends.net_of[by_net]
        stop = np.cumsum(ends.size)
        start = stop - ends.size
        head, tail, nothing = pins[start], pins[stop - 1], np.zeros(problem.m, dtype=np.int64)
        before = np.empty(len(pins), dtype=np.int64)
        before[1:] = pins[:-1]
        before[start] = -1
        not_first = self.place[problem.maker] != head
        first = np.zeros(len(pins), dtype=bool)
        first[start] = True
        received = ~first | not_first[net]
        self._received = np.stack([net, before + 1, pins, pins + 1], axis=1)[received]
        self._whole = np.stack([np.arange(problem.m), nothing, head, tail + 1], axis=1)
        self._not_first = np.flatnonzero(not_first)

    def by_end(self, band: Floats) -> Floats:
        """A view of a band by start and length as one by end and length."""
        rows, columns = band.shape
        step = band.strides[1]
        first = band[self.width :]
        shape = (rows - self.width, columns)
        return as_strided(first, shape, (columns * step, -(columns - 1) * step), writeable=False)

    def _steps(self, steps: Ints, cost: Floats) -> Floats:
        """The band, by start and length, of the sum of all steps."""
        n, columns = self.n, self.width + 1
        flat = np.zeros((n + 1) * columns)
        steps = steps[cost[steps[:, 0]] != 0]
        net, low, high, end = steps.T
        low = np.maximum(low, end - self.width)
        counts = np.maximum(high - low + 1, 0)
        at = 0
        while at < len(counts):
            upto = max(at + 1, int(np.searchsorted(np.cumsum(counts[at:]), _CHUNK)) + at)
            some = slice(at, upto)
            repeat = counts[some]
            offset = np.arange(repeat.sum()) - np.repeat(np.cumsum(repeat) - repeat, repeat)
            start = np.repeat(low[some], repeat) + offset
            index = start * columns + np.repeat(end[some], repeat) - start
            values = np.repeat(cost[net[some]], repeat)
            flat += np.bincount(index, weights=values, minlength=len(flat))
            at = upto
        band = flat.reshape(n + 1, columns)
        return np.cumsum(band, axis=1, out=band)

    def _until(self, amount: Floats) -> Floats:
        """Sum of an amount by item before each cut."""
        before: Floats = np.concatenate([[0.0], np.cumsum(amount[self.order])])
        return before[self.cuts]

    def _span(self, amount: Floats) -> Floats:
        """Sum of an amount by item over every segment, by start and length."""
        prefix = self._until(amount)
        end = np.minimum(np.arange(len(prefix))[:, None] + np.arange(self.width + 1), self.n)
        span: Floats = prefix[end] - prefix[:, None]
        return span

    def _by_maker(self, cost: Floats, nets: Ints | slice) -> Floats:
        """Cost of nets by the item that makes them."""
        by_item = np.zeros(self.problem.n)
        np.add.at(by_item, self.problem.maker[nets], cost[nets])
        return by_item

    def _received_sum(self, cost: Floats) -> Floats:
        received = self._steps(self._received, cost)
        if len(self._not_first):
            received -= self._span(self._by_maker(cost, self._not_first))
        return received

    def loads(self, stage: int) -> Floats:
        """Cost of every segment as that stage, by end and length; infinite where it is none or too large."""
        kind = self.problem.kind_of_stage[stage]
        key = kind, self.problem.in_flight[stage] if self.problem.limit is not None else 0
        if key not in self._cache:
            self._cache[key] = self.by_end(self._padded(self._loads(stage, kind)))
        return self._cache[key]

    def _padded(self, band: Floats) -> Floats:
        """Rows before the first, so that segments that start before the order are there and infinite."""
        return np.concatenate([np.full((self.width, band.shape[1]), np.inf), band])

    def _loads(self, stage: int, kind: int) -> Floats:
        problem = self.problem
        compute = self._span(problem.weight[kind])
        received = self._received_sum(problem.cin[kind])
        sent = self._span(self._by_maker(problem.cout[kind], slice(None)))
        sent -= self._steps(self._whole, problem.cout[kind])

        def total(compute_ms: Floats) -> Floats:
            if problem.overlap:
                return np.maximum(np.maximum(compute_ms, received), sent)
            return compute_ms + received + sent

        load = total(compute)
        if problem.limit is not None:
            fits, fits_again = self._fits(stage)
            if problem.allow_recompute:
                again = total(compute + self._span(problem.fwd[kind]))
                load = np.where(fits, load, np.where(fits_again, again, np.inf))
            else:
                load[~fits] = np.inf
        load[:, 0] = 0.0 if problem.allow_empty else np.inf
        return load

    def _fits(self, stage: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        problem, limit = self.problem, self.problem.limit
        assert limit is not None
        fixed, saved = self._span(problem.fixed), self._span(problem.saved)
        for tied in problem.tied:
            count = np.zeros(problem.n)
            np.add.at(count, list(tied.items), 1.0)
            fixed = fixed - tied.nbytes * np.maximum(self._span(count) - 1, 0)
        kept = self._received_sum(problem.kept)
        flight = problem.in_flight[stage]
        slack = limit + 1e-6 * max(1.0, limit * 1e-6)
        return fixed + flight * (saved + kept) <= slack, fixed + flight * kept + saved <= slack


def windows_of(values: Floats, width: int) -> Floats:
    """Row j: the value at j, the one before it, and so on; infinite before the first.

    Args:
        values: `[n + 1]`.
        width: How far to look back.

    Returns:
        A view, `[n + 1, width + 1]`.
    """
    padded = np.concatenate([np.full(width, np.inf), values])
    step = padded.strides[0]
    return as_strided(padded[width:], (len(values), width + 1), (step, -step), writeable=False)
