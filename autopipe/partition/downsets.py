r"""All downsets of one level, by include and exclude over a topological order, as rows of packed bits.

::

    open items   a  b  c        excluded a: b and c are excluded with it, no branching
                / \
              1  .  0           every row carries: weight so far, weight still possible, charges so far;
            b  c  ...           a row that breaks (1) or (2) of `windows` on any relaxation is dropped
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autopipe.partition.charges import CutNet
from autopipe.partition.problem import Floats, Ints
from autopipe.partition.reach import Bools
from autopipe.partition.rows import Rows, Words
from autopipe.partition.windows import Windows


@dataclass(slots=True)
class Downsets:
    """The downsets that a level leaves.

    Args:
        items: The open items; bit i of a row is ``items[i]``. Other items are in or out by ``inside``.
        inside: Items that every downset contains, `[n]`.
        bits: `[rows, words]`.
        weight: `[rows]` ms.
        send: ``weight + send`` by relaxation, `[relaxations, rows]`.
        receive: ``weight - receive`` by relaxation, `[relaxations, rows]`.
    """

    items: Ints
    inside: Bools
    bits: Words
    weight: Floats
    send: Floats
    receive: Floats

    def __len__(self) -> int:
        """Number of downsets."""
        return len(self.weight)

    def keep(self, rows: Bools | Ints) -> Downsets:
        """Only those rows."""
        return Downsets(
            self.items,
            self.inside,
            self.bits[rows],
            self.weight[rows],
            self.send[:, rows],
            self.receive[:, rows],
        )

    def matrix(self) -> Bools:
        """Membership of the open items, `[rows, items]`."""
        octets = self.bits.view(np.uint8).reshape(len(self), 8 * self.bits.shape[1])
        return np.unpackbits(octets, axis=1, bitorder="little")[:, : len(self.items)].astype(bool)

    def members(self) -> Bools:
        """Membership of all items, `[rows, n]`."""
        members = np.repeat(self.inside[None, :], len(self), axis=0)
        members[:, self.items] = self.matrix()
        return members

    def narrow(self, windows: Windows, j: int) -> None:
        """Narrow the window of a level to what these downsets have in common."""
        level, members = windows.levels[j], self.members()
        level.inside |= members.all(axis=0)
        level.outside |= ~members.any(axis=0)
        level.heaviest = min(level.heaviest, float(self.weight.max()))
        level.lightest = max(level.lightest, float(self.weight.min()))
        if not windows.overlap:
            for r in range(len(level.most)):
                level.most[r] = min(level.most[r], float(self.receive[r].max()))
                level.least[r] = max(level.least[r], float(self.send[r].min()))

    def rows(self) -> Rows:
        """The same as rows that are complete."""
        weight = self.weight
        return Rows(self.bits, weight, weight, self.send - weight, weight - self.receive)


def lone_downset(windows: Windows, *, everything: bool) -> Downsets:
    """The one downset of level 0 (nothing) or k (everything)."""
    n_relax, total = len(windows.light), windows.reach.total if everything else 0.0
    return Downsets(
        np.zeros(0, dtype=np.int64),
        np.full(windows.problem.n, everything),
        np.zeros((1, 1), dtype=np.uint64),
        np.full(1, total),
        np.full((n_relax, 1), total),
        np.full((n_relax, 1), total),
    )


class Enumeration:
    """Enumerates one level.

    Args:
        windows: The levels.
        j: Which one.
        cap: Give up beyond so many partial downsets.
        budget: Give up beyond so many rows looked at.
    """

    def __init__(self, windows: Windows, j: int, cap: int, budget: float = np.inf) -> None:
        """Lay out items, masks and charges."""
        self.windows, self.j, self.cap, self.budget = windows, j, cap, budget
        self.limits()
        if not cap:
            return
        level = windows.levels[j]
        self.inside = level.inside.copy()
        self.items: Ints = np.flatnonzero(~level.inside & ~level.outside)
        self.bit = {int(item): i for i, item in enumerate(self.items)}
        self.n_words = max(1, -(-len(self.items) // 64))
        self.work = 0
        n_relax = len(windows.light)
        self.constants = np.zeros((2, n_relax))
        self.on_exclude: list[list[tuple[Words, bool, Words, int, float, float]]] = [[] for _ in self.items]
        self.on_include: list[list[tuple[int, float, float, Words]]] = [[] for _ in self.items]
        for r, light in enumerate(windows.light):
            for net in windows.charges(j, light):
                self._lay_out(net, r)

    def still_allowed(self, downsets: Downsets) -> Bools:
        """Which downsets of an earlier run the windows allow by now."""
        level = self.windows.levels[self.j]
        members = downsets.matrix()
        rows = downsets.rows()
        good = self._allowed(rows)
        good &= members[:, level.inside[downsets.items]].all(axis=1)
        good &= ~members[:, level.outside[downsets.items]].any(axis=1)
        return good

    def limits(self) -> None:
        """Right sides of the rules, by relaxation."""
        windows, j = self.windows, self.j
        before, level, after = windows.levels[j - 1], windows.levels[j], windows.levels[j + 1]
        slack = windows.slack
        never = -np.inf
        self.upper = np.array(before.most) + windows.target + slack
        self.lighter = np.array(
            [before.heaviest + e + slack if windows.may_be_light(j, e) else never for e in windows.light]
        )
        self.lower = np.array(after.least) - windows.target - slack
        self.heavier = np.array(
            [after.lightest - e - slack if windows.may_be_light(j + 1, e) else -never for e in windows.light]
        )
        self.heaviest, self.lightest = level.heaviest + slack, level.lightest - slack

    def mask(self, items: list[int]) -> Words:
        """Some of the open items as bits."""
        mask: Words = np.zeros(self.n_words, dtype=np.uint64)
        for item in items:
            at = self.bit[item]
            mask[at // 64] |= np.uint64(1) << np.uint64(at % 64)
        return mask

    def prefixes(self, items: list[int]) -> Words:
        """What comes before each of some open items, as bits, `[len(items), words]`."""
        masks: Words = np.zeros((len(items), self.n_words), dtype=np.uint64)
        for at, item in enumerate(items[:-1]):
            masks[at + 1] = masks[at] | self.mask([item])
        return masks

    def _lay_out(self, net: CutNet, r: int) -> None:
        """Say at which decision a net is charged, and what else must hold."""
        level = self.windows.levels[self.j]
        inside, outside = level.inside, level.outside
        if net.forward:
            if any(outside[x] for x in net.ends):
                if inside[net.anchor]:
                    self.constants[:, r] += net.send, net.receive
                else:
                    self.on_include[self.bit[net.anchor]].append((r, net.send, net.receive, self.mask([])))
                return
            root = self.mask([] if inside[net.anchor] else [net.anchor])
            ends = sorted(x for x in net.ends if not inside[x])
            for end, earlier in zip(ends, self.prefixes(ends), strict=True):
                self.on_exclude[self.bit[end]].append((root, True, earlier, r, net.send, net.receive))
            return
        if any(inside[x] for x in net.ends):
            if outside[net.anchor]:
                self.constants[:, r] += net.send, net.receive
            else:
                none = self.mask([])
                self.on_exclude[self.bit[net.anchor]].append((none, True, none, r, net.send, net.receive))
            return
        ends = sorted(x for x in net.ends if not outside[x])
        if outside[net.anchor]:
            for end, earlier in zip(ends, self.prefixes(ends), strict=True):
                self.on_include[self.bit[end]].append((r, net.send, net.receive, earlier))
            return
        some = self.mask(ends)
        none = self.mask([])
        self.on_exclude[self.bit[net.anchor]].append((some, False, none, r, net.send, net.receive))

    def run(self) -> Downsets | None:
        """All downsets of the level, or None beyond the cap.

        Complexity: O(items * rows); `work` counts them.
        """
        windows = self.windows
        weight = windows.reach.weight
        start = float(weight[self.inside].sum())
        rows = Rows(
            np.zeros((1, self.n_words), dtype=np.uint64),
            np.full(1, start),
            np.full(1, start + float(weight[self.items].sum())),
            self.constants[0][:, None].copy(),
            self.constants[1][:, None].copy(),
        )
        for at, item in enumerate(self.items.tolist()):
            preds = [p for p in windows.reach.preds[item] if p in self.bit]
            open_rows = rows.all_in(self.mask(preds)) if preds else np.ones(len(rows.weight), dtype=bool)
            some = bool(open_rows.any())
            included = rows.take(open_rows) if some else None
            self._exclude(rows, at, float(weight[item]))
            rows = self._prune(rows)
            if included is not None:
                self._include(included, at, float(weight[item]))
                included = self._prune(included)
                rows = rows.join(included) if len(rows.weight) else included
            self.work += len(rows.weight)
            if len(rows.weight) > self.cap or self.work > self.budget:
                return None
            if not len(rows.weight):
                break
        rows = self._prune(rows)
        return Downsets(
            self.items,
            self.inside,
            rows.bits,
            rows.weight,
            rows.weight + rows.send,
            rows.weight - rows.receive,
        )

    def _exclude(self, rows: Rows, at: int, weight: float) -> None:
        rows.possible -= weight
        for root, all_of, ends, r, send, receive in self.on_exclude[at]:
            charged = rows.all_in(root) if all_of else rows.any_in(root)
            if ends.any():
                charged &= rows.all_in(ends)
            if send:
                rows.send[r] += send * charged
            if receive:
                rows.receive[r] += receive * charged

    def _include(self, rows: Rows, at: int, weight: float) -> None:
        for r, send, receive, earlier in self.on_include[at]:
            charged = ~rows.any_in(earlier)
            rows.send[r] += send * charged
            rows.receive[r] += receive * charged
        rows.bits[:, at // 64] |= np.uint64(1) << np.uint64(at % 64)
        rows.weight += weight

    def _prune(self, rows: Rows) -> Rows:
        good = self._allowed(rows)
        return rows if good.all() else rows.take(good)

    def _allowed(self, rows: Rows) -> Bools:
        """Rules (1) and (2) on every relaxation."""
        weight, possible = rows.weight, rows.possible
        good: Bools = (weight <= self.heaviest) & (possible >= self.lightest)
        if self.windows.overlap:
            most = self.windows.target + self.windows.slack
            good &= ((rows.send <= most) | (weight <= self.lighter[:, None])).all(axis=0)
            good &= ((rows.receive <= most) | (possible >= self.heavier[:, None])).all(axis=0)
            return good
        for r in range(len(self.upper)):
            good &= (weight + rows.send[r] <= self.upper[r]) | (weight <= self.lighter[r])
            good &= (possible - rows.receive[r] >= self.lower[r]) | (possible >= self.heavier[r])
        return good
