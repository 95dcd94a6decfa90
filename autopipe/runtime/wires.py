"""One tensor from one rank to another: through the host's memory, or over a lane between two devices.

::

    host     [ elements ][ flags ]                      one message over gloo
    lane     elements from device to device, flags over gloo; no elements where the flags tell of none

Both ends choose alike, by where their devices are. A receive is posted before anybody knows when its message
comes: over a lane that of the flags.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch

from autopipe.runtime import lanes as known
from autopipe.runtime.lanes import Lanes
from autopipe.runtime.peers import Peers
from autopipe.runtime.tensor_bytes import (
    NOTHING,
    Flags,
    Layout,
    flags_for,
    flags_of,
    order_for,
    order_of,
    packed,
    tail_alone,
    write_elements,
)


@dataclass(frozen=True, slots=True)
class Sent:
    """A message on its way.

    Args:
        flags: What the receiver is told.
        wait: Waits until the message is gone.
        is_gone: Whether ``wait`` returns at once, given that the receiver has begun to receive it.
    """

    flags: Flags
    wait: Callable[[], None]
    is_gone: Callable[[], bool]


Receive = Callable[[str], tuple[Flags, torch.Tensor]]
"""Waits for a message, which it calls by the name given; the tensor is right if the flags say that it is."""


class Wires:
    """Sends tensors to other ranks, and receives them.

    Args:
        peers: The ranks.
        lanes: Those between devices.
        device: Where messages over a lane are put together.
    """

    def __init__(self, peers: Peers, lanes: Lanes, device: torch.device) -> None:
        """Start with nothing under way."""
        self._peers, self._lanes, self._device = peers, lanes, device

    def open(self, pairs: Collection[tuple[int, int]]) -> None:
        """Prepare for messages between pairs of ranks (from, to); every rank makes the same call."""
        self._lanes.open(pairs)

    def send(
        self, tensor: torch.Tensor | None, agreed: Layout, peer: int, tag: int, *, requires_grad: bool
    ) -> Sent:
        """Start to send a copy of a tensor, or word that there is none.

        Args:
            tensor: Of any strides, on any device.
            agreed: The layout that the receiver expects; of a tensor of another one only the flags are sent.
            peer: The receiver.
            tag: Messages of one tag arrive in order.
            requires_grad: Whether what arrives should.

        Returns:
            The message.
        """
        if not self._lanes.reaches(peer):
            return self.send_bytes(packed(tensor, agreed, requires_grad=requires_grad), peer, tag)
        flags = flags_for(tensor, agreed, requires_grad=requires_grad)
        if tensor is None or Flags.OTHER_LAYOUT in flags or not agreed.nbytes:
            return self.send_bytes(tail_alone(flags), peer, tag)
        elements = torch.empty(agreed.nbytes, dtype=torch.uint8, device=self._device)
        order = order_for(tensor)
        write_elements(tensor, agreed, elements, order)
        work = self._lanes.send(elements, peer)
        wait_flags = self._peers.send(tail_alone(flags, order), peer, tag)

        def wait(_kept: torch.Tensor = elements) -> None:
            wait_flags()
            self._lanes.wait_gone(work, peer)

        return Sent(flags, wait, lambda: self._lanes.is_gone(work))

    def send_bytes(self, message: torch.Tensor, peer: int, tag: int) -> Sent:
        """Start to send bytes that end with flags, through the host."""
        return Sent(flags_of(message), self._peers.send(message, peer, tag), lambda: True)

    def post(self, layout: Layout, peer: int, tag: int) -> Receive:
        """Start to receive a message.

        Args:
            layout: As agreed with the sender.
            peer: The sender.
            tag: As for ``send``.

        Returns:
            A function that waits for it.
        """
        if not self._lanes.reaches(peer):
            return self._posted_on_host(layout, peer, tag)
        buffer = NOTHING.buffer()
        wait_flags = self._peers.post(buffer, peer, tag)

        def receive(what: str) -> tuple[Flags, torch.Tensor]:
            wait_flags(what)
            flags = flags_of(buffer)
            if Flags.THERE not in flags or Flags.OTHER_LAYOUT in flags or not layout.nbytes:
                return flags, layout.view(torch.empty(layout.nbytes, dtype=torch.uint8, device=self._device))
            elements = self._lanes.receive(layout.nbytes, peer, what)
            return flags, layout.view(elements, order_of(buffer, layout))

        return receive

    def _posted_on_host(self, layout: Layout, peer: int, tag: int) -> Receive:
        buffer = layout.buffer()
        wait = self._peers.post(buffer, peer, tag)

        def receive(what: str) -> tuple[Flags, torch.Tensor]:
            wait(what)
            return flags_of(buffer), layout.view(buffer, order_of(buffer, layout))

        return receive

    def finish(self) -> None:
        """Wait until everything that was received is there, on the device too."""
        self._lanes.finish()


def wires_between(peers: Peers, device: torch.device) -> Wires:
    """Find out which ranks have lanes between them; every rank makes the same call, before it connects.

    Args:
        peers: The ranks.
        device: This rank's.

    Returns:
        The wires of this rank.

    Raises:
        AutopipeError: The first cause, if a rank fails or does not come in time.
    """
    kind = known.lane_kind(device)
    places = [place.decode() for place in peers.introduce(kind.place.encode(), "place")]
    lanes = Lanes(kind, device, places, peers.rank)
    peers.use(lanes)
    return Wires(peers, lanes, device)
