r"""All downsets of a level that one stage within the target leads to from downsets of the level before.

::

    before   D1 ----------------+--> D1 + a b       what the stage costs is known exactly from D: a net
             D2 --- a b c open -+--> D1 + a c       that D cuts is received when its first reader is let
                                +--> D2 + a b       in, a net made since is sent when a reader is left out
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autopipe.partition.downsets import Downsets, Enumeration
from autopipe.partition.problem import Floats, Ints
from autopipe.partition.reach import Bools
from autopipe.partition.room import Room
from autopipe.partition.rows import Reached, Rows, Words
from autopipe.partition.strides import Strides
from autopipe.partition.windows import Windows


@dataclass(frozen=True, slots=True)
class _Charge:
    """A charge for letting an item in, or for leaving it out.

    Args:
        begins: Downsets before the stage that it may concern, `[begins]`.
        others: For letting in: none of those may be in the stage yet. For leaving out: all must be in.
        cost: Milliseconds.
    """

    begins: Bools
    others: Words
    cost: float


_NET = 20
"""Work of laying out what a net costs."""


def extend(
    windows: Windows, j: int, before: Downsets, cap: int, strides: Strides | None
) -> tuple[tuple[Downsets, Ints, Floats] | None, int]:
    """Enumerate one level from known downsets of the level before.

    Args:
        windows: The levels; transfers summed with compute, no memory limit.
        j: Which one.
        before: Downsets of level j - 1.
        cap: Give up beyond so many partial downsets.
        strides: What comes along with items; None: keep what leaves room for them too.

    Returns:
        The downsets but for those that leave room for a stride, each with the row that it comes from and
        the cost of the stage, milliseconds, or None beyond the cap; and the work that it took.

    Complexity: O(items * rows).
    """
    extensions = _Extensions(windows, j, cap, before.members(), strides)
    found = extensions.reach()
    return found, extensions.work * max(2, len(extensions.items) // 64) // 2 + _NET * windows.problem.m


class _Extensions(Enumeration):
    def __init__(self, windows: Windows, j: int, cap: int, before: Bools, strides: Strides | None) -> None:
        """Lay out what a stage costs for every beginning."""
        super().__init__(windows, j, cap)
        problem = windows.problem
        self.kind = problem.kind_of_stage[j - 1]
        self.before = before[~(before & windows.levels[j].outside).any(axis=1)]
        self.origin = np.flatnonzero(~(before & windows.levels[j].outside).any(axis=1))
        self.begin_bits = np.zeros((len(self.before), self.n_words), dtype=np.uint64)
        for at, item in enumerate(self.items.tolist()):
            held = self.before[:, item].astype(np.uint64)
            self.begin_bits[:, at // 64] |= held << np.uint64(at % 64)
        self.on_leaving: list[list[_Charge]] = [[] for _ in self.items]
        self.on_letting: list[list[_Charge]] = [[] for _ in self.items]
        self.sure: Floats = (self.inside & ~self.before) @ problem.weight[self.kind]
        self._lay_out_stage()
        self.room = Room(strides, self, self.before, self.begin_bits) if strides else None

    def _lay_out_stage(self) -> None:
        """Say what nets cost: of those without open pins at once, of the others when a pin is decided."""
        problem, reach = self.windows.problem, self.windows.reach
        self.unsure = np.flatnonzero(~reach.made_first).tolist()
        is_open = np.zeros(problem.n, dtype=bool)
        is_open[self.items] = True
        made = (self.inside | is_open)[problem.maker] & reach.made_first
        ends = problem.ends
        busy = np.bincount(ends.net_of, weights=is_open[ends.pins], minlength=problem.m) > 0
        self._add_decided(made & ~busy)
        for net in np.flatnonzero(made & busy).tolist():
            maker = int(problem.maker[net])
            readers = [x for x in problem.pins[net] if x != maker]
            held = self.before[:, maker]
            if held.any():
                self._lay_out_received(readers, held, float(problem.cin[self.kind, net]))
            if not held.all():
                self._lay_out_sent(maker, readers, ~held, float(problem.cout[self.kind, net]))

    def _add_decided(self, nets: Bools) -> None:
        """Add what nets cost whose makers are in and of whose readers none is open."""
        problem = self.windows.problem
        pins = problem.ends.pins[nets[problem.ends.net_of]]
        size, chosen = problem.ends.size[nets], np.flatnonzero(nets)
        if not len(chosen):
            return
        starts = np.cumsum(size) - size
        held = self.before[:, problem.maker[chosen]]
        arrives = held & np.logical_or.reduceat((self.inside & ~self.before)[:, pins], starts, axis=1)
        leaves = ~held & np.logical_or.reduceat(~self.inside[pins], starts)
        self.sure += arrives @ problem.cin[self.kind, chosen] + leaves @ problem.cout[self.kind, chosen]

    def _lay_out_received(self, readers: list[int], made: Bools, cost: float) -> None:
        surely = [x for x in readers if self.inside[x]]
        received = made & (~self.before[:, surely]).any(axis=1)
        self.sure += cost * received
        if (waiting := made & ~received).any():
            ends = sorted(x for x in readers if x in self.bit)
            for end, earlier in zip(ends, self.prefixes(ends), strict=True):
                self.on_letting[self.bit[end]].append(_Charge(waiting, earlier, cost))

    def _lay_out_sent(self, maker: int, readers: list[int], made: Bools, cost: float) -> None:
        if any(not self.inside[x] and x not in self.bit for x in readers):
            if self.inside[maker]:
                self.sure += cost * made
            else:
                self.on_letting[self.bit[maker]].append(_Charge(made, self.mask([]), cost))
            return
        ends = sorted(x for x in readers if x in self.bit)
        root = self.mask([] if self.inside[maker] else [maker])
        for end, earlier in zip(ends, self.prefixes(ends), strict=True):
            self.on_leaving[self.bit[end]].append(_Charge(made, root | earlier, cost))

    def reach(self) -> tuple[Downsets, Ints, Floats] | None:
        """The downsets, each with its beginning and the cost of the stage; None beyond the cap."""
        rows = self._start()
        for at, item in enumerate(self.items.tolist()):
            rows = self._branch(rows, at, item)
            self.work += len(rows)
            if len(rows) > self.cap:
                return None
            if not len(rows):
                break
        rows = self._exactly(self._prune(rows))
        rows = rows.take((rows.cost <= self.windows.target) & (rows.cost > rows.need))
        send, receive = rows.weight + rows.send, rows.weight - rows.receive
        downsets = Downsets(self.items, self.inside, rows.bits, rows.weight, send, receive)
        return downsets, self.origin[rows.begin], rows.cost

    def _start(self) -> Reached:
        """One row a beginning."""
        weight, n = self.windows.reach.weight, len(self.before)
        start = (self.before | self.inside) @ weight
        left = (~self.before[:, self.items]) @ weight[self.items]
        constants = [np.repeat(part[:, None], n, axis=1) for part in self.constants]
        rows = Rows(self.begin_bits.copy(), start, start + left, constants[0], constants[1])
        start_value = self.room.start.copy() if self.room else np.zeros(n)
        none_out: Words = np.zeros(rows.bits.shape, dtype=np.uint64)
        return Reached(rows, np.arange(n), self.sure.copy(), start_value, np.full(n, -np.inf), none_out)

    def _branch(self, rows: Reached, at: int, item: int) -> Reached:
        """Let an item in or leave it out, where it is not in from the beginning."""
        bit = self.mask([item])
        weight = float(self.windows.reach.weight[item])
        known = rows.any_in(bit)
        before, free = (rows.take(known), rows.take(~known)) if known.any() else (None, rows)
        preds = [p for p in self.windows.reach.preds[item] if p in self.bit]
        possible = free.all_in(self.mask(preds))
        included = free.take(possible)
        self._include(included, at, weight)
        included.cost += self.windows.problem.weight[self.kind, item]
        if self.room:
            self.room.take(included, at)
            self.room.leave(free, at, possible)
        for charge in self.on_letting[at]:
            fresh = included.none_added(charge.others, self.begin_bits)
            included.cost += charge.cost * (charge.begins[included.begin] & fresh)
        self._exclude(free, at, weight)
        for charge in self.on_leaving[at]:
            free.cost += charge.cost * (charge.begins[free.begin] & free.all_in(charge.others))
        after = self._followed(free, at).join(self._followed(included, at))
        if before is None:
            return after
        self._include(before, at, 0.0)
        return after.join(self._followed(before, at))

    def _followed(self, rows: Reached, at: int) -> Reached:
        """Rows that may lead to a downset worth keeping."""
        rows = self._prune(rows)
        if self.room is None:
            return rows
        good = self.room.enough(rows, at)
        return rows if good.all() else rows.take(good)

    def _prune(self, rows: Reached) -> Reached:  # type: ignore[override]
        good = self._allowed(rows) & (rows.cost <= self.windows.target + self.windows.slack)
        return rows if good.all() else rows.take(good)

    def _exactly(self, rows: Reached) -> Reached:
        """Add the nets whose makers do not come first."""
        if not self.unsure:
            return rows
        problem, kind = self.windows.problem, self.kind
        for net in self.unsure:
            pins = list(problem.pins[net])
            held = np.repeat(self.inside[pins][None, :], len(rows), axis=0)
            for column, pin in enumerate(pins):
                if pin in self.bit:
                    held[:, column] = rows.any_in(self.mask([pin]))
            stage = held & ~self.before[:, pins][rows.begin]
            made = stage[:, pins.index(int(problem.maker[net]))]
            cost = np.where(made, problem.cout[kind, net], problem.cin[kind, net])
            rows.cost = rows.cost + cost * (stage.any(axis=1) & ~stage.all(axis=1))
        return rows
