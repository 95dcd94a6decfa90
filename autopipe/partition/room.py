"""What a stage can still come to cost, and what it must cost lest a larger one stand for it.

::

    in so far  a b             left out  c                       still open  d e
    value  w(a b) + nets       need  target - stride of c        at most  value + w(d e) + what they send

A downset that stops short of c, though it holds what c needs, is needless if the stride of c fits beside it.
So what is followed has to become dear enough, and a row that cannot any more is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autopipe.partition.downsets import Enumeration
from autopipe.partition.problem import Floats, Ints
from autopipe.partition.reach import Bools
from autopipe.partition.rows import Reached, Words
from autopipe.partition.strides import Strides

_SLACK = 1e-9
"""Share of the target by which a stride has to fit, so that rounding never drops both of two rows."""

_EVERY = 8
"""Items after which what is left out is counted row by row."""

_MANY = 200
"""Rows from which that pays."""

_ROUNDING = 1e-5
"""Share of a sum in single precision that may be rounding."""


@dataclass(frozen=True, slots=True)
class _Closing:
    """A net that is no longer sent once its last end is in.

    Args:
        begins: Beginnings that do not hold its maker, `[begins]`.
        others: What else must be in.
        cost: Milliseconds.
    """

    begins: Bools
    others: Words
    cost: float


@dataclass(frozen=True, slots=True)
class _Unread:
    """A net that is not received after all once an item is left out.

    Args:
        begins: Beginnings that hold its maker, and all of its ends that are surely in, `[begins]`.
        needed: What must be in.
        others: Of these none may be in that was not in from the beginning.
        cost: Milliseconds.
    """

    begins: Bools
    needed: Words
    others: Words
    cost: float


class Room:
    """Bounds of what a stage costs in the end, for one enumeration.

    Args:
        strides: What comes along with items.
        level: The enumeration of what follows the stage.
        before: Downsets before the stage, `[begins, n]`.
        bits: Which of the open items they hold, `[begins, words]`.

    Complexity: O(items^2 + (nets + items) begins) to lay out.
    """

    def __init__(self, strides: Strides, level: Enumeration, before: Bools, bits: Words) -> None:
        """Lay out what every item adds to the cost of a stage, and what it may add."""
        self.strides, self.level, self.before, self.bits = strides, level, before, bits
        problem, n = strides.problem, len(level.items)
        self.target = level.windows.target * (1 - _SLACK)
        self.kind = problem.kind_of_stage[level.j - 1]
        self.adds: Floats = problem.weight[self.kind, level.items]
        self.start: Floats = (level.inside & ~before) @ problem.weight[self.kind]
        self.closings: list[list[_Closing]] = [[] for _ in range(n)]
        self.unread: list[list[_Unread]] = [[] for _ in range(n)]
        self.credit: Floats = np.zeros((n + 1, n))
        for net in range(problem.m):
            self._lay_out(net)
        self._bound()
        self.extra = [strides.extra(item, before, level.j) for item in level.items.tolist()]

    def _lay_out(self, net: int) -> None:
        """Say when a net is charged, and when the charge is taken back."""
        problem, level = self.strides.problem, self.level
        maker, pins = int(problem.maker[net]), list(problem.pins[net])
        cin, cout = float(problem.cin[self.kind, net]), float(problem.cout[self.kind, net])
        if not self.strides.reach.made_first[net]:
            self.start += max(cin, cout)
            return
        if not level.inside[maker] and maker not in level.bit:
            return
        held = self.before[:, maker]
        self._lay_out_received(net, held & ~self.before[:, pins].all(axis=1), cin)
        waiting = [x for x in pins if not level.inside[x]]
        if not waiting or held.all():
            return
        if level.inside[maker]:
            self.start += cout * ~held
        else:
            self.adds[level.bit[maker]] += cout
        if all(x in level.bit for x in waiting):
            last, end = level.bit[max(waiting)], int(self.strides.ends_at[net])
            others = level.mask([x for x in waiting if level.bit[x] != last])
            self.closings[last].append(_Closing(~held, others, cout))
            if end in level.bit and not held.any():
                self.credit[: last + 1, level.bit[end]] += cout

    def _lay_out_received(self, net: int, received: Bools, cost: float) -> None:
        """Charge a net that was made before, until it is known that the stage does not read it."""
        level, pins = self.level, list(self.strides.problem.pins[net])
        self.start += cost * received
        surely = [x for x in pins if level.inside[x]]
        waiting = received & self.before[:, surely].all(axis=1)
        if not waiting.any():
            return
        ends = np.array(sorted(level.bit[x] for x in pins if x in level.bit), dtype=np.int64)
        missing = ~self.before[:, level.items[ends]]
        last = np.where(missing, ends, -1).max(axis=1, initial=-1)
        self.start -= cost * (waiting & (last < 0))
        for at in np.unique(last[waiting & (last >= 0)]).tolist():
            begins: Bools = waiting & (last == at)
            self._lay_out_unread(at, ends[missing[begins].any(axis=0)], begins, cost)

    def _lay_out_unread(self, last: int, ends: Ints, begins: Bools, cost: float) -> None:
        """Say when none of the ends of a net can be in: without what they all need, or after the last."""
        level, items = self.level, self.level.items[ends]
        nothing = level.mask([])
        common = np.flatnonzero(self.strides.reach.ancestors[np.ix_(items, level.items)].all(axis=0))
        common = common[(common < last) & ~self.before[begins][:, level.items[common]].any(axis=0)][-1:]
        for at in common.tolist():
            self.unread[at].append(_Unread(begins, nothing, nothing, cost))
        others = level.mask([x for x in items.tolist() if level.bit[x] != last])
        needed = level.mask(level.items[common].tolist())
        self.unread[last].append(_Unread(begins, needed, others, cost))

    def _bound(self) -> None:
        """What each open item may add from any decision on, once what it cannot do without is counted.

        An item that takes more back than it adds is counted with one that needs it.
        """
        level, n = self.level, len(self.level.items)
        after = np.arange(n)[None, :] >= np.arange(n + 1)[:, None]
        most = np.where(after, self.adds - self.credit, 0.0)
        free: Bools = np.asarray(~self.before[:, level.items].any(axis=0))
        for at, item in enumerate(level.items.tolist()):
            short = np.minimum(most[:, at], 0.0)
            needing = [level.bit[x] for x in self.strides.problem.succs[item] if x in level.bit]
            if free[at] and needing and short.any():
                most[:, max(needing, key=lambda x: most[0, x])] += short
                most[:, at] -= short
        most = np.maximum(most, 0.0)
        self.rest: Floats = most @ (~self.before[:, level.items]).astype(float).T
        self.most = most.astype(np.float32)
        needs = self.strides.reach.ancestors[np.ix_(level.items, level.items)]
        self.needing = [level.mask(level.items[rows].tolist()) for rows in needs.T]

    def take(self, rows: Reached, at: int) -> None:
        """Let an item in."""
        rows.value += self.adds[at]
        for closing in self.closings[at]:
            rows.value -= closing.cost * (closing.begins[rows.begin] & rows.all_in(closing.others))

    def leave(self, rows: Reached, at: int, possible: Bools) -> None:
        """Leave an item out, which is `possible` where all that it needs is in."""
        rows.left |= self.needing[at]
        for net in self.unread[at]:
            unread = rows.all_in(net.needed) & rows.none_added(net.others, self.bits)
            rows.value -= net.cost * (net.begins[rows.begin] & unread)
        extra = self.extra[at]
        if extra is not None:
            need = self.target - extra[rows.begin]
            rows.need = np.where(possible, np.maximum(rows.need, need), rows.need)

    def enough(self, rows: Reached, at: int) -> Bools:
        """Rows that may still come to cost what they need to, after one more decision."""
        most: Floats = rows.value + self.rest[at + 1][rows.begin]
        good: Bools = most > rows.need
        if at % _EVERY == 0 and len(rows) > _MANY and at + 1 < len(self.most):
            doubtful = np.flatnonzero(good & (rows.need > -np.inf))
            octets = rows.left[doubtful].view(np.uint8).reshape(len(doubtful), 8 * rows.left.shape[1])
            left = np.unpackbits(octets, axis=1, bitorder="little")[:, at + 1 : len(self.level.items)]
            with np.errstate(all="ignore"):  # BLAS may flag lanes beyond the ends of small matrices
                lost = (1 - _ROUNDING) * (left @ self.most[at + 1, at + 1 :])
            good[doubtful] = most[doubtful] - lost > rows.need[doubtful]
        return good
