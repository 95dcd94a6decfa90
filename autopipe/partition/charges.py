"""Which nets a downset of one level is charged for, whatever it holds besides what is known of it.

::

    level j-1    j    j+1      forward net    anchor in, an end out:  the stage before pays if it has the
      anchor  |  .  |  end                    anchor for sure, the one after if it has the end for sure,
              |     |                         both if little weighs beside them
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from autopipe.partition.problem import Floats, Ints
from autopipe.partition.reach import Bools, RootedNets


@dataclass(frozen=True, slots=True)
class CutNet:
    """A net at one level: charged once if its anchor and an end are on different sides.

    Args:
        anchor: The item that all ends depend on (forward), or that depends on them all.
        ends: The other items that can be apart from it.
        send: What the charge adds to ``send``.
        receive: What it adds to ``receive``.
        forward: The anchor comes first.
    """

    anchor: int
    ends: tuple[int, ...]
    send: float
    receive: float
    forward: bool


@dataclass(frozen=True, slots=True)
class CutNets:
    """The nets of a level, laid out one after the other; iterating goes through them one by one.

    Args:
        anchor: `[nets]`.
        send: `[nets]` ms.
        receive: `[nets]` ms.
        forward: `[nets]`.
        ends: All ends, net by net.
        net_of_end: Which net each is of.
    """

    anchor: Ints
    send: Floats
    receive: Floats
    forward: Bools
    ends: Ints
    net_of_end: Ints

    def __iter__(self) -> Iterator[CutNet]:
        """Each net with its ends."""
        starts = np.searchsorted(self.net_of_end, np.arange(len(self.anchor) + 1)).tolist()
        ends, forward = self.ends.tolist(), self.forward.tolist()
        costs = zip(self.send.tolist(), self.receive.tolist(), strict=True)
        for net, (anchor, (send, receive)) in enumerate(zip(self.anchor.tolist(), costs, strict=True)):
            part = tuple(ends[starts[net] : starts[net + 1]])
            yield CutNet(anchor, part, send, receive, forward[net])

    def and_then(self, other: CutNets) -> CutNets:
        """These nets, then those."""
        return CutNets(
            np.concatenate([self.anchor, other.anchor]),
            np.concatenate([self.send, other.send]),
            np.concatenate([self.receive, other.receive]),
            np.concatenate([self.forward, other.forward]),
            np.concatenate([self.ends, other.ends]),
            np.concatenate([self.net_of_end, other.net_of_end + len(self.anchor)]),
        )


@dataclass(frozen=True, slots=True)
class Sides:
    """What is known around one level, as seen from the roots of the nets.

    Args:
        near: Items that are on the side of the roots.
        far: Items that are on the other.
        root_beside: Items that the stage on the side of the roots has if it can; `far` of the next level.
        end_beside: Items that the stage on the other side has; `near` of the level beyond it.
        light: A stage beside the level weighs more.
    """

    near: Bools
    far: Bools
    root_beside: Bools
    end_beside: Bools
    light: float


def charged(nets: RootedNets, sides: Sides, *, forward: bool) -> CutNets:
    """The open nets of a level: one each if the same ends are charged both ways, else one each way.

    Args:
        nets: All that have their roots on one side.
        sides: What is known.
        forward: The roots come first.

    Returns:
        Their anchors and the ends that are not on the near side already.

    Complexity: linear in the ends.
    """
    net_of = nets.net_of_end
    free = ~sides.near[nets.ends] & ~sides.far[nets.root][net_of]
    alone = nets.aside <= sides.light
    by_root = free & (alone | sides.root_beside[nets.root][net_of])
    by_end = free & (alone | sides.end_beside[nets.ends])
    n_root, n_end = (np.bincount(net_of, weights=x, minlength=len(nets.root)) for x in (by_root, by_end))
    both = n_root == n_end
    of_root, of_end = (nets.send, nets.receive) if forward else (nets.receive, nets.send)
    once = by_root & (both | (of_root > 0))[net_of]
    again = by_end & (~both & (of_end > 0))[net_of]
    key = np.concatenate([2 * net_of[once], 2 * net_of[again] + 1])
    ends = np.concatenate([nets.ends[once], nets.ends[again]])
    order = np.argsort(key, kind="stable")
    keys, net_of_end = np.unique(key[order], return_inverse=True)
    net, second = keys // 2, keys % 2 == 1
    root_pays = np.where(second, 0.0, of_root[net])
    end_pays = np.where(second | both[net], of_end[net], 0.0)
    send, receive = (root_pays, end_pays) if forward else (end_pays, root_pays)
    return CutNets(nets.root[net], send, receive, np.full(len(net), forward), ends[order], net_of_end)
